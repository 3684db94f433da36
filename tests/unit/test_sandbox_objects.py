"""The sandbox's objects on Kubernetes: what they may do, who may ask them, what they are scaled by."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import kubernetes_validate
import pytest
import yaml
from tandem_core.job import load_job
from tandem_core.sandbox.deployment import QUEUE_METRIC, SANDBOX_CAPABILITIES
from tandem_operator.build import BuildSettings, Component, KubernetesObject, build_objects
from tandem_operator.generate.sandbox import (
    POOL,
    POOL_LABEL,
    build_autoscaler,
    build_deployment,
    build_network_policy,
    build_service,
    render_sandbox,
)
from tandem_sandbox.__main__ import build_parser
from tandem_sandbox.metrics import ServiceCollector

ROOT = Path(__file__).parents[2]
OBJECTS: list[KubernetesObject] = list(yaml.safe_load_all(render_sandbox()))
POD: KubernetesObject = build_deployment()["spec"]["template"]


def pods_of_a_job() -> Iterator[tuple[str, dict[str, str]]]:
    """Component and labels of each kind of pod."""
    job = load_job(ROOT / "tests/unit/goldens/jobs/cpu.yaml")
    for item in build_objects(job, BuildSettings(etcd_endpoints="etcd:2379")):
        if "template" in item.get("spec", {}) and item["kind"] != "ResourceClaimTemplate":
            labels = item["spec"]["template"]["metadata"]["labels"]
            yield labels["app.kubernetes.io/component"], labels


@pytest.mark.parametrize("item", OBJECTS, ids=lambda item: item["kind"])
def test_kubernetes_knows_every_field(item: KubernetesObject) -> None:
    kubernetes_validate.validate(item, "1.36", strict=True)


def test_a_pod_is_root_with_the_listed_capabilities_and_nothing_else() -> None:
    (container,) = POD["spec"]["containers"]
    security = container["securityContext"]
    assert security["capabilities"] == {"drop": ["ALL"], "add": list(SANDBOX_CAPABILITIES)}
    assert security["readOnlyRootFilesystem"]
    assert not {"privileged", "procMount"} & security.keys()
    assert not {"hostNetwork", "hostPID", "hostIPC"} & POD["spec"].keys()
    assert not any("hostPath" in volume for volume in POD["spec"]["volumes"])
    assert POD["spec"]["automountServiceAccountToken"] is False


def test_the_docs_name_every_capability() -> None:
    page = (ROOT / "docs/sandbox.md").read_text()
    assert [name for name, reason in SANDBOX_CAPABILITIES.items() if f"| {name} | {reason} |" not in page] == []


def test_the_service_understands_what_its_pod_says() -> None:
    (container,) = POD["spec"]["containers"]
    given = build_parser().parse_args(container["args"])
    assert {port["name"]: port["containerPort"] for port in container["ports"]} == {
        "http": given.port,
        "metrics": given.metrics_port,
    }
    mounts = {mount["mountPath"] for mount in container["volumeMounts"]}
    assert {str(given.token_file.parent), str(given.home)} <= mounts
    assert build_service()["spec"]["ports"][0]["port"] == given.port


def test_only_masters_may_ask_and_programs_reach_nothing() -> None:
    spec = build_network_policy()["spec"]
    asking = spec["ingress"][0]["from"][0]["podSelector"]["matchLabels"]
    labels = dict(pods_of_a_job())
    assert {name for name, each in labels.items() if asking.items() <= each.items()} == {Component.MASTER}
    assert Component.HYBRID in labels
    assert spec["podSelector"]["matchLabels"] == POD["metadata"]["labels"]
    assert spec["policyTypes"] == ["Ingress", "Egress"]
    assert spec["egress"] == []


def test_it_has_nodes_of_its_own_and_a_runtime_class_if_wished() -> None:
    assert POD["spec"]["nodeSelector"] == {POOL_LABEL: POOL}
    assert POD["spec"]["tolerations"][0]["key"] == POOL_LABEL
    assert "runtimeClassName" not in POD["spec"]
    assert build_deployment("kata")["spec"]["template"]["spec"]["runtimeClassName"] == "kata"


class Pool:
    """A pool in which three runs wait."""

    running, waiting, ready, failures = 2, 3, 0, 0


def test_it_is_scaled_by_the_queue_that_it_exports() -> None:
    autoscaler = build_autoscaler()["spec"]
    (metric,) = autoscaler["metrics"]
    assert metric["type"] == "Pods"
    name = metric["pods"]["metric"]["name"]
    service = SimpleNamespace(pool=Pool(), sessions=())
    exported = {each.name: each.samples[0].value for each in ServiceCollector(lambda: service).collect()}  # type: ignore[arg-type,return-value]
    assert exported[name] == Pool.waiting
    assert name == QUEUE_METRIC
    assert autoscaler["scaleTargetRef"] == {
        "apiVersion": "apps/v1", "kind": "Deployment", "name": build_deployment()["metadata"]["name"],
    }  # fmt: skip
    assert "replicas" not in build_deployment()["spec"], "each `kubectl apply` would undo the autoscaler's"
    assert float(metric["pods"]["target"]["averageValue"]) > 0
    assert autoscaler["minReplicas"] < autoscaler["maxReplicas"]
