"""How the job's pods find each other, and who else may reach them."""

from tandem_core.environment import CHECKPOINT_ENGINE_PORT, ENGINE_PORT, MASTER_PORT, TRAINER_METRICS_PORT
from tandem_core.job import RLJob

from tandem_operator.build.names import build_object, job_selector
from tandem_operator.build.settings import BuildSettings, KubernetesObject


def build_service(job: RLJob) -> KubernetesObject:
    """The headless Service that gives pods the names <pod>.<job>; trainers meet before they are ready."""
    return {
        **build_object(job, "v1", "Service", job.metadata.name),
        "spec": {"clusterIP": "None", "publishNotReadyAddresses": True, "selector": job_selector(job)},
    }


def build_network_policy(job: RLJob, settings: BuildSettings) -> KubernetesObject:
    """Only pods of the same job reach its pods, on any port (NCCL chooses its own), and monitoring the metrics.

    Outgoing traffic is left free: where the hub, a reward model or a database are is not known here.
    """
    ingress: list[KubernetesObject] = [{"from": [{"podSelector": {"matchLabels": job_selector(job)}}]}]
    if settings.monitoring_namespace:
        namespace = {"matchLabels": {"kubernetes.io/metadata.name": settings.monitoring_namespace}}
        ports = (MASTER_PORT, CHECKPOINT_ENGINE_PORT, TRAINER_METRICS_PORT, ENGINE_PORT)
        ingress.append(
            {
                "from": [{"namespaceSelector": namespace}],
                "ports": [{"protocol": "TCP", "port": port} for port in ports],
            }
        )
    return {
        **build_object(job, "networking.k8s.io/v1", "NetworkPolicy", job.metadata.name),
        "spec": {
            "podSelector": {"matchLabels": job_selector(job)},
            "policyTypes": ["Ingress"],
            "ingress": ingress,
        },
    }
