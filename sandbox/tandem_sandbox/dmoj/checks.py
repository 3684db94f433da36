"""DMOJ's own checkers that are no programs. Pure."""

import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tandem_core.errors import TandemError

_LINE_END = re.compile(rb"[\r\n]")
JUDGES_FAILED_RUNS = ("linecount",)
"""Checkers that give points for what was written before a program failed."""


@dataclass(frozen=True, slots=True)
class Checked:
    """What a checker says of an output."""

    passed: bool
    share: float
    """Of the case's points, from 0 to 1."""
    feedback: str = ""


def check(name: str, arguments: Mapping[str, Any], output: bytes, expected: bytes) -> Checked:
    """Compare an output. Raises TandemError for a checker, or arguments, that there are not."""
    checker = _CHECKERS.get(name)
    if checker is None:
        raise TandemError(describe_unknown(name))
    try:
        said = checker(output, expected, **arguments)
    except (TypeError, ValueError) as error:
        raise TandemError(f"checker {name} of init.yml cannot be used with args {dict(arguments)}: {error}") from error
    return said if isinstance(said, Checked) else Checked(said, float(said))


def describe_unknown(name: str) -> str:
    """Why there is no such checker here."""
    if "." in name:
        return (
            f"checker {name} is a Python module for DMOJ's own judge, which is not loaded here: use one of "
            f"{', '.join(CHECKERS)}, or `bridged` with a program"
        )
    return f"there is no checker {name}: choose from {', '.join(CHECKERS)}, bridged"


def _full_lines(data: bytes) -> list[bytes]:
    return [line for line in _LINE_END.split(data) if line]


def _standard(output: bytes, expected: bytes) -> bool:
    """The same words on the same lines; empty lines and further white space do not count."""
    found, wanted = (
        [words for line in _LINE_END.split(data) if (words := line.split())] for data in (output, expected)
    )
    return found == wanted


def _identical(output: bytes, expected: bytes, pe_allowed: bool = True) -> Checked:
    if output == expected:
        return Checked(True, 1.0)
    near = pe_allowed and _standard(output, expected)
    return Checked(False, 0.0, "Presentation Error, check your whitespace" if near else "")


def _rstripped(output: bytes, expected: bytes, filter_new_line: bool = False) -> bool:
    split = _full_lines if filter_new_line else _LINE_END.split
    found, wanted = ([line.rstrip() for line in split(data)] for data in (output, expected))
    return found == wanted


def _sorted(output: bytes, expected: bytes, split_on: str = "lines") -> bool:
    if split_on == "whitespace":
        return sorted(output.split()) == sorted(expected.split())
    if split_on != "lines":
        raise ValueError(f"split_on is {split_on!r}: it must be lines or whitespace")
    found, wanted = (sorted(line.split() for line in _full_lines(data)) for data in (output, expected))
    return found == wanted


def _unordered(output: bytes, expected: bytes) -> bool:
    return _sorted(output, expected, "whitespace")


def _easy(output: bytes, expected: bytes) -> bool:
    """The same characters in any order; white space and capitals do not count."""
    found, wanted = (Counter(b"".join(data.split()).lower()) for data in (output, expected))
    return found == wanted


def _floats(output: bytes, expected: bytes, precision: int = 6, error_mode: str = "default") -> bool:
    """Numbers within 10^-precision, absolute or relative or either; other words must be the same."""
    if error_mode not in ("default", "absolute", "relative"):
        raise ValueError(f"error_mode is {error_mode!r}: it must be default, absolute or relative")
    epsilon = 10.0 ** -int(precision)
    found, wanted = ([line.split() for line in _full_lines(data)] for data in (output, expected))
    if [len(words) for words in found] != [len(words) for words in wanted]:
        return False
    return all(
        _close(one, other, epsilon, error_mode)
        for words, others in zip(found, wanted, strict=True)
        for one, other in zip(words, others, strict=True)
    )


def _close(one: bytes, other: bytes, epsilon: float, error_mode: str) -> bool:
    wanted = _read_number(other)
    if wanted is None:
        return one == other
    found = _read_number(one)
    if found is None or not math.isfinite(found):
        return False
    difference = abs(found - wanted)
    absolute, relative = difference <= epsilon, difference <= epsilon * abs(wanted)
    return {"absolute": absolute, "relative": relative, "default": absolute or relative}[error_mode]


def _read_number(word: bytes) -> float | None:
    try:
        return float(word)
    except ValueError:
        return None


def _floats_absolute(output: bytes, expected: bytes, precision: int = 6) -> bool:
    return _floats(output, expected, precision, "absolute")


def _floats_relative(output: bytes, expected: bytes, precision: int = 6) -> bool:
    return _floats(output, expected, precision, "relative")


def _linecount(output: bytes, expected: bytes, feedback: bool = True) -> Checked:
    """Points for each line that is right."""
    found, wanted = _full_lines(output), _full_lines(expected)
    if len(found) > len(wanted):
        return Checked(False, 0.0)
    right = [one.strip() == other.strip() for one, other in zip(found, wanted, strict=False)]
    share = sum(right) / len(wanted) if wanted else 1.0
    return Checked(share == 1.0, share, f"{sum(right)} of {len(wanted)} lines" if feedback else "")


def _linematches(
    output: bytes, expected: bytes, point_distribution: Sequence[int] = (1,), filler_lines_required: bool = True
) -> Checked:
    """Points for each line that is right, as many as the distribution says."""
    found, wanted = _full_lines(output), _full_lines(expected)
    if len(wanted) != len(point_distribution) or sum(point_distribution) <= 0:
        raise ValueError(f"point_distribution must have a number for each of the {len(wanted)} lines")
    if filler_lines_required and len(found) != len(wanted):
        return Checked(False, 0.0)
    lines = zip(found, wanted, point_distribution, strict=False)
    points = sum(worth for one, other, worth in lines if one == other)
    return Checked(points > 0, points / sum(point_distribution))


_CHECKERS: Mapping[str, Callable[..., bool | Checked]] = {
    "standard": _standard,
    "identical": _identical,
    "rstripped": _rstripped,
    "sorted": _sorted,
    "unordered": _unordered,
    "easy": _easy,
    "floats": _floats,
    "floatsabs": _floats_absolute,
    "floatsrel": _floats_relative,
    "linecount": _linecount,
    "linematches": _linematches,
}
CHECKERS = tuple(_CHECKERS)
"""Their names."""
