"""What a job waits for. Pure."""

from collections.abc import Iterator
from dataclasses import dataclass

from tandem_core.coordination.records import Ack, PhaseRecord, Role
from tandem_core.job import Condition
from tandem_core.job.conditions import ConditionType, Reason
from tandem_core.phases import Phase
from tandem_operator.build import Component
from tandem_rollout.expected_members import list_names, missing_members, sidecar_names, trainer_names

from tandem_local.inspection.facts import JobFacts, PodFacts

OPERATOR_SECONDS = 30.0
"""How long a new job may be without a word of the operator."""
LOOK_AT_OPERATOR = (
    "See whether the operator runs: kubectl -n tandem-system get pods, and its logs; and whether it looks after this "
    "namespace (the chart's value `namespaces`)."
)


@dataclass(frozen=True, slots=True)
class Wait:
    """Something that has to happen before the job goes on."""

    text: str
    remedy: str = ""
    """What a person can do; empty: nothing has to be done."""
    since: float | None = None
    """Unix time in seconds."""


def find_waits(facts: JobFacts, now: float) -> list[Wait]:
    """What the job waits for, what holds it up first; empty: it has ended, or nothing holds it up."""
    if facts.finished:
        return []
    if facts.deleting:
        return [Wait("its end: it saves a checkpoint, its pods go, then its keys in etcd")]
    held = [*_without_operator(facts, now), *_by_conditions(facts)]
    if held:
        return held
    needed = [pod for pod in facts.pods if not pod.ended and pod.component != Component.INFERENCE]
    pods = [wait for pod in needed for wait in _by_pod(pod)]
    return [*pods, *_by_master(facts), *_by_phase(facts)]


def find_condition(facts: JobFacts, kind: ConditionType) -> Condition | None:
    """The condition of that type; None: the operator has not written it yet."""
    return next((condition for condition in facts.status.conditions if condition.type == kind), None)


def find_remedy(reason: str) -> str:
    """What a person can do about a condition's reason; empty: nothing has to be done, or the reason is not known."""
    return next((known.remedy for known in Reason if known.value == reason), "")


def _without_operator(facts: JobFacts, now: float) -> Iterator[Wait]:
    observed = facts.status.observed_generation
    if not facts.status.conditions:
        late = now - facts.created_at > OPERATOR_SECONDS
        yield Wait("the operator, which has not said anything yet", LOOK_AT_OPERATOR if late else "", facts.created_at)
    elif observed is not None and observed < facts.generation:
        yield Wait("the operator, which has not seen the newest edit yet", LOOK_AT_OPERATOR)


def _by_conditions(facts: JobFacts) -> Iterator[Wait]:
    accepted = find_condition(facts, ConditionType.ACCEPTED)
    if accepted is not None and accepted.status == "False":
        yield _wait_of(accepted)
        return
    suspended = find_condition(facts, ConditionType.SUSPENDED)
    if suspended is not None and suspended.status == "True":
        yield Wait(
            "being resumed: it is suspended",
            f'kubectl patch rljob {facts.name} --type merge -p \'{{"spec": {{"suspend": false}}}}\'',
            suspended.last_transition_time.timestamp(),
        )
        return
    progressing = find_condition(facts, ConditionType.PROGRESSING)
    if progressing is not None and (progressing.status == "False" or progressing.reason == Reason.SUSPENDING):
        yield _wait_of(progressing)


def _wait_of(condition: Condition) -> Wait:
    meaning = next((known.meaning for known in Reason if known.value == condition.reason), "")
    text = f"{condition.reason}: {condition.message or meaning}"
    return Wait(text, find_remedy(condition.reason), condition.last_transition_time.timestamp())


def _by_pod(pod: PodFacts) -> Iterator[Wait]:
    if pod.troubles:
        yield from (Wait(trouble) for trouble in pod.troubles)
        return
    if pod.ready:
        return
    states = [f"{item.name} {item.state}" for item in pod.containers if not item.ready and item.state != "completed"]
    yield Wait(f"pod {pod.object_name} to be ready ({', '.join(states) or pod.state})")


def _by_master(facts: JobFacts) -> Iterator[Wait]:
    if facts.summary is not None and facts.summary.problem and not facts.summary.phase.final:
        yield Wait(facts.summary.problem)


def _by_phase(facts: JobFacts) -> Iterator[Wait]:
    """What ends the phase."""
    snapshot, job = facts.snapshot, facts.job
    if snapshot is None or snapshot.phase is None or job is None:
        return
    record, text = snapshot.phase, ""
    match record.phase:
        case Phase.WARMUP:
            present = {f"{member.role}/{member.name}": member for member in snapshot.members}
            told = facts.summary.message if facts.summary is not None else ""
            text = list_names(tuple(missing_members(job, present))) or told or "the warm-up's steps, or its checkpoint"
        case Phase.ROLLOUT:
            text = _describe_rollout(facts)
        case Phase.DRAINING | Phase.LOADING:
            text = _list_missing(sidecar_names(job), record, snapshot.acks)
        case Phase.TRAINING | Phase.PUBLISHING:
            text = _list_missing(trainer_names(job), record, snapshot.acks)
        case Phase.DONE:
            text = _list_missing(trainer_names(job), record, snapshot.acks) or "its pods to end"
    if text:
        yield Wait(f"{record.phase} of iteration {record.iteration}: {text}", since=record.started_at)


def _describe_rollout(facts: JobFacts) -> str:
    engines = [member for member in facts.snapshot.members if member.engine is not None] if facts.snapshot else []
    serving = sum(member.engine.state == "serving" for member in engines if member.engine is not None)
    load = facts.snapshot.load if facts.snapshot is not None else None
    left = f", about {load.outstanding_tokens:,.0f} tokens left" if load is not None and load.outstanding_tokens else ""
    return f"answers; {serving} of {len(engines)} engines serve{left}"


def _list_missing(expected: tuple[str, ...], record: PhaseRecord, acks: tuple[Ack, ...]) -> str:
    answered = {ack.member for ack in acks if ack.phase is record.phase and not ack.error}
    missing = tuple(name for name in expected if name not in answered)
    if not missing:
        return ""
    role = "engines" if missing[0].startswith(Role.SIDECAR) else "ranks"
    return f"{len(missing)} of {len(expected)} {role}: {list_names(missing)}"
