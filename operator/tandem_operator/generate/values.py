"""The values of the Helm chart: from these types come values.yaml with its comments, and values.schema.json."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, WithJsonSchema
from pydantic.alias_generators import to_camel

from tandem_operator.generate.monitoring.alerts import RUNBOOKS
from tandem_operator.settings import OperatorSettings

SETTINGS = ("device_class", "pod_overlay", "grace_period_seconds", "workers")
"""Settings of the operator that the chart takes as they are; it sets the others itself."""
SANDBOX_POOL = ("tandem.dev/pool", "sandbox")
"""Label of nodes for untrusted programs, and their taint, which keeps others away."""
ETCD_IMAGE = "quay.io/coreos/etcd:v3.5.21"
_ADDRESS = r"([0-9.]+|\[[0-9a-f:]+\]):[0-9]+"

Table = dict[str, JsonValue]
"""A part of a Kubernetes object, passed on as it is."""
Name = Annotated[str, Field(max_length=253, pattern=r"^([a-z0-9]([-.a-z0-9]*[a-z0-9])?)?$")]
"""Name of another object; empty: none."""
Endpoints = Annotated[str, Field(pattern=rf"^(|[^\s,:]+:[0-9]+|{_ADDRESS}(,{_ADDRESS})*)$")]
"""One host:port, or the addresses of several members."""
Size = Annotated[str, Field(pattern=r"^[1-9][0-9]*([KMGTP]i?)?$")]
"""Of a volume."""


def _build_settings_schema() -> dict[str, Any]:
    properties = OperatorSettings.model_json_schema()["properties"]
    told = ("type", "description", "default", "minimum")
    chosen = {name: {key: properties[name][key] for key in told if key in properties[name]} for name in SETTINGS}
    return {"type": "object", "additionalProperties": False, "properties": chosen}


class Values(BaseModel):
    """A part of the values: camelCase, unknown ones refused."""

    model_config = ConfigDict(
        alias_generator=to_camel, extra="forbid", populate_by_name=True, use_attribute_docstrings=True
    )


class Placement(Values):
    """Where pods of the installation run, and what they may use."""

    resources: Table = Field(default_factory=dict)
    """Requests and limits."""
    priority_class_name: Name = ""
    node_selector: dict[str, str] = Field(default_factory=dict)
    tolerations: list[Table] = Field(default_factory=list)


class Images(Values):
    """Images of the parts: <registry>/tandem-<part>:<tag>, or each by its full name."""

    registry: str = ""
    """Such as registry.example.com/team."""
    tag: str = ""
    """Empty: the version of the chart."""
    pull_policy: Literal["IfNotPresent", "Always", "Never"] = "IfNotPresent"
    """Of operator, etcd and sandbox; a job has its own in spec.images."""
    pull_secrets: list[Name] = Field(default_factory=list)
    """Secrets for the registry of operator, etcd and sandbox; jobs name theirs in settings.pod_overlay."""
    operator: str = ""
    trainer: str = ""
    sidecar: str = ""
    rollout: str = ""
    sandbox: str = ""
    etcd: str = Field(default=ETCD_IMAGE, min_length=1)
    """3.5.3 or newer."""


class Crds(Values):
    """The definition of RLJob. An uninstallation leaves it, and with it all jobs."""

    enabled: bool = True
    """Install and upgrade it; false where somebody else does."""


def _resources(cpu: str, memory: str, **others: JsonValue) -> Table:
    return {"requests": {"cpu": cpu, "memory": memory}, **others}


def _tolerate(key: str, value: str) -> Table:
    return {"key": key, "operator": "Equal", "value": value, "effect": "NoSchedule"}


class Operator(Placement):
    """The operator's pods, of which one is active."""

    replicas: int = Field(default=2, ge=1, le=5)
    resources: Table = Field(default_factory=lambda: _resources("100m", "192Mi", limits={"memory": "1Gi"}))


class External(Values):
    """An etcd that is there already: then none is installed."""

    endpoints: Endpoints = ""
    """Such as etcd.example.internal:2379: one Service for all members, or their addresses, separated by commas."""
    secret: Name = ""
    """Secret with any of ca.crt, tls.crt, tls.key, and username and password of a user with the role root
    (docs/etcd.md)."""


class Tls(Values):
    """Encryption between etcd, operator and jobs, each with a certificate of its own."""

    source: Literal["chart", "certManager", "secrets", "none"] = "chart"
    """chart: made at installation, good for 10 years, kept by upgrades (not with tools that only run `helm template`,
    such as Argo CD: use one of the next two). certManager: by cert-manager. secrets: yours. none: for trials."""
    server_secret: Name = ""
    """With secrets: ca.crt, tls.crt, tls.key of the members, for the names that docs/etcd.md lists."""
    client_secret: Name = ""
    """With secrets: ca.crt, tls.crt, tls.key of operator and jobs; its common name is not root."""


class Storage(Values):
    """The volume of each member."""

    size: Size = "8Gi"
    class_name: Name = ""
    """Empty: the cluster's default."""


class Etcd(Placement):
    """Where jobs keep their state: three members of its own, or one that is there already."""

    external: External = Field(default_factory=External)
    members: Literal[1, 3, 5] = 3
    """1 for trials: it is away while its node is. Not to be changed later."""
    authentication: bool = True
    """A password for the operator, and a user for each job that sees only the job's keys."""
    password_secret: Name = ""
    """Secret with username (root) and password for the operator; empty: made at installation and kept by upgrades."""
    tls: Tls = Field(default_factory=Tls)
    storage: Storage = Field(default_factory=Storage)
    resources: Table = Field(default_factory=lambda: _resources("100m", "256Mi"))


class Sandbox(Placement):
    """The code sandbox, which judges programs for rewards, in a namespace of its own (docs/sandbox.md)."""

    enabled: bool = False
    """Needs nodes for untrusted programs: kubectl label node NODE tandem.dev/pool=sandbox."""
    token_secret: Name = ""
    """Secret in its namespace with the token that masters show; empty: made at installation and kept by upgrades."""
    replicas: int = Field(default=2, ge=1, le=100)
    max_replicas: int = Field(default=8, ge=1, le=1000)
    """Up to which it grows while programs wait; needs an adapter of custom metrics. As replicas: it does not grow."""
    running: int = Field(default=4, ge=1, le=1024)
    """Programs at a time in a pod: as many as the processors that it asks for."""
    ahead: int = Field(default=12, ge=0, le=1024)
    """Containers more that wait ready."""
    runtime_class_name: Name = ""
    """For a machine or kernel of each pod's own."""
    resources: Table = Field(default_factory=lambda: _resources("4", "4Gi", limits={"memory": "16Gi"}))
    node_selector: dict[str, str] = Field(default_factory=lambda: dict([SANDBOX_POOL]))
    tolerations: list[Table] = Field(default_factory=lambda: [_tolerate(*SANDBOX_POOL)])


class NetworkPolicies(Values):
    """Who reaches operator, etcd and sandbox, on clusters whose network enforces it."""

    enabled: bool = True


class Monitoring(Values):
    """PodMonitors for operator, etcd, sandbox and each job, alerts, and dashboards (docs/monitoring.md)."""

    enabled: bool = False
    """Needs the Prometheus operator."""
    namespace: Name = ""
    """Where Prometheus runs: network policies let it in."""
    labels: dict[str, str] = Field(default_factory=dict)
    """By which your Prometheus finds PodMonitors and rules."""
    interval: Annotated[str, Field(pattern="^[0-9]+(ms|s|m)$")] = "30s"
    alerts: bool = True
    """A PrometheusRule; each alert links to its page in docs/runbooks."""
    runbooks: str = Field(default=RUNBOOKS, min_length=1)
    """Where these pages can be read, such as https://example.com/tandem/runbooks."""
    dashboards: bool = True
    """A ConfigMap for each of Grafana's dashboards."""
    dashboard_labels: dict[str, str] = Field(default_factory=lambda: {"grafana_dashboard": "1"})
    """By which your Grafana finds them; this is what the sidecar of Grafana's own chart looks for."""


class UserRoles(Values):
    """What users may do with RLJobs: added to the ClusterRoles view, edit and admin."""

    enabled: bool = True


class Test(Values):
    """`helm test`: a small job that is trained to its end."""

    spec: Table = Field(default_factory=dict)
    """Merged into the job's spec (files/test-job.yaml), such as hybrid: {device: cpu} for images without a GPU."""
    timeout_seconds: int = Field(default=900, ge=1)


class ChartValues(Values):
    """All values, as they stand in values.yaml."""

    images: Images = Field(default_factory=Images)
    crds: Crds = Field(default_factory=Crds)
    namespaces: list[Name] = Field(default_factory=list)
    """Namespaces whose jobs are looked after, with a role in each; empty: all, with one for the cluster."""
    settings: Annotated[Table, WithJsonSchema(_build_settings_schema())] = Field(default_factory=dict)
    """Settings of the operator as `python -m tandem_operator --help` explains them: device_class (default
    gpu.nvidia.com), pod_overlay (for the pods of all jobs), grace_period_seconds (600), workers (32)."""
    operator: Operator = Field(default_factory=Operator)
    etcd: Etcd = Field(default_factory=Etcd)
    sandbox: Sandbox = Field(default_factory=Sandbox)
    network_policies: NetworkPolicies = Field(default_factory=NetworkPolicies)
    monitoring: Monitoring = Field(default_factory=Monitoring)
    user_roles: UserRoles = Field(default_factory=UserRoles)
    test: Test = Field(default_factory=Test)
