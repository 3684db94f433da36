"""How many of a job's pods may be evicted at a time."""

from tandem_core.job import RLJob

from tandem_operator.build.names import COMPONENT_LABEL, Component, build_object, job_selector
from tandem_operator.build.settings import KubernetesObject


def build_disruption_budget(job: RLJob) -> KubernetesObject:
    """One hybrid or master pod at a time: the job recovers from each, and a node can still be drained.

    The number is absolute because Jobs have no scale subresource for Kubernetes to take a share of. Inference pods
    come and go as they are.
    """
    stateful = [Component.HYBRID.value, Component.MASTER.value]
    return {
        **build_object(job, "policy/v1", "PodDisruptionBudget", job.metadata.name),
        "spec": {
            "minAvailable": job.spec.hybrid.replicas,
            "selector": {
                "matchLabels": job_selector(job),
                "matchExpressions": [{"key": COMPONENT_LABEL, "operator": "In", "values": stateful}],
            },
        },
    }
