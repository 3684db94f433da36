"""The conditions of a job."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from tandem_core.job import Condition
from tandem_core.job.conditions import ConditionType, Reason

from tandem_operator.build import Component
from tandem_operator.observe.observed import Observed
from tandem_operator.plan.failures import Trouble
from tandem_operator.plan.job import Plan
from tandem_operator.plan.stage import Stage

DEGRADING = frozenset(
    {Reason.IMAGE_PULL_FAILED, Reason.CONTAINER_CONFIG_ERROR, Reason.ETCD_UNREACHABLE, Reason.REFUSED}
)
"""Reasons that hold a job up because something is broken, not because others are before it."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """A condition without its times."""

    type: ConditionType
    holds: bool
    reason: Reason
    message: str = ""


def plan_conditions(observed: Observed, plan: Plan, troubles: Sequence[Trouble], now: datetime) -> list[Condition]:
    """All conditions; the time of one changes when its status does."""
    before = {condition.type: condition for condition in observed.status.conditions}
    return [
        _date(verdict, before.get(verdict.type), observed.generation, now)
        for verdict in _judge(observed, plan, troubles)
    ]


def _date(verdict: Verdict, before: Condition | None, generation: int, now: datetime) -> Condition:
    status = "True" if verdict.holds else "False"
    since = before.last_transition_time if before is not None and before.status == status else now
    return Condition(
        type=verdict.type.value,
        status="True" if verdict.holds else "False",
        reason=verdict.reason.value,
        message=verdict.message,
        last_transition_time=since,
        observed_generation=generation,
    )


def _judge(observed: Observed, plan: Plan, troubles: Sequence[Trouble]) -> Iterator[Verdict]:
    ending = plan.ending
    yield _accepted(observed, plan)
    yield _ready(observed, plan)
    yield _progressing(observed, plan, troubles)
    yield _degraded(plan, troubles)
    yield _suspended(observed, plan)
    if ending is None:
        yield Verdict(ConditionType.COMPLETE, False, Reason.NOT_FINISHED)
        yield Verdict(ConditionType.FAILED, False, Reason.NOT_FINISHED)
    else:
        done, failed = (ending.complete, not ending.complete)
        yield Verdict(ConditionType.COMPLETE, done, ending.reason, ending.message)
        yield Verdict(ConditionType.FAILED, failed, ending.reason, ending.message)


def _accepted(observed: Observed, plan: Plan) -> Verdict:
    if plan.problem:
        return Verdict(ConditionType.ACCEPTED, False, Reason.INVALID_SPEC, plan.problem)
    if observed.job is not None and observed.job.spec.hybrid.device_allocation == "wholeNode":
        return Verdict(ConditionType.ACCEPTED, True, Reason.WHOLE_NODE, Reason.WHOLE_NODE.remedy)
    return Verdict(ConditionType.ACCEPTED, True, Reason.VALID)


def _ready(observed: Observed, plan: Plan) -> Verdict:
    idle = _idle_reason(plan)
    if idle is not None:
        return Verdict(ConditionType.READY, False, idle)
    wanted = {
        Component.HYBRID: observed.job.spec.hybrid.replicas if observed.job is not None else 1,
        Component.MASTER: 1,
    }
    missing = []
    for component, count in wanted.items():
        ready = sum(pod.ready for pod in observed.pods_of(component))
        if ready < count:
            missing.append(f"{ready} of {count} {component} pods ready")
    if not missing:
        return Verdict(ConditionType.READY, True, Reason.RUNNING)
    begun = observed.records is not None and observed.records.begun
    return Verdict(ConditionType.READY, False, Reason.PODS_NOT_READY if begun else Reason.STARTING, ", ".join(missing))


def _progressing(observed: Observed, plan: Plan, troubles: Sequence[Trouble]) -> Verdict:
    if plan.stage is Stage.SUSPENDING or (plan.stage is Stage.SUSPENDED and observed.pods):
        return Verdict(ConditionType.PROGRESSING, True, Reason.SUSPENDING)
    if plan.stage in (Stage.STOPPING, Stage.REMOVING):
        return Verdict(ConditionType.PROGRESSING, True, Reason.DELETING)
    idle = _idle_reason(plan)
    if idle is not None:
        return Verdict(ConditionType.PROGRESSING, False, idle)
    for trouble in troubles:
        if trouble.blocks:
            return Verdict(ConditionType.PROGRESSING, False, trouble.reason, trouble.message)
    begun = observed.records is not None and observed.records.begun
    return Verdict(ConditionType.PROGRESSING, True, Reason.RUNNING if begun else Reason.STARTING)


def _degraded(plan: Plan, troubles: Sequence[Trouble]) -> Verdict:
    if _idle_reason(plan) is None:
        for trouble in troubles:
            if not trouble.blocks or trouble.reason in DEGRADING:
                return Verdict(ConditionType.DEGRADED, True, trouble.reason, trouble.message)
    return Verdict(ConditionType.DEGRADED, False, Reason.AS_EXPECTED)


def _suspended(observed: Observed, plan: Plan) -> Verdict:
    if plan.stage is Stage.SUSPENDING or (plan.stage is Stage.SUSPENDED and observed.pods):
        return Verdict(ConditionType.SUSPENDED, False, Reason.SUSPENDING)
    if plan.stage is Stage.SUSPENDED:
        return Verdict(ConditionType.SUSPENDED, True, Reason.SUSPENDED)
    return Verdict(ConditionType.SUSPENDED, False, Reason.NOT_SUSPENDED)


def _idle_reason(plan: Plan) -> Reason | None:
    """Why no pods are to be there; None: they are."""
    if plan.stage is Stage.FINISHED:
        return Reason.FINISHED
    if plan.stage is Stage.SUSPENDED:
        return Reason.SUSPENDED
    return Reason.INVALID_SPEC if plan.problem else None
