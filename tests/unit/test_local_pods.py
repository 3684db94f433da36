"""From Kubernetes objects to processes of one machine."""

import base64
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

import pytest
from tandem_core.environment import PodEnvironment
from tandem_core.job import parse_job
from tandem_local.kubernetes_values import ObjectIndex, UnsupportedObject, expand_references
from tandem_local.places import Places, TooManyPods
from tandem_local.pods import LocalPod, build_workloads
from tandem_local.probe_specs import ExecCheck, HttpCheck, Probe, TcpCheck, parse_probe
from tandem_local.restart_policy import ContainerKind, RestartRule
from tandem_local.volumes import Mount, VolumeKind, translate_path
from tandem_operator.build import BuildSettings, build_objects

PLACES = Places("0123abcd", Path("/runs/addition"), IPv4Network("127.9.8.0/24"), Path("/home/me"))
TMP = PLACES.temporary

JOB = """
apiVersion: tandem.dev/v1alpha1
kind: RLJob
metadata: {name: addition, uid: 11112222-3333-4444-5555-666677778888}
spec:
  iterations: 2
  model: {scratch: {tokenizer: {tokens: ["0", "1", "+"]}}}
  data: {dataset: {path: prompts.jsonl}}
  rewards: {scorers: [{type: exact}]}
  hybrid: {device: cpu, replicas: 2, inference: {release: none, kvCacheBytes: 67108864}}
  elastic: {min: 1, max: 2}
"""


def job_with(**container: Any) -> list[dict[str, Any]]:
    """A ConfigMap, a Secret and a Job of one pod with this container."""
    volumes = container.pop("volumes", [])
    return [
        {"kind": "ConfigMap", "metadata": {"name": "settings"}, "data": {"a": "1", "b": "2"}},
        {"kind": "Secret", "metadata": {"name": "keys"}, "data": {"token": base64.b64encode(b"s3").decode()}},
        {
            "kind": "Job",
            "metadata": {"name": "work", "namespace": "ns"},
            "spec": {
                "completions": 1,
                "template": {
                    "metadata": {"labels": {"color": "red"}},
                    "spec": {
                        "restartPolicy": "Never",
                        "containers": [{"name": "main", "command": ["run"], **container}],
                        "volumes": volumes,
                    },
                },
            },
        },
    ]


def only_pod(objects: list[dict[str, Any]]) -> LocalPod:
    (workload,) = build_workloads(objects, PLACES)
    (pod,) = workload.pods
    return pod


def real_pods() -> dict[str, LocalPod]:
    objects = build_objects(parse_job(JOB), BuildSettings(etcd_endpoints="127.9.8.1:2379", token="secret"))
    return {pod.name: pod for workload in build_workloads(objects, PLACES) for pod in workload.pods}


def test_a_job_becomes_the_pods_kubernetes_would_make() -> None:
    pods = real_pods()
    assert {name: pod.address for name, pod in pods.items()} == {
        "addition-master-0": "127.9.8.2",
        "addition-hybrid-0": "127.9.8.3",
        "addition-hybrid-1": "127.9.8.4",
        "addition-inference-0": "127.9.8.5",
    }
    kinds = [(item.name, item.kind) for item in pods["addition-hybrid-0"].containers]
    assert kinds == [("inference", ContainerKind.SIDECAR), ("trainer", ContainerKind.MAIN)]
    assert pods["addition-inference-0"].restart_rule is RestartRule.ALWAYS


@pytest.mark.parametrize("name", ["addition-master-0", "addition-hybrid-1", "addition-inference-0"])
def test_every_container_gets_a_complete_environment_of_its_own_pod(name: str) -> None:
    pod = real_pods()[name]
    for container in pod.containers:
        environment = PodEnvironment.from_environment(container.environment)
        assert environment.pod_name == name
        assert environment.pod_ip == pod.address
        assert environment.etcd_endpoints == "127.9.8.1:2379"
        assert environment.shm_dir == PLACES.memory / name / "shm" / "tandem"
        job_volume = next(volume for volume in pod.volumes if volume.name == "job")
        assert environment.job_file.parent == job_volume.path
        assert b"addition" in job_volume.files[environment.job_file.name]
        token_volume = next(volume for volume in pod.volumes if volume.name == "token")
        assert token_volume.files == {environment.token_file.name: b"secret"}


def test_the_trainers_share_their_checkpoints_and_nothing_else() -> None:
    pods = real_pods()
    first, second = (
        PodEnvironment.from_environment(pods[name].containers[1].environment)
        for name in ("addition-hybrid-0", "addition-hybrid-1")
    )
    assert first.checkpoint_dir == second.checkpoint_dir == PLACES.volumes / "claims" / "addition-checkpoints"
    assert first.model_dir != second.model_dir
    assert first.shm_dir != second.shm_dir


def test_torchrun_is_told_the_pods_own_address() -> None:
    trainer = real_pods()["addition-hybrid-1"].containers[1]
    assert "--local-addr=127.9.8.4" in trainer.command
    assert trainer.command[:3] == ("python", "-m", "torch.distributed.run")


def test_probes_ask_the_pods_own_address() -> None:
    master = real_pods()["addition-master-0"].containers[0]
    assert master.liveness is not None
    assert master.liveness.check == HttpCheck("http://127.9.8.2:8000/healthz")


def test_variables_come_from_fields_secrets_and_config_maps() -> None:
    def source(kind: str, **reference: Any) -> dict[str, Any]:
        return {"valueFrom": {kind: reference}}

    pod = only_pod(
        job_with(
            envFrom=[{"prefix": "S_", "configMapRef": {"name": "settings"}}],
            env=[
                {"name": "NAME", **source("fieldRef", fieldPath="metadata.name")},
                {"name": "NAMESPACE", **source("fieldRef", fieldPath="metadata.namespace")},
                {"name": "COLOR", **source("fieldRef", fieldPath="metadata.labels['color']")},
                {"name": "TOKEN", **source("secretKeyRef", name="keys", key="token")},
                {"name": "B", **source("configMapKeyRef", name="settings", key="b")},
                {"name": "GONE", **source("secretKeyRef", name="other", key="token", optional=True)},
                {"name": "BOTH", "value": "$(NAME):$(TOKEN):$(UNKNOWN):$$(NAME)"},
            ],
        )
    )
    assert pod.containers[0].environment == {
        "S_a": "1",
        "S_b": "2",
        "NAME": "work-0",
        "NAMESPACE": "ns",
        "COLOR": "red",
        "TOKEN": "s3",
        "B": "2",
        "BOTH": "work-0:s3:$(UNKNOWN):$(NAME)",
    }


def test_paths_below_mounts_become_paths_of_this_machine() -> None:
    pod = only_pod(
        job_with(
            command=["tool", "/data/in", "--out=/data/deep/out", "/database", "$(CACHE)/x"],
            workingDir="/data",
            env=[{"name": "CACHE", "value": "/cache"}, {"name": "TEXT", "value": "see /data"}],
            volumeMounts=[
                {"name": "kept", "mountPath": "/data"},
                {"name": "scratch", "mountPath": "/data/deep/"},
                {"name": "scratch", "mountPath": "/cache", "subPath": "sub"},
                {"name": "scratch2", "mountPath": "/tmp"},
            ],
            volumes=[
                {"name": "kept", "persistentVolumeClaim": {"claimName": "claim"}},
                {"name": "scratch", "emptyDir": {}},
                {"name": "scratch2", "emptyDir": {}},
            ],
        )
    )
    kept, scratch = "/runs/addition/volumes/claims/claim", "/runs/addition/volumes/pods/work-0/scratch"
    container = pod.containers[0]
    assert container.command == ("tool", f"{kept}/in", f"--out={scratch}/out", "/database", f"{scratch}/sub/x")
    assert container.working_directory == kept
    assert container.environment == {"CACHE": f"{scratch}/sub", "TEXT": "see /data"}
    assert {volume.name: (volume.kind, volume.path) for volume in pod.volumes} == {
        "kept": (VolumeKind.KEPT, Path(kept)),
        "scratch": (VolumeKind.POD, Path(scratch)),
        "scratch2": (VolumeKind.POD, TMP / "1"),
    }


@pytest.mark.parametrize(
    ("text", "expected"),
    [("/a", "/x"), ("/a/b", "/y"), ("/a/b/c", "/y/c"), ("/ab", "/ab"), ("--k=/a/c", "--k=/x/c"), ("k=/a", "k=/a")],
)
def test_the_innermost_mount_wins(text: str, expected: str) -> None:
    assert translate_path(text, [Mount("/a/b", Path("/y")), Mount("/a", Path("/x"))]) == expected


def test_chosen_entries_of_a_secret_become_files() -> None:
    pod = only_pod(
        job_with(
            volumes=[
                {"name": "one", "secret": {"secretName": "keys", "items": [{"key": "token", "path": "deep/t"}]}},
                {
                    "name": "two",
                    "projected": {"sources": [{"configMap": {"name": "settings"}}, {"secret": {"name": "keys"}}]},
                },
            ]
        )
    )
    assert [dict(volume.files) for volume in pod.volumes] == [
        {"deep/t": b"s3"},
        {"a": b"1", "b": b"2", "token": b"s3"},
    ]


@pytest.mark.parametrize(
    ("container", "message"),
    [
        ({"env": [{"name": "X", "valueFrom": {"fieldRef": {"fieldPath": "status.hostname"}}}]}, "status.hostname"),
        ({"env": [{"name": "X", "valueFrom": {"secretKeyRef": {"name": "nope", "key": "k"}}}]}, "secrets/nope/"),
        ({"env": [{"name": "X", "valueFrom": {"secretKeyRef": {"name": "keys", "key": "k"}}}]}, "it has token"),
        ({"volumes": [{"name": "v", "nfs": {"server": "s", "path": "/"}}]}, "of kind nfs"),
        ({"livenessProbe": {"grpc": {"port": 1}}}, "none of httpGet"),
        ({"livenessProbe": {"tcpSocket": {"port": "web"}}}, "port 'web'"),
    ],
)
def test_what_one_machine_does_not_have_is_named(container: dict[str, Any], message: str) -> None:
    with pytest.raises(UnsupportedObject, match=message):
        build_workloads(job_with(**container), PLACES)


def test_probe_defaults_are_those_of_kubernetes() -> None:
    probe = parse_probe({"tcpSocket": {"port": "web"}}, [{"name": "web", "containerPort": 80}], "127.1.1.1")
    assert probe == Probe(TcpCheck("127.1.1.1", 80), period_seconds=10, failure_threshold=3, success_threshold=1)
    probe = parse_probe({"exec": {"command": ["true"]}, "timeoutSeconds": 9, "initialDelaySeconds": 2}, [], "")
    assert probe == Probe(ExecCheck(("true",)), initial_delay_seconds=2, timeout_seconds=9)


def test_suspended_jobs_have_no_pods() -> None:
    objects = job_with()
    objects[-1]["spec"]["suspend"] = True
    assert [workload.pods for workload in build_workloads(objects, PLACES)] == [()]


def test_pods_get_as_many_gpus_as_their_claims_ask_for() -> None:
    text = JOB.replace("device: cpu", "device: gpu, ranksPerReplica: 2").replace("release: none, ", "")
    objects = build_objects(parse_job(text), BuildSettings(etcd_endpoints="e:1", token="t"))
    devices = {pod.name: pod.devices for workload in build_workloads(objects, PLACES) for pod in workload.pods}
    assert devices["addition-master-0"] == 0
    assert devices["addition-hybrid-0"] == devices["addition-hybrid-1"] == 2


def test_more_pods_than_addresses_are_refused() -> None:
    objects = job_with()
    objects[-1]["spec"]["completions"] = 300
    with pytest.raises(TooManyPods, match=r"spec\.hybrid\.replicas"):
        build_workloads(objects, PLACES)


def test_references_to_unknown_names_stay() -> None:
    assert expand_references("$(A) $(B) $$(A) $A", {"A": "1"}) == "1 $(B) $(A) $A"


def test_secrets_are_decoded_and_plain_strings_are_not() -> None:
    index = ObjectIndex.of(
        [
            {
                "kind": "Secret",
                "metadata": {"name": "s"},
                "data": {"a": base64.b64encode(b"x").decode()},
                "stringData": {"b": "y"},
            }
        ]
    )
    assert index.data("Secret", "s") == {"a": b"x", "b": b"y"}
