"""Metrics for the Prometheus operator."""

import re

from tandem_core.job import RLJob
from tandem_core.tls import CA_FILE

from tandem_operator.build.names import (
    COMPONENT_LABEL,
    JOB_LABEL,
    build_object,
    certificate_host,
    certificate_name,
    job_selector,
    token_name,
)
from tandem_operator.build.pods import TOKEN_FILE_NAME
from tandem_operator.build.settings import BuildSettings, KubernetesObject

METRIC_PORTS = ("http", "checkpoint", "metrics", "engine")
"""Names of the container ports that serve /metrics: master, checkpoint engine, trainer, vLLM."""


RELABELINGS = [
    {"sourceLabels": [f"__meta_kubernetes_pod_label_{re.sub('[^a-z]', '_', label)}"], "targetLabel": target}
    for label, target in ((JOB_LABEL, "rljob"), (COMPONENT_LABEL, "component"))
]
"""Labels that every series has beside namespace and pod; Prometheus' own label job is the name of the PodMonitor."""


def build_pod_monitor(job: RLJob, settings: BuildSettings) -> KubernetesObject:
    """The PodMonitor of all pods of the job; it shows the job's token."""
    credentials = {"name": token_name(job), "key": TOKEN_FILE_NAME}
    item = build_object(job, "monitoring.coreos.com/v1", "PodMonitor", job.metadata.name)
    item["metadata"]["labels"] = {**settings.monitoring_labels, **item["metadata"]["labels"]}
    endpoint: KubernetesObject = {
        "path": "/metrics",
        "interval": settings.monitoring_interval,
        "authorization": {"type": "Bearer", "credentials": credentials},
        "relabelings": RELABELINGS,
    }
    if job.spec.security.tls:
        authority = {"secret": {"name": certificate_name(job), "key": CA_FILE}}
        endpoint |= {"scheme": "https", "tlsConfig": {"ca": authority, "serverName": certificate_host(job)}}
    return {
        **item,
        "spec": {
            "selector": {"matchLabels": job_selector(job)},
            "podMetricsEndpoints": [{"port": port, **endpoint} for port in METRIC_PORTS],
        },
    }
