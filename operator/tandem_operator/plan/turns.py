"""The turns in a job's life that are worth an Event."""

from dataclasses import dataclass

from tandem_core.job import Condition, RLJobStatus
from tandem_core.job.conditions import ConditionType, Reason

BAD = frozenset({(ConditionType.ACCEPTED, "False"), (ConditionType.DEGRADED, "True"), (ConditionType.FAILED, "True")})
"""Conditions that are a warning when they come."""
QUIET = frozenset({Reason.NOT_FINISHED, Reason.FINISHED, Reason.VALID, Reason.NOT_SUSPENDED, Reason.AS_EXPECTED})
"""Reasons that say nothing new: another condition tells of the same turn."""


@dataclass(frozen=True, slots=True)
class Turn:
    """One Event."""

    warning: bool
    reason: str
    message: str


def find_turns(before: RLJobStatus, after: RLJobStatus) -> list[Turn]:
    """What is to be told of the difference: a condition that is another one now, and pods that were lost."""
    former = {condition.type: (condition.status, condition.reason) for condition in before.conditions}
    turns = [
        _turn(condition)
        for condition in after.conditions
        if former.get(condition.type) != (condition.status, condition.reason)
        and condition.reason not in QUIET
        and condition.type != ConditionType.READY
    ]
    unique = {(turn.reason, turn.message): turn for turn in reversed(turns)}
    return list(reversed(unique.values()))


def _turn(condition: Condition) -> Turn:
    warning = (condition.type, condition.status) in BAD or (
        condition.type == ConditionType.PROGRESSING
        and condition.status == "False"
        and condition.reason not in (Reason.SUSPENDED, Reason.QUEUED)
    )
    meaning = next((reason.meaning for reason in Reason if reason.value == condition.reason), "")
    return Turn(warning, condition.reason, condition.message or meaning)
