"""Everything that is wrong with a job at one moment, from all sources."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

from tandem_core.job.conditions import Reason

from tandem_operator.build import Component
from tandem_operator.observe.observed import Observed
from tandem_operator.plan.failures import Trouble
from tandem_operator.resources import DEPLOYMENT, JOB, ObjectKey

RECENT = timedelta(minutes=5)
"""How long something that is over, such as a container that was killed, still counts."""
_NO_PLACE = (Reason.UNSCHEDULABLE, Reason.QUEUED, Reason.QUOTA_EXCEEDED)


def find_troubles(observed: Observed, refused: Mapping[ObjectKey, Trouble], now: datetime) -> list[Trouble]:
    """What is wrong, what holds the job up first. `refused`: objects that the API server did not take."""
    found = [*refused.values(), *_missing_pods(observed), *_held(observed)]
    for pod in observed.pods:
        found += [trouble for trouble in pod.troubles if trouble.ended_at is None or now - trouble.ended_at < RECENT]
    if observed.records is None and observed.etcd_problem:
        found.append(Trouble(Reason.ETCD_UNREACHABLE, observed.etcd_problem, blocks=not observed.jobs))
    if observed.forgotten:
        found.append(Trouble(Reason.ETCD_STATE_LOST, Reason.ETCD_STATE_LOST.meaning, blocks=False))
    summary = observed.records.summary if observed.records is not None else None
    if summary is not None and summary.problem and not summary.phase.final:
        found.append(Trouble(Reason.MEMBER_PROBLEM, summary.problem, blocks=False))
    return sorted(found, key=lambda trouble: not trouble.blocks)


def wait_for_a_place(observed: Observed) -> bool:
    """Whether pods without which the job cannot go on wait for devices, a queue or a quota."""
    found = [*_missing_pods(observed), *_held(observed)]
    found += [trouble for pod in observed.working_pods for trouble in pod.troubles]
    return any(trouble.reason in _NO_PLACE and trouble.blocks and trouble.ended_at is None for trouble in found)


def next_change(troubles: Sequence[Trouble], now: datetime) -> float | None:
    """Seconds until the first of what is over no longer counts."""
    ends = [(trouble.ended_at + RECENT - now).total_seconds() for trouble in troubles if trouble.ended_at is not None]
    return max(0.0, min(ends)) if ends else None


def _missing_pods(observed: Observed) -> list[Trouble]:
    """Why controllers could not make pods that there should be."""
    found = []
    for key, trouble in observed.refusals.items():
        component = key.name.removeprefix(f"{observed.key.name}-")
        live = [pod for pod in observed.pods if pod.component == component and not pod.failed]
        if key.kind is JOB and len(live) < _expected(observed, component):
            found.append(trouble)
    for key, child in observed.own.items():
        if key.kind is DEPLOYMENT and child.holds("ReplicaFailure"):
            found.append(Trouble(Reason.QUOTA_EXCEEDED, child.conditions["ReplicaFailure"][2], blocks=False))
    return found


def _held(observed: Observed) -> list[Trouble]:
    """Jobs that somebody else, mostly Kueue, has suspended."""
    return [
        Trouble(Reason.QUEUED, f"Job {child.key.name} waits for its queue", blocks=True)
        for child in observed.jobs
        if child.held
    ]


def _expected(observed: Observed, component: str) -> int:
    if component == Component.HYBRID and observed.job is not None:
        return observed.job.spec.hybrid.replicas
    return 1
