"""Where in its life a job is: a pure function, asked anew each time, of what is there."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from tandem_core.job import Condition
from tandem_core.job.conditions import ConditionType, Reason
from tandem_core.phases import Phase

from tandem_operator.build import Component
from tandem_operator.observe.observed import Observed
from tandem_operator.plan.failures import Trouble


class Stage(StrEnum):
    """What the operator is about with a job."""

    INVALID = "invalid"
    """Its specification cannot be carried out: nothing is touched."""
    RUNNING = "running"
    SUSPENDING = "suspending"
    """Asked to save a checkpoint and end; its pods are left alone."""
    SUSPENDED = "suspended"
    RESUMING = "resuming"
    """What a stopped job left behind is cleared away, or the pods of one that etcd has forgotten."""
    FINISHED = "finished"
    STOPPING = "stopping"
    """To be deleted, and asked to save a checkpoint and end."""
    REMOVING = "removing"
    """To be deleted: pods go, then everything in etcd, then the job."""


@dataclass(frozen=True, slots=True)
class Ending:
    """How a job ended for good."""

    complete: bool
    reason: Reason
    message: str


def plan_stage(observed: Observed, grace_seconds: float, now: datetime) -> Stage:
    """The stage of the job. `grace_seconds` is how long a job that is to stop has for its checkpoint."""
    if observed.deleted_at is not None:
        waited = now - observed.deleted_at
        return Stage.STOPPING if _may_stop(observed, waited, grace_seconds) else Stage.REMOVING
    if find_ending(observed) is not None:
        return Stage.FINISHED
    if observed.job is None:
        return Stage.INVALID
    records = observed.records
    if observed.job.spec.suspend:
        since = observed.status.stop_requested_time
        waited = timedelta(0) if since is None else now - since
        return Stage.SUSPENDING if _may_stop(observed, waited, grace_seconds) else Stage.SUSPENDED
    if observed.forgotten:
        return Stage.RESUMING  # its pods rely on what is gone
    if records is not None and (records.stopped or (records.stop_asked and not observed.jobs)):
        return Stage.RESUMING
    if records is None and observed.status.phase == "Suspended":
        return Stage.RESUMING  # what is in etcd has to be cleared first, and etcd does not answer
    return Stage.RUNNING


def _may_stop(observed: Observed, waited: timedelta, grace_seconds: float) -> bool:
    """Whether the job is at work and has time left to save a checkpoint."""
    records = observed.records
    if not observed.working_pods or waited.total_seconds() >= grace_seconds:
        return False
    # Pods that have never met have nothing to save. Those of a job that is over end by themselves, after they saved.
    return records is None or records.begun


def find_ending(observed: Observed) -> Ending | None:
    """How the job has ended for good; None: it has not. What was published once stays."""
    if (told := _find_told(observed)) is not None:
        return Ending(told.type == ConditionType.COMPLETE, _reason(told.reason), told.message)
    phase = observed.records.phase if observed.records is not None else None
    if phase is not None and phase.phase is Phase.FAILED:
        return Ending(False, Reason.JOB_FAILED, phase.reason)
    for child in observed.jobs:
        if child.holds("Failed"):
            return _failed_job(observed, child.key.name, *child.conditions["Failed"][1:])
    # Without etcd it cannot be told from a job that was asked to stop.
    ended = observed.records is not None and not observed.records.stopped and not observed.records.stop_asked
    if ended and all(_complete(observed, component) for component in (Component.HYBRID, Component.MASTER)):
        return Ending(True, Reason.ITERATIONS_DONE, "all iterations are done and the model is saved")
    return None


def lacks_last_words(observed: Observed) -> bool:
    """Whether a Job is known to have failed before any of its pods is: their news come by a watch of their own."""
    failed = any(child.holds("Failed") for child in observed.jobs)
    return failed and _find_told(observed) is None and last_trouble(observed) is None


def _find_told(observed: Observed) -> Condition | None:
    """The condition that has told of the job's end; None: none has."""
    ends = (ConditionType.COMPLETE, ConditionType.FAILED)
    return next((item for item in observed.status.conditions if item.status == "True" and item.type in ends), None)


def _complete(observed: Observed, component: Component) -> bool:
    child = observed.workload(component)
    return child is not None and child.holds("Complete")


def _failed_job(observed: Observed, name: str, reason: str, message: str) -> Ending:
    last = last_trouble(observed)
    words = f"{last.message} ({message})" if last is not None else f"Job {name}: {message}"
    if reason == "PodFailurePolicy":
        return Ending(False, last.reason if last is not None else Reason.JOB_FAILED, words)
    return Ending(False, Reason.BACKOFF_LIMIT_EXCEEDED, words)


def last_trouble(observed: Observed) -> Trouble | None:
    """The newest way in which a pod ended wrongly."""
    ended = [trouble for pod in observed.pods for trouble in pod.troubles if trouble.ended_at is not None]
    return max(ended, key=lambda trouble: trouble.ended_at.timestamp() if trouble.ended_at else 0.0, default=None)


def _reason(text: str) -> Reason:
    try:
        return Reason(text)
    except ValueError:  # of another version of the operator
        return Reason.JOB_FAILED
