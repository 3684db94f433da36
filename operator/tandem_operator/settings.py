"""Settings of the operator: from flags, TANDEM_* variables, or a YAML file."""

import os
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field, JsonValue, field_validator
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    YamlConfigSettingsSource,
)
from tandem_core.coordination.access import EtcdAccess
from tandem_core.coordination.keys import JobKeys

from tandem_operator.build import BuildSettings
from tandem_operator.etcd_access import derive_password

PREFIX = "TANDEM_OPERATOR_"
CONFIG_VARIABLE = f"{PREFIX}CONFIG"


class OperatorSettings(BaseSettings):
    """The operator of Tandem: turns RLJobs into pods on this cluster, and says in their status how they are.

    Each flag may also be a variable, --etcd-endpoints as TANDEM_OPERATOR_ETCD_ENDPOINTS, or a line of the YAML file
    that TANDEM_OPERATOR_CONFIG names, etcd_endpoints: ...; flags win over variables, these over the file. Kubernetes
    is reached by the pod's ServiceAccount, elsewhere by KUBECONFIG. Try it beside a cluster:

    python -m tandem_operator --etcd-endpoints etcd:2379 --namespaces default
    """

    model_config = SettingsConfigDict(
        cli_avoid_json=True,
        cli_hide_none_type=True,
        cli_implicit_flags=True,
        cli_kebab_case=True,
        cli_prog_name="python -m tandem_operator",
        env_prefix=PREFIX,
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
    )

    etcd_endpoints: str
    """host:port of etcd as the operator and the pods of jobs reach it, several separated by commas."""
    etcd_dir: Path | None = None
    """Directory with what the operator shows to etcd: any of ca.crt, tls.crt, tls.key, username, password. The user
    has to have the role root: a user and a role are made for each job. Left out: etcd asks for nothing."""
    etcd_enable_authentication: bool = False
    """Turn authentication of etcd on where it is off, with the user root and the password in etcd_dir: for an etcd
    that is Tandem's only."""
    namespaces: Annotated[tuple[str, ...], NoDecode] = ()
    """Namespaces to look after, separated by commas. Left out: all."""
    trainer_image: str = BuildSettings.model_fields["trainer_image"].default
    """Image of the trainer where spec.images.trainer is left out."""
    sidecar_image: str = BuildSettings.model_fields["sidecar_image"].default
    """Image of the checkpoint engine and vLLM where spec.images.sidecar is left out."""
    rollout_image: str = BuildSettings.model_fields["rollout_image"].default
    """Image of the rollout master where spec.images.rollout is left out."""
    device_class: str = BuildSettings.model_fields["device_class"].default
    """DRA DeviceClass of the GPUs: kubectl get deviceclasses shows those that there are."""
    pod_overlay: dict[str, JsonValue] = Field(default_factory=dict)
    """Patch of every pod's template, merged before the job's own spec.pods: tolerations, node selectors, a runtime
    class, volumes. As JSON here; in the file it is plain YAML."""
    pod_monitor: bool = False
    """Make a PodMonitor for each job (needs the Prometheus operator)."""
    monitoring_labels: dict[str, str] = Field(default_factory=dict)
    """Labels of these PodMonitors, by which Prometheus finds them."""
    monitoring_interval: str = Field(default=BuildSettings.model_fields["monitoring_interval"].default)
    """How often Prometheus reads the metrics of jobs."""
    monitoring_namespace: str | None = None
    """Namespace whose pods may read the metrics of jobs; left out: nobody but the job."""
    grace_period_seconds: float = Field(default=600.0, ge=0)
    """How long a job that is suspended or deleted has to finish its iteration and save a checkpoint. On a job the
    annotation tandem.dev/grace-period-seconds goes before it."""
    lease_namespace: str = "tandem-system"
    """Namespace of the Lease by which one of several replicas is the active one."""
    lease_name: str = "tandem-operator"
    """Name of that Lease."""
    identity: str = ""
    """Who this replica is in the Lease; left out: its host name, and something that differs with each start."""
    port: int = Field(default=8080, ge=0, le=65535)
    """Port of /healthz, /readyz and /metrics; 0: any that is free."""
    resync_seconds: float = Field(default=300.0, ge=1)
    """How often all objects are compared with what the API server lists, in case a watch has missed that one went."""
    workers: int = Field(default=32, ge=1)
    """Jobs that are looked at at the same time."""

    @field_validator("namespaces", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        return [name.strip() for name in value.split(",") if name.strip()] if isinstance(value, str) else value

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Flags, then variables, then the file."""
        return (
            init_settings,
            env_settings,
            YamlConfigSettingsSource(settings_cls, yaml_file=os.environ.get(CONFIG_VARIABLE)),
        )

    @classmethod
    def read(cls, arguments: list[str]) -> Self:
        """From the command line, the environment and the file."""
        return cls(_cli_parse_args=arguments)

    def etcd_access(self) -> EtcdAccess:
        """How the operator itself reaches etcd; raises TandemError."""
        return EtcdAccess.load(self.etcd_endpoints, self.etcd_dir)


def build_settings(
    settings: OperatorSettings, access: EtcdAccess, keys: JobKeys, token: str, certificate: dict[str, str]
) -> BuildSettings:
    """How this installation builds a job. `access` is the operator's own, from which the job's is made."""
    own = {"username": keys.job_uid, "password": derive_password(access, keys)} if access.username else {}
    shared = settings.model_dump(include=set(BuildSettings.model_fields) & set(OperatorSettings.model_fields))
    etcd_files = access.model_copy(update=own).files()
    return BuildSettings(**shared, token=token, certificate_files=certificate, etcd_files=etcd_files)
