"""Which cases are judged, and what they are worth: batches, dependencies, short circuits. Pure but for the judging."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from tandem_sandbox.dmoj.problem import Case, Problem


class Code(StrEnum):
    """DMOJ's verdicts."""

    AC = "AC"
    """Accepted."""
    WA = "WA"
    """Wrong answer."""
    RTE = "RTE"
    """It ended by a signal."""
    IR = "IR"
    """It ended with an exit code other than 0."""
    TLE = "TLE"
    """It used too much time."""
    MLE = "MLE"
    """It used too much memory."""
    OLE = "OLE"
    """It wrote too much."""
    SC = "SC"
    """Not run: an earlier case failed."""


@dataclass(frozen=True, slots=True)
class Graded:
    """What became of a case."""

    code: Code
    passed: bool = False
    """Whether the checker accepts it."""
    points: float = 0.0
    feedback: str = ""
    cpu_seconds: float = 0.0
    memory_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Line:
    """A case with what became of it."""

    batch: int | None
    case: Case
    graded: Graded


@dataclass(frozen=True, slots=True)
class Score:
    """Points."""

    points: float
    total: float


async def grade(
    problem: Problem, judge: Callable[[Case], Awaitable[Graded]], *, short_circuit: bool
) -> AsyncIterator[Line]:
    """Cases in order. After a failed one the rest of its batch is skipped; and all the rest, if `short_circuit` or if
    the failed one is worth no points. A batch is skipped if one that it depends on did not pass."""
    skipping = False
    passed: set[int] = set()
    for group in problem.groups:
        if not group.dependencies <= passed:
            skipping = True
        for case in group.cases:
            graded = Graded(Code.SC) if skipping else await judge(case)
            if not skipping and not graded.passed:
                short_circuit = short_circuit or not case.points
                skipping = group.batch is not None or short_circuit
            yield Line(group.batch, case, graded)
        if group.batch is not None:
            if not skipping:
                passed.add(group.batch)
            skipping = skipping and short_circuit


def sum_points(lines: Sequence[Line]) -> Score:
    """A batch is worth what its worst case gets, of what its best case could."""
    alone = [line for line in lines if line.batch is None]
    points = sum(line.graded.points for line in alone)
    total = sum(line.case.points for line in alone)
    for batch in dict.fromkeys(line.batch for line in lines if line.batch is not None):
        members = [line for line in lines if line.batch == batch]
        points += min(line.graded.points for line in members)
        total += max(line.case.points for line in members)
    return Score(points, total)


def sum_up(lines: Sequence[Line]) -> Code:
    """The verdict on the whole: that of the first case that failed."""
    return next((line.graded.code for line in lines if line.graded.code not in (Code.AC, Code.SC)), Code.AC)
