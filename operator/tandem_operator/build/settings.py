"""What the builders need to know beside the job itself."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

type KubernetesObject = dict[str, Any]
"""A Kubernetes object as it stands in YAML."""


class BuildSettings(BaseModel):
    """How this installation builds jobs: the operator's own configuration, and the token of the job at hand."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    trainer_image: str = "tandem-trainer:latest"
    """Used where spec.images.trainer is left out."""
    sidecar_image: str = "tandem-sidecar:latest"
    """Used where spec.images.sidecar is left out."""
    rollout_image: str = "tandem-rollout:latest"
    """Used where spec.images.rollout is left out."""
    etcd_endpoints: str
    """host:port as the job's pods reach it, several separated by commas."""
    etcd_files: dict[str, str] = Field(default_factory=dict, repr=False)
    """What the job's pods show to etcd, by file name (`tandem_core.coordination.access.EtcdAccess.files`): becomes a
    Secret of the job's own. Empty: etcd asks for nothing."""
    device_class: str = "gpu.nvidia.com"
    """The DRA DeviceClass of the GPUs."""
    device_resource: str = "nvidia.com/gpu"
    """The device plugin's resource, for hybrid.deviceAllocation: wholeNode."""
    pod_overlay: dict[str, Any] = Field(default_factory=dict)
    """Patch of every pod's template, merged before the job's own spec.pods."""
    token: str = ""
    """Bearer token of the job's HTTP APIs: the caller makes it once for each job (`secrets.token_urlsafe(32)`) and
    keeps it. Empty: the Secret is there already and is left alone."""
    certificate_files: dict[str, str] = Field(default_factory=dict, repr=False)
    """For spec.security.tls: what `certificate.make_certificate` made once for the job, and the caller keeps. Empty:
    the Secret is there already and is left alone."""
    pod_monitor: bool = False
    """Whether the cluster knows PodMonitor (monitoring.coreos.com/v1)."""
    monitoring_labels: dict[str, str] = Field(default_factory=dict)
    """Labels of the PodMonitor, by which Prometheus finds it."""
    monitoring_interval: str = "30s"
    """How often metrics are read."""
    monitoring_namespace: str | None = None
    """Namespace whose pods may read metrics through the NetworkPolicy; None: only the job's own pods get through."""
