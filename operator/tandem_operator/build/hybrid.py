"""Hybrid pods: a Megatron trainer and a vLLM sidecar on the same devices."""

from tandem_core.environment import TRAINER_METRICS_PORT
from tandem_core.job import RLJob

from tandem_operator.build.devices import claim_devices
from tandem_operator.build.jobs import build_indexed_job
from tandem_operator.build.names import Component, component_name, job_identifier
from tandem_operator.build.pods import (
    build_container,
    build_life_probes,
    build_template,
    build_volumes,
    mount_checkpoints,
)
from tandem_operator.build.settings import BuildSettings, KubernetesObject
from tandem_operator.build.sidecar import build_sidecar

TRAINER_CONTAINER = "trainer"
TERMINATION_GRACE_SECONDS = 120
"""Time to write a checkpoint that has been begun."""


def build_hybrid_job(job: RLJob, settings: BuildSettings) -> KubernetesObject:
    """The Indexed Job of all hybrid pods, named <job>-hybrid-<index>."""
    sidecar = {**build_sidecar(job, settings, Component.HYBRID), "restartPolicy": "Always"}
    trainer = build_trainer(job, settings)
    spec: KubernetesObject = {
        "restartPolicy": "Never",  # the pod failure policy asks for it; torchrun restarts ranks in place
        "subdomain": job.metadata.name,
        # With separate PID namespaces CUDA IPC fails and UCX falls back to TCP without a word.
        "shareProcessNamespace": True,
        "terminationGracePeriodSeconds": TERMINATION_GRACE_SECONDS,
        "initContainers": [sidecar],
        "containers": [trainer],
        "volumes": build_volumes(job, settings),
    }
    mount_checkpoints(job, spec, trainer)
    claim_devices(job, settings, Component.HYBRID, spec, [sidecar, trainer])
    template = build_template(job, settings, Component.HYBRID, spec)
    return build_indexed_job(
        job,
        Component.HYBRID,
        completions=job.spec.hybrid.replicas,
        main_container=TRAINER_CONTAINER,
        template=template,
    )


def build_trainer(job: RLJob, settings: BuildSettings) -> KubernetesObject:
    """The container with torchrun: a process for each rank of the pod, met through etcd.

    Kubernetes puts the pod's address in the place of $(TANDEM_POD_IP).
    """
    hybrid = job.spec.hybrid
    command = [
        *("python", "-m", "torch.distributed.run"),
        "--rdzv-backend=tandem-etcd",
        f"--rdzv-endpoint={settings.etcd_endpoints}",
        f"--rdzv-id={job_identifier(job)}",
        f"--nnodes={hybrid.replicas}",
        f"--nproc-per-node={hybrid.ranks_per_replica}",
        f"--max-restarts={job.spec.backoff_limit}",
        "--local-addr=$(TANDEM_POD_IP)",
        *("-m", "tandem_trainer"),
    ]
    image = job.spec.images.trainer or settings.trainer_image
    return {
        **build_container(job, settings, Component.HYBRID, TRAINER_CONTAINER, image, command),
        "ports": [{"name": "metrics", "containerPort": TRAINER_METRICS_PORT}],
        **build_life_probes(job, TRAINER_METRICS_PORT),
    }


def hybrid_pod_names(job: RLJob) -> list[str]:
    """The names under which the hybrid pods' members register, by index."""
    name = component_name(job, Component.HYBRID)
    return [f"{name}-{index}" for index in range(job.spec.hybrid.replicas)]
