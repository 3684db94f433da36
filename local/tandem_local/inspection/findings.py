"""What seems to be wrong with a job. Pure: rules over conditions, pods, Events, logs and what stands in etcd."""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from tandem_core.coordination.records import EngineState
from tandem_core.job.conditions import ConditionType, Reason
from tandem_core.job.operations import DeadlineSpec
from tandem_core.phases import Phase
from tandem_rollout.expected_members import list_names, missing_members

from tandem_local.inspection.facts import JobFacts
from tandem_local.inspection.log_rules import last_error, match_rules
from tandem_local.inspection.waits import LOOK_AT_OPERATOR, OPERATOR_SECONDS, find_remedy
from tandem_local.progress import describe_duration

MANY_RESTARTS = 3
SILENT_SECONDS = 120.0
"""A master writes every few seconds while a phase changes anything."""
LONG_SHARE = 0.5
"""Of its deadline: a phase that has taken so long is worth a word."""
RECENT_SECONDS = 15 * 60.0
"""Events that are older tell of what is over."""

EVENT_REMEDIES = {
    "FailedScheduling": "Compare the pods' requests with what nodes have left: kubectl describe nodes.",
    "FailedMount": "See whether the volume, Secret or ConfigMap that it names is there.",
    "FailedAttachVolume": "A volume that one node still holds: wait, or look at the storage's own controller.",
    "ProvisioningFailed": "See the StorageClass: kubectl get storageclass; checkpoint.storageClass names another one.",
    "FailedCreate": "A quota or an admission check: the message is its own.",
    "FailedCreatePodSandBox": "The node's container runtime or network: look at the node.",
    "FailedPrepareDynamicResources": "The driver of the GPUs on that node: look at its pods.",
    "Failed": "See the image's name, and the registry's Secret (imagePullSecrets in spec.pods).",
    "Unhealthy": "A probe failed: the container did not answer in time. Its log says what it was doing.",
    "BackOff": "A container ends again and again: its log of before (kubectl logs --previous) says why.",
}
"""What a person can do, by the reasons of other programs' Events."""


class Level(StrEnum):
    """How bad it is."""

    BAD = "bad"
    """The job does not go on, or has ended."""
    ADVICE = "advice"
    """It goes on; or it is not certain that something is wrong."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that seems to be wrong."""

    level: Level
    what: str
    remedy: str = ""
    evidence: str = ""
    """Where that comes from."""


def find_problems(facts: JobFacts, now: float) -> list[Finding]:
    """What seems to be wrong, the worst first, what is likelier to be the cause before what follows from it."""
    found = [
        *_operator(facts, now),
        *_conditions(facts),
        *_pods(facts),
        *_coordination(facts, now),
        *_members(facts),
        *_logs(facts),
        *_events(facts, now),
        *(Finding(Level.ADVICE, f"could not be read: {problem}") for problem in facts.problems),
    ]
    unique = {(finding.what, finding.evidence): finding for finding in reversed(found)}
    return sorted(reversed(unique.values()), key=lambda finding: finding.level is not Level.BAD)


def _operator(facts: JobFacts, now: float) -> Iterator[Finding]:
    status = facts.status
    silent = not status.conditions and now - facts.created_at > OPERATOR_SECONDS
    if silent or (status.observed_generation is not None and status.observed_generation < facts.generation):
        what = "has not said anything" if silent else "has not seen the newest edit"
        yield Finding(Level.BAD, f"the operator {what}", LOOK_AT_OPERATOR, "the job's status")


def _conditions(facts: JobFacts) -> Iterator[Finding]:
    wrong = {
        (ConditionType.ACCEPTED, "False"): Level.BAD,
        (ConditionType.FAILED, "True"): Level.BAD,
        (ConditionType.PROGRESSING, "False"): Level.BAD,
        (ConditionType.DEGRADED, "True"): Level.ADVICE,
    }
    quiet = (Reason.FINISHED, Reason.SUSPENDED)
    for condition in facts.status.conditions:
        level = wrong.get((ConditionType(condition.type), condition.status)) if _known(condition.type) else None
        if level is None or condition.reason in quiet:
            continue
        waits = condition.reason == Reason.QUEUED
        yield Finding(
            Level.ADVICE if waits else level,
            f"{condition.reason}: {condition.message}",
            find_remedy(condition.reason),
            f"condition {condition.type}={condition.status}",
        )


def _known(kind: str) -> bool:
    return kind in set(ConditionType)


def _pods(facts: JobFacts) -> Iterator[Finding]:
    told = " ".join(condition.message for condition in facts.status.conditions)
    for pod in facts.pods:
        for trouble in pod.troubles:
            if trouble not in told:
                yield Finding(Level.ADVICE, trouble, "", f"pod {pod.object_name}")
        for container in pod.containers:
            if container.restarts >= MANY_RESTARTS:
                last = f", the last time: {container.last_end}" if container.last_end else ""
                yield Finding(
                    Level.ADVICE,
                    f"container {container.name} was started again {container.restarts} times{last}",
                    "Its log of before (kubectl logs --previous) says why it ended.",
                    f"pod {pod.object_name}",
                )


def _coordination(facts: JobFacts, now: float) -> Iterator[Finding]:
    """What does not go on, although it should."""
    snapshot = facts.snapshot
    if snapshot is None or snapshot.phase is None or facts.finished:
        return
    record, summary = snapshot.phase, snapshot.summary
    masters = [pod for pod in facts.pods if pod.component == "master" and pod.ready]
    if masters and not snapshot.led:
        yield Finding(
            Level.ADVICE,
            "no master leads, although its pod is ready",
            "If that lasts longer than 15 s, look at the master's log: it has lost etcd.",
            "the key leader in etcd",
        )
    for ack in snapshot.acks:
        if ack.error:
            what = f"{ack.member} could not do its part of {ack.phase}: {ack.error}"
            yield Finding(Level.BAD, what, f"Look at the log of {ack.member}.", "acknowledgements in etcd")
    seconds = now - record.started_at
    deadline = _deadline(facts.job.spec.deadlines, record.phase) if facts.job is not None else None
    if deadline is not None and seconds > LONG_SHARE * deadline:
        yield Finding(
            Level.ADVICE,
            f"{record.phase} of iteration {record.iteration} has lasted {describe_duration(seconds)}, and its deadline "
            f"is {describe_duration(deadline)}",
            f"If it only needs longer, raise spec.deadlines.{record.phase.lower()}; else look at whom it waits for.",
            "the key phase in etcd",
        )
    if summary is not None and snapshot.load is not None and record.phase is Phase.ROLLOUT:
        silence = now - max(summary.updated_at, snapshot.load.measured_at)
        if silence > SILENT_SECONDS:
            yield Finding(
                Level.BAD,
                f"the master has reported nothing for {describe_duration(silence)} in a rollout phase",
                "Look at the master's log; a master that hangs is killed by its liveness probe.",
                "the key load in etcd",
            )


def _members(facts: JobFacts) -> Iterator[Finding]:
    snapshot = facts.snapshot
    if snapshot is None or snapshot.phase is None or facts.finished:
        return
    if facts.job is not None and snapshot.phase.phase not in (Phase.WARMUP, Phase.DONE):
        present = {f"{member.role}/{member.name}": member for member in snapshot.members}
        missing = tuple(missing_members(facts.job, present))
        if missing:
            what = f"{list_names(missing)} gone: the job waits for their return"
            yield Finding(Level.ADVICE, what, "Look at the pods' events and logs.", "members in etcd")
    for member in snapshot.members:
        if member.problem:
            yield Finding(Level.ADVICE, f"{member.role}-{member.name}: {member.problem}", "", "members in etcd")
        engine, newest = member.engine, snapshot.newest_version
        if engine is None:
            continue
        if engine.state is EngineState.FAILED:
            what = f"the engine of {member.pod} has failed"
            yield Finding(Level.ADVICE, what, f"Look at the log of {member.pod}/inference.", "members in etcd")
        if engine.state is EngineState.SERVING and newest is not None and newest - engine.version > _staleness(facts):
            yield Finding(
                Level.ADVICE,
                f"the engine of {member.pod} serves version {engine.version}, and {newest} is committed",
                f"Look at the log of {member.pod}/inference: it cannot load the newer one.",
                "members in etcd",
            )
        if engine.restarts >= MANY_RESTARTS:
            what = f"the engine of {member.pod} was started again {engine.restarts} times"
            yield Finding(Level.ADVICE, what, f"Look at the log of {member.pod}/inference.", "members in etcd")


def _logs(facts: JobFacts) -> Iterator[Finding]:
    """What is in the logs; in those of a job that goes on, or is done, it may be over."""
    failed = any(item.type == ConditionType.FAILED and item.status == "True" for item in facts.status.conditions)
    level = Level.BAD if failed else Level.ADVICE
    broken = {
        f"{pod.object_name}/{container.name}"
        for pod in facts.pods
        for container in pod.containers
        if container.last_end
    }
    for name, lines in facts.logs.items():
        matches = match_rules(lines)
        for match in matches:
            yield Finding(level, f"{match.rule.meaning}: {match.line}", match.rule.remedy, f"log of {name}")
        if not matches and name in broken and (error := last_error(lines)):
            yield Finding(level, f"the last error of a container that ended: {error}", "", f"log of {name}")


def _events(facts: JobFacts, now: float) -> Iterator[Finding]:
    """What other programs than the operator warn of."""
    if facts.finished:
        return
    own = set(Reason)
    for event in sorted(facts.events, key=lambda event: event.at, reverse=True):
        if not event.warning or event.reason in own or now - event.at > RECENT_SECONDS:
            continue
        remedy = EVENT_REMEDIES.get(event.reason, "")
        count = f" ({event.count} times)" if event.count > 1 else ""
        yield Finding(Level.ADVICE, f"{event.reason}: {event.message}{count}", remedy, f"Event of {event.about}")


def _deadline(deadlines: DeadlineSpec, phase: Phase) -> float | None:
    name = phase.lower()
    return float(getattr(deadlines, name)) if name in DeadlineSpec.model_fields else None


def _staleness(facts: JobFacts) -> int:
    """How many versions an engine may be behind without a word: one is being loaded while others train."""
    return 1 + (facts.job.spec.elastic.max_staleness if facts.job is not None else 1)
