"""Which objects there are to be, and which are to go."""

from collections.abc import Callable
from dataclasses import dataclass

from tandem_core.job import RLJob

from tandem_operator.build import Component, KubernetesObject
from tandem_operator.observe.children import Child
from tandem_operator.observe.observed import Observed
from tandem_operator.plan.stage import Stage
from tandem_operator.resources import CLAIM_TEMPLATE, DEPLOYMENT, JOB, ObjectKey, object_key

REMOVABLE = frozenset({DEPLOYMENT, CLAIM_TEMPLATE})
"""Kinds of which an object goes when the specification no longer asks for it: elastic.max may become 0."""


@dataclass(frozen=True, slots=True)
class ObjectPlan:
    """What is to be written, and what deleted."""

    apply: tuple[KubernetesObject, ...] = ()
    """In this order; what is there as it should be is not written."""
    delete: tuple[Child, ...] = ()


type Builder = Callable[[RLJob, int | None], list[KubernetesObject]]
"""All objects of a job with that many inference pods, None: as few as it allows; raises OverlayError."""


def plan_objects(
    observed: Observed, job: RLJob, build: Builder, stage: Stage, inference_replicas: int | None
) -> ObjectPlan:
    """The objects of a job in `stage`; raises OverlayError.

    Jobs are made only for a job that runs, and deleted where one has stopped: what they are then is a new beginning.
    A job that is to stop keeps its pods until it has. Inference pods go at once: they have nothing to save.
    """
    spec = job.spec.model_copy(update={"suspend": False})  # pods that there are to be are not suspended
    built = build(job.model_copy(update={"spec": spec}), inference_replicas)
    keyed = {object_key(item): item for item in built}
    own = observed.own
    if stage is not Stage.RUNNING:
        keyed = {key: _without_pods(item) for key, item in keyed.items() if key.kind is not JOB}
    elif waits_for_queue(observed, job):
        del keyed[ObjectKey(JOB, f"{observed.key.name}-{Component.MASTER}")]
    apply = tuple(keyed.values())
    delete = [child for key, child in own.items() if key.kind in REMOVABLE and key not in keyed]
    if stage in (Stage.SUSPENDED, Stage.RESUMING):
        delete += observed.jobs
    return ObjectPlan(apply, tuple(child for child in delete if not child.deleting))


def waits_for_queue(observed: Observed, job: RLJob) -> bool:
    """Whether Kueue has not let the hybrid pods start yet: a master without them would only take room."""
    if job.spec.scheduling.gang != "kueue" or observed.workload(Component.MASTER) is not None:
        return False
    hybrid = observed.workload(Component.HYBRID)
    return hybrid is None or hybrid.held


def _without_pods(item: KubernetesObject) -> KubernetesObject:
    """A Deployment with no pods; other objects as they are."""
    if "replicas" not in item.get("spec", {}):
        return item
    return {**item, "spec": {**item["spec"], "replicas": 0}}
