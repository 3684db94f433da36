"""Which cases and problems are kept, and why others are not. Pure."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from tandem_sandbox.testcases.journal import Made, Voted
from tandem_sandbox.testcases.rules import Rules


class Loss(StrEnum):
    """Why a case is dropped."""

    GENERATOR = "the generator failed"
    DUPLICATE = "the input was there already"
    DISAGREEMENT = "too few references agree"
    SANDBOX = "the sandbox failed"


class Drop(StrEnum):
    """Why a problem is dropped."""

    REFERENCES = "it has too few references"
    GENERATOR = "the model wrote no generator that works"
    CASES = "too few of its cases are kept"
    PASSING = "too few references pass all its cases"
    SANDBOX = "the sandbox failed"


@dataclass(frozen=True, slots=True)
class Decision:
    """What becomes of a problem."""

    drop: Drop | None
    """None: it is kept."""
    detail: str = ""
    """More about why it is dropped."""
    cases: tuple[int, ...] = ()
    """Numbers of the cases that are kept; of a problem that is dropped, those that would be."""
    losses: Mapping[Loss, int] = field(default_factory=dict)
    """How many cases are dropped for each reason."""
    passing: tuple[int, ...] = ()
    """References that pass all kept cases, from 0."""


def find_distinct(made: Mapping[int, Made]) -> dict[int, str]:
    """Inputs by number, without those that an earlier number has."""
    first: dict[str, int] = {}
    for number in sorted(made):
        stdin = made[number].stdin
        if stdin is not None:
            first.setdefault(stdin, number)
    return {number: stdin for stdin, number in first.items()}


def decide(rules: Rules, made: Mapping[int, Made], voted: Mapping[int, Voted]) -> Decision:
    """What becomes of a problem after all its runs; a case without an input or a vote is one the sandbox failed at."""
    distinct = find_distinct(made)
    losses: Counter[Loss] = Counter()
    cases = []
    for number in range(1, rules.cases + 1):
        if number not in made or (number in distinct and number not in voted):
            losses[Loss.SANDBOX] += 1
        elif made[number].stdin is None:
            losses[Loss.GENERATOR] += 1
        elif number not in distinct:
            losses[Loss.DUPLICATE] += 1
        elif len(voted[number].agreeing) < rules.agree:
            losses[Loss.DISAGREEMENT] += 1
        else:
            cases.append(number)
    passing = tuple(
        reference
        for reference in range(rules.references)
        if all(reference in voted[number].agreeing for number in cases)
    )
    drop, detail = None, ""
    if len(cases) < rules.least_cases:
        drop, detail = Drop.CASES, f"{len(cases)} of {rules.cases}, {rules.least_cases} are needed"
    elif len(passing) < rules.passing:
        drop, detail = Drop.PASSING, f"{len(passing)} of {rules.references}, {rules.passing} are needed"
    return Decision(drop, detail, tuple(cases), losses, passing if cases else ())
