"""The sandbox's objects on Kubernetes: what they may do, who may ask them, what they are scaled by."""

from collections.abc import Iterator
from functools import cache
from types import SimpleNamespace

import pytest
import yaml
from tandem_core.job import load_job
from tandem_core.sandbox.deployment import QUEUE_METRIC, SANDBOX_CAPABILITIES
from tandem_operator.build import BuildSettings, Component, KubernetesObject, build_objects
from tandem_operator.generate.values import SANDBOX_POOL
from tandem_sandbox.__main__ import build_parser
from tandem_sandbox.metrics import ServiceCollector

from tools.chart import ROOT, SANDBOX, render_chart

NAMESPACE = "tandem-sandbox"


@cache
def render(*settings: str) -> dict[str, KubernetesObject]:
    """The sandbox's objects by kind."""
    objects = [each for each in yaml.safe_load_all(render_chart([*SANDBOX, *settings])) if each]
    return {each["kind"]: each for each in objects if NAMESPACE in each["metadata"].get("namespace", "")}


def pod(*settings: str) -> KubernetesObject:
    """The pod's template."""
    return dict(render(*settings)["Deployment"]["spec"]["template"])


def pods_of_a_job() -> Iterator[tuple[str, dict[str, str]]]:
    """Component and labels of each kind of pod."""
    job = load_job(ROOT / "tests/unit/goldens/jobs/cpu.yaml")
    for item in build_objects(job, BuildSettings(etcd_endpoints="etcd:2379")):
        if "template" in item.get("spec", {}) and item["kind"] != "ResourceClaimTemplate":
            labels = item["spec"]["template"]["metadata"]["labels"]
            yield labels["app.kubernetes.io/component"], labels


def test_a_pod_is_root_with_the_listed_capabilities_and_nothing_else() -> None:
    (container,) = pod()["spec"]["containers"]
    security = container["securityContext"]
    assert security["capabilities"] == {"drop": ["ALL"], "add": list(SANDBOX_CAPABILITIES)}
    assert security["readOnlyRootFilesystem"]
    assert not {"privileged", "procMount"} & security.keys()
    assert not {"hostNetwork", "hostPID", "hostIPC"} & pod()["spec"].keys()
    assert not any("hostPath" in volume for volume in pod()["spec"]["volumes"])
    assert pod()["spec"]["automountServiceAccountToken"] is False


def test_the_docs_name_every_capability() -> None:
    page = (ROOT / "docs/sandbox.md").read_text()
    assert [name for name, reason in SANDBOX_CAPABILITIES.items() if f"| {name} | {reason} |" not in page] == []


def test_the_service_understands_what_its_pod_says() -> None:
    (container,) = pod()["spec"]["containers"]
    given = build_parser().parse_args(container["args"])
    assert {port["name"]: port["containerPort"] for port in container["ports"]} == {
        "http": given.port,
        "metrics": given.metrics_port,
    }
    mounts = {mount["mountPath"] for mount in container["volumeMounts"]}
    assert {str(given.token_file.parent), str(given.home)} <= mounts
    assert render()["Service"]["spec"]["ports"][0]["port"] == given.port


def test_only_masters_may_ask_and_programs_reach_nothing() -> None:
    spec = render()["NetworkPolicy"]["spec"]
    asking = spec["ingress"][0]["from"][0]["podSelector"]["matchLabels"]
    labels = dict(pods_of_a_job())
    assert {name for name, each in labels.items() if asking.items() <= each.items()} == {Component.MASTER}
    assert Component.HYBRID in labels
    assert spec["podSelector"]["matchLabels"] == pod()["metadata"]["labels"]
    assert spec["policyTypes"] == ["Ingress", "Egress"]
    assert spec["egress"] == []


def test_it_has_nodes_of_its_own_and_a_runtime_class_if_wished() -> None:
    key, value = SANDBOX_POOL
    assert pod()["spec"]["nodeSelector"] == {key: value}
    assert pod()["spec"]["tolerations"][0]["key"] == key
    assert "runtimeClassName" not in pod()["spec"]
    assert pod("sandbox.runtimeClassName=kata")["spec"]["runtimeClassName"] == "kata"


def test_its_token_is_made_unless_it_is_given() -> None:
    assert "Secret" not in render()
    made = render("sandbox.tokenSecret=")["Secret"]
    volume = next(each for each in pod("sandbox.tokenSecret=")["spec"]["volumes"] if each["name"] == "token")
    assert volume["secret"]["secretName"] == made["metadata"]["name"]
    assert len(made["data"]["token"]) > 40


class Pool:
    """A pool in which three runs wait."""

    running, waiting, ready, failures = 2, 3, 0, 0


def test_it_is_scaled_by_the_queue_that_it_exports() -> None:
    autoscaler, deployment = render()["HorizontalPodAutoscaler"]["spec"], render()["Deployment"]
    (metric,) = autoscaler["metrics"]
    assert metric["type"] == "Pods"
    name = metric["pods"]["metric"]["name"]
    service = SimpleNamespace(pool=Pool(), sessions=())
    exported = {each.name: each.samples[0].value for each in ServiceCollector(lambda: service).collect()}  # type: ignore[arg-type,return-value]
    assert exported[name] == Pool.waiting
    assert name == QUEUE_METRIC
    assert autoscaler["scaleTargetRef"] == {
        "apiVersion": "apps/v1", "kind": "Deployment", "name": deployment["metadata"]["name"],
    }  # fmt: skip
    assert "replicas" not in deployment["spec"], "each `kubectl apply` would undo the autoscaler's"
    assert float(metric["pods"]["target"]["averageValue"]) > 0
    assert autoscaler["minReplicas"] < autoscaler["maxReplicas"]


def test_a_number_of_pods_that_does_not_change_needs_no_autoscaler() -> None:
    fixed = render("sandbox.replicas=3", "sandbox.maxReplicas=3")
    assert "HorizontalPodAutoscaler" not in fixed
    assert fixed["Deployment"]["spec"]["replicas"] == 3
    with pytest.raises(ValueError, match=r"sandbox\.maxReplicas is 2, less than sandbox\.replicas, 3"):
        render_chart(["sandbox.replicas=3", "sandbox.maxReplicas=2"])
