"""The plan for a job: all that is to be done now, from all that is known of it."""

from dataclasses import dataclass, field
from datetime import datetime, timedelta

from tandem_core.coordination.records import Control

from tandem_operator.build import KubernetesObject, OverlayError
from tandem_operator.observe.children import Child
from tandem_operator.observe.observed import Observed
from tandem_operator.plan.control import plan_control
from tandem_operator.plan.objects import Builder, plan_objects
from tandem_operator.plan.removal import Removal, plan_removal
from tandem_operator.plan.scaling import ScalePlan, plan_scale
from tandem_operator.plan.stage import Ending, Stage, find_ending, plan_stage
from tandem_operator.plan.troubles import wait_for_a_place

GRACE_ANNOTATION = "tandem.dev/grace-period-seconds"
"""On an RLJob: how long it has to save a checkpoint when it is suspended or deleted, in the place of the setting."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be done for a job, in the order of the fields."""

    stage: Stage
    problem: str = ""
    """Why the specification cannot be carried out."""
    ending: Ending | None = None
    protect: bool = False
    """Whether the finalizer is to be put on the job: before anything of it is in etcd."""
    delete: tuple[Child, ...] = ()
    clear_records: bool = False
    """Whether everything that the job has in etcd is to go, so that it begins anew from its checkpoint."""
    give_access: bool = False
    """Whether the job's user and role in etcd are to be there as they should: before pods need them."""
    control: Control | None = None
    """What etcd is to say; None: it is left alone."""
    apply: tuple[KubernetesObject, ...] = ()
    removal: Removal | None = None
    """For a job that goes."""
    expire: bool = False
    """Whether the job is to be deleted because its time after its end is over."""
    scale: ScalePlan = field(default_factory=ScalePlan)
    """For the inference pods; `control` and `apply` follow it."""
    expires_at: datetime | None = None


def plan_job(observed: Observed, build: Builder, grace_seconds: float, now: datetime) -> Plan:
    """What is to be done. `grace_seconds` is the installation's; an annotation of the job goes before it."""
    grace = _grace(observed, grace_seconds)
    stage = plan_stage(observed, grace, now)
    if stage in (Stage.STOPPING, Stage.REMOVING):
        return _plan_deletion(observed, stage, grace, now)
    ending = find_ending(observed)
    job = observed.job
    if job is None:
        return Plan(stage, observed.problem, ending)
    try:
        scale = plan_scale(observed, job, now) if stage is Stage.RUNNING else ScalePlan()
        objects = plan_objects(observed, job, build, stage, scale.replicas)
    except OverlayError as error:
        return Plan(Stage.INVALID if ending is None else stage, str(error), ending)
    clear = stage is Stage.RESUMING and observed.records is not None and not observed.jobs
    expires_at = _expiry(observed, ending, now)
    return Plan(
        stage,
        ending=ending,
        protect=not observed.protected,
        delete=objects.delete,
        clear_records=clear,
        give_access=stage is Stage.RUNNING and not observed.jobs,
        control=_control(observed, stage, scale.draining),
        scale=scale,
        apply=objects.apply,
        expire=expires_at is not None and observed.status.completion_time is not None and now >= expires_at,
        expires_at=expires_at,
    )


def _plan_deletion(observed: Observed, stage: Stage, grace: float, now: datetime) -> Plan:
    control = _control(observed, stage)
    if not observed.protected:
        return Plan(stage)
    if stage is Stage.STOPPING:
        return Plan(stage, control=control)
    removal = plan_removal(observed, grace, now)
    return Plan(stage, delete=removal.delete, removal=removal)


def _control(observed: Observed, stage: Stage, draining: tuple[str, ...] = ()) -> Control | None:
    """The record where it is not there yet; a job that ended, or that is asleep, has no use for one."""
    if observed.job is None or observed.records is None or stage in (Stage.FINISHED, Stage.RESUMING, Stage.SUSPENDED):
        return None
    control = plan_control(observed.job, stage, draining, pods_wait=wait_for_a_place(observed))
    return control if control != observed.records.control else None


def _grace(observed: Observed, default: float) -> float:
    text = observed.annotations.get(GRACE_ANNOTATION, "")
    try:
        return max(0.0, float(text))
    except ValueError:
        return default


def _expiry(observed: Observed, ending: Ending | None, now: datetime) -> datetime | None:
    """When the job, whose end is told by then, is to be deleted; None: never."""
    seconds = observed.job.spec.ttl_seconds_after_finished if observed.job is not None else None
    if ending is None or seconds is None:
        return None
    return (observed.status.completion_time or now) + timedelta(seconds=seconds)
