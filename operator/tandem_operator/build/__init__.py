"""From an RLJob to all its Kubernetes objects: pure functions, the same for a cluster and for `tandem run`."""

from tandem_core.job import RLJob

from tandem_operator.build.config import (
    build_certificate_secret,
    build_config_map,
    build_etcd_secret,
    build_service_account,
    build_token_secret,
)
from tandem_operator.build.devices import build_claim_template, device_count
from tandem_operator.build.disruption import build_disruption_budget
from tandem_operator.build.gang import build_pod_group
from tandem_operator.build.hybrid import build_hybrid_job, hybrid_pod_names
from tandem_operator.build.inference import build_inference_deployment
from tandem_operator.build.master import build_master_job
from tandem_operator.build.monitoring import build_pod_monitor
from tandem_operator.build.names import Component
from tandem_operator.build.network import build_network_policy, build_service
from tandem_operator.build.overlay import OverlayError
from tandem_operator.build.settings import BuildSettings, KubernetesObject
from tandem_operator.build.storage import build_checkpoint_claim, build_data_claim

__all__ = ["BuildSettings", "Component", "KubernetesObject", "OverlayError", "build_objects", "hybrid_pod_names"]


def build_objects(
    job: RLJob, settings: BuildSettings, *, inference_replicas: int | None = None
) -> list[KubernetesObject]:
    """All objects of `job` in the order in which they are to be applied: what pods need first, pods last.

    `inference_replicas` is the autoscaler's wish, kept within spec.elastic. Raises OverlayError for a patch in
    spec.pods that cannot be merged.
    """
    objects = [
        build_service_account(job),
        build_config_map(job),
        *([build_token_secret(job, settings.token)] if settings.token else []),
        *([build_etcd_secret(job, settings.etcd_files)] if settings.etcd_files else []),
        *([build_certificate_secret(job, settings.certificate_files)] if settings.certificate_files else []),
        *([build_checkpoint_claim(job)] if job.spec.checkpoint.claim is None else []),
        *([build_data_claim(job)] if job.spec.storage.kind == "sqlite" else []),
        build_service(job),
        build_network_policy(job, settings),
        build_disruption_budget(job),
        *([build_pod_monitor(job, settings)] if settings.pod_monitor else []),
    ]
    if (pod_group := build_pod_group(job)) is not None:
        objects.append(pod_group)
    if job.spec.hybrid.device_allocation == "claim":
        kinds = [Component.HYBRID, *([Component.INFERENCE] if job.spec.elastic.max else [])]
        objects += [build_claim_template(job, settings, kind) for kind in kinds if device_count(job, kind)]
    objects += [build_master_job(job, settings), build_hybrid_job(job, settings)]
    if job.spec.elastic.max:
        objects.append(build_inference_deployment(job, settings, inference_replicas))
    return objects
