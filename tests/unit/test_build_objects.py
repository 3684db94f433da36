"""All objects of a job, against expected YAML and the schemas of Kubernetes.

TANDEM_REWRITE_GOLDENS=1 writes the expected files anew: read the difference before you commit it.
"""

import os
from pathlib import Path

import kubernetes_validate
import pytest
import yaml
from tandem_core.coordination.access import EtcdAccess
from tandem_core.environment import PREFIX, PodEnvironment
from tandem_core.job import RLJob, RLJobStatus, load_job, parse_job
from tandem_core.phases import Phase
from tandem_operator.build import BuildSettings, KubernetesObject, build_objects, hybrid_pod_names

GOLDENS = Path(__file__).parent / "goldens"
KUBERNETES_VERSION = "1.36"
SETTINGS = BuildSettings(etcd_endpoints="etcd.tandem:2379", token="not-a-secret")
ETCD = EtcdAccess(
    endpoints=SETTINGS.etcd_endpoints,
    username="uid",
    password="not-a-secret",
    ca_certificate="CA",
    certificate="CERT",
    key="KEY",
)
MONITORED = SETTINGS.model_copy(
    update={"pod_monitor": True, "monitoring_namespace": "monitoring", "token": "", "etcd_files": ETCD.files()}
)
ENCRYPTED = SETTINGS.model_copy(
    update={"pod_monitor": True, "certificate_files": {"ca.crt": "CA", "tls.crt": "CERT", "tls.key": "KEY"}}
)
CASES = {
    "cpu": SETTINGS,
    "gpus": MONITORED,
    "overlays": SETTINGS,
    "postgresql": SETTINGS,
    "volcano": SETTINGS,
    "coscheduling": SETTINGS,
    "tls": ENCRYPTED,
}
UNKNOWN_TO_KUBERNETES = ("PodMonitor", "PodGroup")


def example(name: str) -> RLJob:
    return load_job(GOLDENS / "jobs" / f"{name}.yaml")


def build(name: str) -> dict[str, KubernetesObject]:
    """The objects of an example by kind/name."""
    return {f"{item['kind']}/{item['metadata']['name']}": item for item in build_objects(example(name), CASES[name])}


def pod_templates(objects: list[KubernetesObject]) -> list[KubernetesObject]:
    return [item["spec"]["template"] for item in objects if "template" in item.get("spec", {})]


def containers(template: KubernetesObject) -> list[KubernetesObject]:
    return template["spec"].get("initContainers", []) + template["spec"]["containers"]


@pytest.mark.parametrize("name", CASES)
def test_a_job_is_built_into_the_expected_objects(name: str) -> None:
    golden = GOLDENS / f"{name}.yaml"
    built = yaml.safe_dump_all(build_objects(example(name), CASES[name]), sort_keys=False, width=120)
    if os.environ.get("TANDEM_REWRITE_GOLDENS"):
        golden.write_text(built)
    assert list(yaml.safe_load_all(built)) == list(yaml.safe_load_all(golden.read_text()))


@pytest.mark.parametrize("name", CASES)
def test_kubernetes_knows_every_field(name: str) -> None:
    checked = [item for item in build_objects(example(name), CASES[name]) if item["kind"] not in UNKNOWN_TO_KUBERNETES]
    for item in checked:
        kubernetes_validate.validate(item, KUBERNETES_VERSION, strict=True)
    assert len(checked) > 8


@pytest.mark.parametrize("name", CASES)
def test_every_object_belongs_to_the_job(name: str) -> None:
    job = example(name)
    for item in build_objects(job, CASES[name]):
        assert item["metadata"]["namespace"] == job.metadata.namespace
        assert [owner["uid"] for owner in item["metadata"]["ownerReferences"]] == [job.metadata.uid]
        assert item["metadata"]["labels"]["tandem.dev/job"] == job.metadata.name


@pytest.mark.parametrize("name", CASES)
def test_pods_are_what_the_restricted_pod_security_standard_admits(name: str) -> None:
    templates = pod_templates(build_objects(example(name), CASES[name]))
    own = {"trainer", "inference", "master"}
    assert {container["name"] for template in templates for container in containers(template)} >= own - {"inference"}
    for template in templates:
        assert template["spec"]["securityContext"]["runAsNonRoot"] is True
        assert template["spec"]["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert template["spec"]["automountServiceAccountToken"] is False
        for container in containers(template):
            if container["name"] in own:
                assert container["securityContext"] == {
                    "allowPrivilegeEscalation": False,
                    "capabilities": {"drop": ["ALL"]},
                    "readOnlyRootFilesystem": True,
                }


@pytest.mark.parametrize("name", CASES)
def test_every_container_of_ours_can_read_its_environment(name: str) -> None:
    for template in pod_templates(build_objects(example(name), CASES[name])):
        volumes = {volume["name"] for volume in template["spec"]["volumes"]}
        for container in containers(template):
            assert {mount["name"] for mount in container.get("volumeMounts", [])} <= volumes
            if container["image"].startswith("example.com/"):
                continue
            values = {entry["name"]: entry.get("value", "10.0.0.1") for entry in container["env"]}
            environment = PodEnvironment.from_environment(values)
            assert environment.shm_dir == Path("/dev/shm/tandem")
            assert len(values) == len(container["env"])
            assert PREFIX + "POD_NAME" in values


def test_the_resolved_job_in_the_config_map_reads_back_and_does_not_change_while_the_job_runs() -> None:
    job = example("cpu")
    text = build("cpu")["ConfigMap/addition-job"]["data"]["job.yaml"]
    assert parse_job(text).spec == job.spec
    later = job.model_copy(
        update={"status": RLJobStatus(phase=Phase.DONE), "metadata": job.metadata.model_copy(update={"generation": 9})}
    )
    assert build_objects(later, SETTINGS) == build_objects(job, SETTINGS)


def test_trainer_and_engine_share_one_claim_of_all_the_pods_gpus() -> None:
    objects = build("gpus")
    template = objects["Job/math-32b-hybrid"]["spec"]["template"]["spec"]
    assert template["resourceClaims"] == [{"name": "devices", "resourceClaimTemplateName": "math-32b-hybrid"}]
    for container in (*template["initContainers"], *template["containers"]):
        assert container["resources"]["claims"] == [{"name": "devices"}]
    counts = {
        name: objects[f"ResourceClaimTemplate/math-32b-{name}"]["spec"]["spec"]["devices"]["requests"][0]["exactly"]
        for name in ("hybrid", "inference")
    }
    assert {name: exactly["count"] for name, exactly in counts.items()} == {"hybrid": 8, "inference": 8}


def test_torchrun_starts_a_process_for_each_rank_of_a_pod() -> None:
    trainer = build("gpus")["Job/math-32b-hybrid"]["spec"]["template"]["spec"]["containers"][0]
    assert trainer["command"][:3] == ["python", "-m", "torch.distributed.run"]
    assert {"--nnodes=2", "--nproc-per-node=8"} <= set(trainer["command"])
    assert hybrid_pod_names(example("gpus")) == ["math-32b-hybrid-0", "math-32b-hybrid-1"]


@pytest.mark.parametrize(("wish", "replicas"), [(None, 1), (0, 1), (3, 3), (9, 4)])
def test_inference_replicas_stay_within_the_elastic_bounds(wish: int | None, replicas: int) -> None:
    objects = build_objects(example("gpus"), SETTINGS, inference_replicas=wish)
    assert [item["spec"]["replicas"] for item in objects if item["kind"] == "Deployment"] == [replicas]


def test_without_elastic_max_there_is_no_deployment() -> None:
    assert not [name for name in build("cpu") if name.startswith("Deployment/")]


def test_a_suspended_job_has_suspended_jobs_and_no_inference_pods() -> None:
    objects = build("postgresql")
    assert objects["Job/shared-database-hybrid"]["spec"]["suspend"] is True
    assert objects["Job/shared-database-master"]["spec"]["suspend"] is True
    assert objects["Deployment/shared-database-inference"]["spec"]["replicas"] == 0


def test_a_queued_job_leaves_suspend_to_the_queue() -> None:
    hybrid = build("gpus")["Job/math-32b-hybrid"]
    assert hybrid["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "training"
    assert "suspend" not in hybrid["spec"]
    assert build("gpus")["Job/math-32b-master"]["spec"]["suspend"] is False

    assert [name for name in build("gpus") if name.startswith("Secret/")] == ["Secret/math-32b-etcd"]


@pytest.mark.parametrize(("name", "pods"), [("volcano", 3), ("coscheduling", 4)])
def test_hybrid_pods_and_the_master_are_one_gang(name: str, pods: int) -> None:
    built = build(name)
    group = next(item for item in built.values() if item["kind"] == "PodGroup")
    assert group["spec"]["minMember"] == pods
    members = 0
    for item in built.values():
        if item["kind"] == "Job":
            template = item["spec"]["template"]
            marks = {**template["metadata"]["labels"], **template["metadata"].get("annotations", {})}
            mark = {"volcano": "scheduling.k8s.io/group-name", "coscheduling": "scheduling.x-k8s.io/pod-group"}[name]
            assert marks[mark] == group["metadata"]["name"]
            assert template["spec"]["schedulerName"] in ("volcano", "scheduler-plugins-scheduler")
            members += item["spec"]["parallelism"]
    assert members == pods


def test_inference_pods_start_by_themselves_with_the_same_priority() -> None:
    inference = build("volcano")["Deployment/whole-nodes-inference"]["spec"]["template"]
    assert "schedulerName" not in inference["spec"]
    assert inference["spec"]["priorityClassName"] == "high"


def test_on_a_whole_node_one_container_asks_for_the_gpus_and_the_other_sees_them_all() -> None:
    objects = build("volcano")
    assert not [name for name in objects if name.startswith("ResourceClaimTemplate/")]
    pod = objects["Job/whole-nodes-hybrid"]["spec"]["template"]["spec"]
    assert "resourceClaims" not in pod
    assert pod["containers"][0]["resources"] == {"limits": {"nvidia.com/gpu": "8"}}
    assert "resources" not in pod["initContainers"][0]
    assert {"name": "NVIDIA_VISIBLE_DEVICES", "value": "all"} in pod["initContainers"][0]["env"]
    engine = objects["Deployment/whole-nodes-inference"]["spec"]["template"]["spec"]["containers"][0]
    assert engine["resources"] == {"limits": {"nvidia.com/gpu": "8"}}


def test_claims_and_secrets_that_the_user_has_are_not_made() -> None:
    assert not [name for name in build("overlays") if name.endswith("-checkpoints")]
    assert not [name for name in build("postgresql") if name.endswith("-data")]
    assert [name for name in build("gpus") if name.startswith("Secret/")] == ["Secret/math-32b-etcd"]


def test_bad_input_fails_the_job_at_once_and_evictions_do_not_count() -> None:
    for name in ("Job/addition-hybrid", "Job/addition-master"):
        rules = build("cpu")[name]["spec"]["podFailurePolicy"]["rules"]
        assert [rule["action"] for rule in rules] == ["FailJob", "Ignore"]
        assert rules[0]["onExitCodes"]["values"] == [3]


def test_the_masters_database_address_comes_from_the_users_secret() -> None:
    master = build("postgresql")["Job/shared-database-master"]["spec"]["template"]["spec"]["containers"][0]
    values = {entry["name"]: entry.get("valueFrom") for entry in master["env"]}
    assert values["TANDEM_DATABASE_URL"] == {"secretKeyRef": {"name": "replay-buffer", "key": "url"}}


def test_objects_of_a_job_that_is_not_in_kubernetes_can_be_applied_by_hand() -> None:
    job = example("cpu")
    without_uid = job.metadata.model_copy(update={"uid": ""})
    rendered = build_objects(job.model_copy(update={"metadata": without_uid}), SETTINGS)
    assert all("ownerReferences" not in built["metadata"] for built in rendered)
    uids = {
        entry["value"]
        for template in pod_templates(rendered)
        for container in containers(template)
        for entry in container["env"]
        if entry["name"] == "TANDEM_JOB_UID"
    }
    assert uids == {f"{job.metadata.namespace}.{job.metadata.name}"}
