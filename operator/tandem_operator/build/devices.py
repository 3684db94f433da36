"""GPUs: one claim named by several containers, so that they see the same devices; or all of a node."""

from tandem_core.job import RLJob

from tandem_operator.build.names import Component, build_object, component_name, job_selector
from tandem_operator.build.settings import BuildSettings, KubernetesObject

CLAIM = "devices"
REQUEST = "gpus"
VISIBLE_DEVICES = "NVIDIA_VISIBLE_DEVICES"
"""What NVIDIA's container runtime goes by; the device plugin sets it too, for the container it gives GPUs to."""


def device_count(job: RLJob, component: Component) -> int:
    """GPUs of one pod, hybrid or inference: both run the same engines; 0 on cpu."""
    if job.spec.hybrid.device == "cpu" or component is Component.MASTER:
        return 0
    return job.spec.hybrid.ranks_per_replica


def build_claim_template(job: RLJob, settings: BuildSettings, component: Component) -> KubernetesObject:
    """The ResourceClaimTemplate from which each pod of the kind gets its claim."""
    exactly = {
        "deviceClassName": settings.device_class,
        "allocationMode": "ExactCount",
        "count": device_count(job, component),
    }
    name = component_name(job, component)
    return {
        **build_object(job, "resource.k8s.io/v1", "ResourceClaimTemplate", name, component),
        "spec": {
            "metadata": {"labels": job_selector(job)},
            "spec": {"devices": {"requests": [{"name": REQUEST, "exactly": exactly}]}},
        },
    }


def claim_devices(
    job: RLJob,
    settings: BuildSettings,
    component: Component,
    spec: KubernetesObject,
    containers: list[KubernetesObject],
) -> None:
    """Let all of `containers` share the pod's GPUs; nothing on cpu.

    A device plugin gives a GPU to one container only. For a whole node that is the last one; the others see every GPU
    of the node, past Kubernetes.
    """
    count = device_count(job, component)
    if not count:
        return
    if job.spec.hybrid.device_allocation == "claim":
        spec["resourceClaims"] = [{"name": CLAIM, "resourceClaimTemplateName": component_name(job, component)}]
        for container in containers:
            container["resources"] = {"claims": [{"name": CLAIM}]}
        return
    *others, owner = containers
    owner["resources"] = {"limits": {settings.device_resource: str(count)}}
    for container in others:
        container["env"].append({"name": VISIBLE_DEVICES, "value": "all"})
