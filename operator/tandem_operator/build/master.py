"""The rollout master: one pod that drives the phases and keeps the replay buffer."""

from tandem_core.environment import MASTER_PORT
from tandem_core.job import RLJob

from tandem_operator.build.jobs import build_indexed_job
from tandem_operator.build.names import Component
from tandem_operator.build.pods import (
    build_container,
    build_life_probes,
    build_probe,
    build_template,
    build_volumes,
    mount_data,
)
from tandem_operator.build.settings import BuildSettings, KubernetesObject

MASTER_CONTAINER = "master"
TERMINATION_GRACE_SECONDS = 30
DATABASE_VARIABLE = "TANDEM_DATABASE_URL"
"""Address of the replay buffer where it is not a SQLite file in TANDEM_DATA_DIR."""


def build_master_job(job: RLJob, settings: BuildSettings) -> KubernetesObject:
    """The Indexed Job with the one pod <job>-master-0."""
    image = job.spec.images.rollout or settings.rollout_image
    master = {
        **build_container(job, settings, Component.MASTER, MASTER_CONTAINER, image, ["python", "-m", "tandem_rollout"]),
        "ports": [{"name": "http", "containerPort": MASTER_PORT}],
        **build_life_probes(job, MASTER_PORT),
        "readinessProbe": build_probe(job, "/readyz", MASTER_PORT, period_seconds=5, failures=3),
    }
    if job.spec.storage.url_secret is not None:
        key = {"name": job.spec.storage.url_secret, "key": "url"}
        master["env"].append({"name": DATABASE_VARIABLE, "valueFrom": {"secretKeyRef": key}})
    spec: KubernetesObject = {
        "restartPolicy": "Never",
        "subdomain": job.metadata.name,
        "terminationGracePeriodSeconds": TERMINATION_GRACE_SECONDS,
        "containers": [master],
        "volumes": build_volumes(job, settings),
    }
    mount_data(job, spec, master)
    template = build_template(job, settings, Component.MASTER, spec)
    return build_indexed_job(job, Component.MASTER, completions=1, main_container=MASTER_CONTAINER, template=template)
