"""The Helm chart: what it makes of the values, against expected YAML and the schemas of Kubernetes.

TANDEM_REWRITE_GOLDENS=1 writes the expected files anew: read the difference before you commit it.
"""

import json
import os
from base64 import b64decode
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from cryptography import x509
from tandem_core.job import parse_job
from tandem_operator.build import KubernetesObject
from tandem_operator.generate.values import ChartValues
from tandem_operator.roles import GRANTS, LEASE_GRANTS, build_rules
from tandem_operator.settings import CONFIG_VARIABLE, OperatorSettings

from tools.chart import CHART, ROOT, SANDBOX, TRIAL, render_chart, render_manifests, run_helm

GOLDENS = Path(__file__).parent / "goldens"
KUBERNETES_VERSION = "1.36"
CASES = {
    "default": (),
    "trial": TRIAL,
    "external-etcd-and-two-namespaces": (
        "etcd.external.endpoints=etcd.example.internal:2379",
        "etcd.external.secret=etcd-of-tandem",
        "namespaces={a,b}",
        "crds.enabled=false",
        "userRoles.enabled=false",
        "operator.replicas=1",
        "settings.device_class=gpu.example.com",
    ),
    "cert-manager-and-monitoring": (
        "etcd.tls.source=certManager",
        "etcd.members=5",
        "etcd.storage.className=fast",
        "etcd.nodeSelector.disk=ssd",
        "monitoring.enabled=true",
        "monitoring.namespace=monitoring",
        "monitoring.labels.release=prometheus",
        "monitoring.runbooks=https://example.com/runbooks/",
        "images.registry=registry.example.com/team",
        "images.tag=1.2.3",
        "images.pullSecrets={registry}",
        "operator.tolerations[0].operator=Exists",
        "sandbox.enabled=true",
    ),
    "sandbox-of-a-fixed-size": (
        *TRIAL,
        *SANDBOX,
        "sandbox.replicas=3",
        "sandbox.maxReplicas=3",
        "sandbox.runtimeClassName=kata",
        "images.sandbox=registry.example.com/our-sandbox:7",
    ),
    "secrets-of-others": (
        "etcd.tls.source=secrets",
        "etcd.tls.serverSecret=theirs-server",
        "etcd.tls.clientSecret=theirs-client",
        "etcd.passwordSecret=theirs-password",
        "networkPolicies.enabled=false",
    ),
}
UNKNOWN_TO_KUBERNETES = ("PodMonitor", "PrometheusRule", "Certificate", "Issuer")
OPERATOR_RULES = {"jobs": build_rules(GRANTS), "lease": build_rules(LEASE_GRANTS)}
MADE_AT_RANDOM = ("tls.crt", "tls.key", "ca.crt", "password", "token")


@cache
def render(name: str) -> list[KubernetesObject]:
    return [each for each in yaml.safe_load_all(render_chart(CASES[name])) if each]


def find(name: str, kind: str, part: str) -> KubernetesObject:
    """The object of the case `name`."""
    (found,) = [each for each in render(name) if each["kind"] == kind and each["metadata"]["name"] == f"tandem-{part}"]
    return found


def expected(name: str) -> list[KubernetesObject]:
    """What was rendered, without what is another each time and without the CRD, which is a file of its own."""
    kept = deepcopy([each for each in render(name) if each["kind"] != "CustomResourceDefinition"])
    for item in kept:
        if item.get("rules") in OPERATOR_RULES.values():
            item["rules"] = "those of files/rules.yaml"
        if item["kind"] == "PrometheusRule":
            item["spec"] = "that of files/alerts.yaml"
        if "dashboard" in item["metadata"]["name"]:
            item["data"] = dict.fromkeys(item["data"], "that of files/dashboards")
        if item["kind"] == "Secret":
            item["data"] = {key: "?" if key in MADE_AT_RANDOM else value for key, value in item["data"].items()}
    return sorted(
        kept, key=lambda item: (item["kind"], item["metadata"]["name"], item["metadata"].get("namespace", ""))
    )


@pytest.mark.parametrize("name", CASES)
def test_it_makes_what_is_expected(name: str) -> None:
    golden = GOLDENS / f"{name}.yaml"
    if os.environ.get("TANDEM_REWRITE_GOLDENS"):
        golden.write_text(yaml.safe_dump_all(expected(name), sort_keys=False, width=120))
    assert expected(name) == list(yaml.safe_load_all(golden.read_text()))


@pytest.mark.parametrize("name", CASES)
def test_kubernetes_knows_every_field(name: str) -> None:
    for item in render(name):
        if item["kind"] not in UNKNOWN_TO_KUBERNETES:
            kubernetes_validate.validate(item, KUBERNETES_VERSION, strict=True)


@pytest.mark.parametrize("name", CASES)
def test_the_operator_takes_the_settings(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text(find(name, "ConfigMap", "operator")["data"]["settings.yaml"])
    monkeypatch.setenv(CONFIG_VARIABLE, str(file))
    settings = OperatorSettings.read([])
    assert (settings.lease_namespace, settings.lease_name) == ("tandem-system", "tandem-operator")
    assert settings.namespaces == (("a", "b") if "namespaces" in name else ())


@pytest.mark.parametrize("name", CASES)
def test_the_restricted_standard_admits_every_pod(name: str) -> None:
    objects = [each for each in render(name) if each["metadata"].get("namespace") != "tandem-sandbox"]
    templates = [each["spec"]["template"]["spec"] for each in objects if "template" in each.get("spec", {})]
    pods = [*templates, *(each["spec"] for each in objects if each["kind"] == "Pod")]
    assert len(pods) >= 2
    for pod in pods:
        assert pod["securityContext"]["runAsNonRoot"]
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in pod["containers"]:
            security = container["securityContext"]
            assert not security["allowPrivilegeEscalation"]
            assert security["capabilities"] == {"drop": ["ALL"]}
            assert security["readOnlyRootFilesystem"]


def test_the_certificates_fit_the_names_under_which_etcd_is_reached() -> None:
    rendered = [each for each in yaml.safe_load_all(render_chart()) if each]
    secrets = {each["metadata"]["name"]: each["data"] for each in rendered if each["kind"] == "Secret"}
    server = x509.load_pem_x509_certificate(b64decode(secrets["tandem-etcd-server"]["tls.crt"]))
    names = server.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert {"tandem-etcd.tandem-system.svc", "tandem-etcd-4.tandem-etcd-members.tandem-system.svc"} <= set(
        names.get_values_for_type(x509.DNSName)
    )
    client = x509.load_pem_x509_certificate(b64decode(secrets["tandem-etcd-client"]["tls.crt"]))
    assert secrets["tandem-etcd-client"]["ca.crt"] == secrets["tandem-etcd-server"]["ca.crt"]
    assert client.issuer == server.issuer
    assert client.subject.rfc4514_string() == "CN=tandem-etcd-client"


def test_alerts_are_those_of_the_file_and_link_to_where_the_runbooks_are() -> None:
    found = find("cert-manager-and-monitoring", "PrometheusRule", "alerts")
    expected = yaml.safe_load((CHART / "files" / "alerts.yaml").read_text())
    for group in expected["groups"]:
        for rule in group["rules"]:
            page = rule["annotations"]["runbook_url"].removeprefix("docs/runbooks/")
            rule["annotations"]["runbook_url"] = f"https://example.com/runbooks/{page}"
    assert found["spec"] == expected
    assert found["metadata"]["labels"]["release"] == "prometheus"


def test_each_dashboard_is_in_a_config_map_that_grafana_finds() -> None:
    files = {f"tandem-{file.name}": file.read_text() for file in (CHART / "files" / "dashboards").glob("*.json")}
    maps = [each for each in render("cert-manager-and-monitoring") if "dashboard" in each["metadata"]["name"]]
    data = {name: text for each in maps for name, text in each["data"].items()}
    assert {name: json.loads(text) for name, text in data.items()} == {
        name: json.loads(text) for name, text in files.items()
    }
    assert all(each["metadata"]["labels"]["grafana_dashboard"] == "1" for each in maps)


def test_an_uninstallation_leaves_the_crd_and_what_jobs_were_given() -> None:
    kept = {
        f"{each['kind']}/{each['metadata']['name']}"
        for each in render("default")
        if each["metadata"].get("annotations", {}).get("helm.sh/resource-policy") == "keep"
    }
    secrets = {f"Secret/tandem-etcd-{name}" for name in ("server", "client", "password")}
    assert kept == {"CustomResourceDefinition/rljobs.tandem.dev", *secrets}


@pytest.mark.parametrize(("device", "release"), [("gpu", "restart"), ("cpu", "none")])
def test_the_test_runs_a_job_that_is_valid(device: str, release: str) -> None:
    settings = [f"test.spec.hybrid.device={device}", f"test.spec.hybrid.inference.release={release}"]
    rendered = [each for each in yaml.safe_load_all(render_chart(settings)) if each]
    (text,) = [each["data"]["job.yaml"] for each in rendered if "job.yaml" in each.get("data", {})]
    job = parse_job(text)
    assert (job.metadata.name, job.metadata.namespace, job.spec.iterations) == ("tandem-test", "tandem-system", 2)
    assert (job.spec.hybrid.device, job.spec.hybrid.inference.max_length) == (device, 64)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("operator.replica=3", "additional properties 'replica' not allowed"),
        ("operator.replicas=0", "minimum: got 0, want 1"),
        ("etcd.members=2", "value must be one of 1, 3, 5"),
        ("etcd.tls.source=vault", "value must be one of 'chart', 'certManager', 'secrets', 'none'"),
        ("etcd.storage.size=a lot", "does not match pattern"),
        ("etcd.external.endpoints=etcd-0:2379\\,etcd-1:2379", "does not match pattern"),
        ("settings.deviceClass=gpu", "additional properties 'deviceClass' not allowed"),
        ("settings.workers=0", "minimum: got 0, want 1"),
        ("namespaces={A}", "does not match pattern"),
        ("etcd.tls.source=secrets", "name both, etcd.tls.serverSecret and etcd.tls.clientSecret"),
        ("etcd.tls.serverSecret=mine", "used with etcd.tls.source=secrets only, and it is chart"),
        ("etcd.external.secret=mine", "write where that etcd is, such as etcd.example.internal:2379"),
        ("monitoring.enabled=true", "monitoring.enabled needs monitoring.namespace"),
    ],
)
def test_a_wrong_value_is_refused(setting: str, message: str) -> None:
    with pytest.raises(ValueError, match="tandem") as error:
        render_chart([setting])
    assert message in str(error.value)


def test_null_is_as_good_as_left_out() -> None:
    nothing = (
        "namespaces=null",
        "settings=null",
        "test.spec=null",
        "images.pullSecrets=null",
        "operator.tolerations=null",
    )
    rendered = [each for each in yaml.safe_load_all(render_chart([*TRIAL, *nothing])) if each]
    assert rendered == render("trial")


def test_helm_finds_nothing_to_say() -> None:
    done = run_helm("lint", "--strict", str(CHART))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 chart(s) failed" in done.stdout


def test_the_values_are_those_of_the_types() -> None:
    values: dict[str, Any] = yaml.safe_load((CHART / "values.yaml").read_text())
    assert ChartValues.model_validate(values) == ChartValues()


def test_manifests_are_up_to_date() -> None:
    folder = ROOT / "manifests"
    found = {file.relative_to(folder).as_posix(): file.read_text() for file in folder.rglob("*.yaml")}
    assert found == render_manifests(), "run `make generate`"
