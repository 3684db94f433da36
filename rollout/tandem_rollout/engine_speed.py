"""How fast engines are, from what comes back: engines tell of their tokens only when a request ends."""

from collections.abc import Collection
from dataclasses import dataclass, field

from tandem_core.coordination.records import EngineSpeed, Role

LEAST_ANSWER_SECONDS = 5.0
"""What tells nothing yet: then the rollout phase before counts."""


@dataclass(slots=True)
class _Measured:
    """One kind of engines during one rollout phase."""

    tokens: int = 0
    answer_seconds: float = 0.0
    """Sum over the answers of how long each was at work."""
    fullest: int = 0
    """Most answers at a time in one engine."""

    @property
    def telling(self) -> bool:
        return self.answer_seconds >= LEAST_ANSWER_SECONDS and self.tokens > 0


@dataclass(slots=True)
class SpeedMeter:
    """Speeds of hybrid pods' and of inference pods' engines apart.

    Tokens a second of an answer, times the answers in an engine when it is full, is what an engine can do. Tokens a
    second of the whole phase would be less: at its end the last long answers keep engines waiting, and no engine more
    would help there.
    """

    _now: dict[Role, _Measured] = field(default_factory=dict)
    _before: dict[Role, _Measured] = field(default_factory=dict)

    def begin(self) -> None:
        """A rollout phase begins."""
        self._before |= {role: measured for role, measured in self._now.items() if measured.telling}
        self._now = {}

    def note_answer(self, role: Role, tokens: int, seconds: float) -> None:
        """An engine of this kind generated so much for one answer, in so long."""
        measured = self._now.setdefault(role, _Measured())
        measured.tokens += tokens
        measured.answer_seconds += seconds

    def note_full(self, role: Role, answers: int) -> None:
        """An engine of this kind works on so many answers."""
        measured = self._now.setdefault(role, _Measured())
        measured.fullest = max(measured.fullest, answers)

    def speed(self, role: Role, serving: int) -> EngineSpeed:
        """Of the engines of one kind, of which `serving` may get answers; zeros where nothing is known."""
        now = self._now.get(role, _Measured())
        measured = now if now.telling else self._before.get(role, _Measured())
        if not measured.telling:
            return EngineSpeed(serving=serving)
        return EngineSpeed(
            serving=serving,
            tokens_per_second_per_answer=round(measured.tokens / measured.answer_seconds, 3),
            answers_per_engine=measured.fullest,
        )


def expected_length(known: float | None, finished: Collection[int], answers: int) -> float | None:
    """Mean tokens of an answer: `known` from the iteration before, else that of the `finished` ones of `answers`.

    None: too few are finished to tell, and those are the short ones.
    """
    if known:
        return known
    return sum(finished) / len(finished) if finished and len(finished) >= answers / 2 else None
