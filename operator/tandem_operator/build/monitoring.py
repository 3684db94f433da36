"""Metrics for the Prometheus operator."""

from tandem_core.job import RLJob

from tandem_operator.build.names import COMPONENT_LABEL, JOB_LABEL, build_object, job_selector, token_name
from tandem_operator.build.pods import TOKEN_FILE_NAME
from tandem_operator.build.settings import KubernetesObject

METRIC_PORTS = ("http", "checkpoint", "metrics", "engine")
"""Names of the container ports that serve /metrics: master, checkpoint engine, trainer, vLLM."""


def build_pod_monitor(job: RLJob) -> KubernetesObject:
    """The PodMonitor of all pods of the job; it shows the job's token."""
    credentials = {"name": token_name(job), "key": TOKEN_FILE_NAME}
    return {
        **build_object(job, "monitoring.coreos.com/v1", "PodMonitor", job.metadata.name),
        "spec": {
            "selector": {"matchLabels": job_selector(job)},
            "podTargetLabels": [JOB_LABEL, COMPONENT_LABEL],
            "podMetricsEndpoints": [
                {"port": port, "path": "/metrics", "authorization": {"type": "Bearer", "credentials": credentials}}
                for port in METRIC_PORTS
            ],
        },
    }
