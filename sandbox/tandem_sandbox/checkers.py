"""Whether an output is right: the checkers that are no programs. Pure."""

import math

from tandem_core.sandbox.judging import ExactChecker, FloatsChecker, TokensChecker

_SHOWN = 60


def find_difference(checker: ExactChecker | TokensChecker | FloatsChecker, output: bytes, expected: str) -> str | None:
    """What is wrong with the output, in a sentence; None if it is right."""
    text = output.decode(errors="replace")
    match checker:
        case ExactChecker():
            return None if text.rstrip() == expected.rstrip() else _describe(text.rstrip(), expected.rstrip())
        case TokensChecker():
            if checker.ignore_case:
                text, expected = text.casefold(), expected.casefold()
            return _compare_words(text.split(), expected.split(), None)
        case FloatsChecker():
            return _compare_words(text.split(), expected.split(), checker)


def _compare_words(found: list[str], wanted: list[str], tolerance: FloatsChecker | None) -> str | None:
    for number, (one, other) in enumerate(zip(found, wanted, strict=False), start=1):
        if one != other and (tolerance is None or not _close(one, other, tolerance)):
            return f"word {number} is {_show(one)}, expected {_show(other)}"
    if len(found) != len(wanted):
        return f"{len(found)} words, expected {len(wanted)}"
    return None


def _close(one: str, other: str, tolerance: FloatsChecker) -> bool:
    if "_" in one:  # a number in Python, and nowhere else
        return False
    try:
        found, wanted = float(one), float(other)
    except ValueError:
        return False
    if not math.isfinite(found) or not math.isfinite(wanted):
        return found == wanted or (math.isnan(found) and math.isnan(wanted))
    return abs(found - wanted) <= max(tolerance.absolute, tolerance.relative * abs(wanted))


def _describe(found: str, wanted: str) -> str:
    place = next(
        (index for index, (one, other) in enumerate(zip(found, wanted, strict=False)) if one != other),
        min(len(found), len(wanted)),
    )
    return f"from character {place} on it is {_show(found[place:])}, expected {_show(wanted[place:])}"


def _show(text: str) -> str:
    return repr(text if len(text) <= _SHOWN else text[:_SHOWN] + "...")
