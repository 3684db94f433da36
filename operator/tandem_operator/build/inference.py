"""Inference pods: engines without a trainer, more of them while rollouts lag behind."""

from tandem_core.environment import CHECKPOINT_ENGINE_PORT
from tandem_core.job import RLJob

from tandem_operator.build.devices import claim_devices
from tandem_operator.build.names import Component, build_object, component_name, component_selector
from tandem_operator.build.pods import build_probe, build_template, build_volumes
from tandem_operator.build.settings import BuildSettings, KubernetesObject
from tandem_operator.build.sidecar import build_sidecar

TERMINATION_GRACE_SECONDS = 60
"""Time to hand partial answers back to the master."""


def build_inference_deployment(job: RLJob, settings: BuildSettings, replicas: int | None = None) -> KubernetesObject:
    """The Deployment with `replicas` pods, kept within spec.elastic. Suspended: none.

    None: elastic.replicas, or as few as allowed.
    """
    elastic = job.spec.elastic
    wish = elastic.replicas if replicas is None else replicas
    wanted = min(max(wish or 0, elastic.min), elastic.max)
    engine = build_sidecar(job, settings, Component.INFERENCE)
    engine["readinessProbe"] = build_probe(job, "/readyz", CHECKPOINT_ENGINE_PORT, period_seconds=5, failures=3)
    spec: KubernetesObject = {
        "shareProcessNamespace": True,
        "terminationGracePeriodSeconds": TERMINATION_GRACE_SECONDS,
        "containers": [engine],
        "volumes": build_volumes(job, settings),
    }
    claim_devices(job, settings, Component.INFERENCE, spec, [engine])
    name = component_name(job, Component.INFERENCE)
    return {
        **build_object(job, "apps/v1", "Deployment", name, Component.INFERENCE),
        "spec": {
            "replicas": 0 if job.spec.suspend else wanted,
            "revisionHistoryLimit": 2,
            # No surge: there may be no spare GPUs to surge to.
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 0, "maxUnavailable": "25%"}},
            "selector": {"matchLabels": component_selector(job, Component.INFERENCE)},
            "template": build_template(job, settings, Component.INFERENCE, spec),
        },
    }
