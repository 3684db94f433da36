"""Which output is right, by a vote of reference solutions. Pure."""

from collections.abc import Mapping, Sequence

from tandem_core.sandbox.judging import ExactChecker, FloatsChecker, TokensChecker

from tandem_sandbox.checkers import find_difference

CHECKERS: Mapping[str, ExactChecker | TokensChecker | FloatsChecker] = {
    "tokens": TokensChecker(),
    "exact": ExactChecker(),
    "floats": FloatsChecker(),
}


def find_agreed(
    checker: ExactChecker | TokensChecker | FloatsChecker, outputs: Sequence[str | None]
) -> tuple[str, tuple[int, ...]]:
    """The output that most references give, and which references those are; the earliest if there are several.

    None stands for a reference that gave no output. No output at all: an empty one that nobody gave.
    """
    best: tuple[str, tuple[int, ...]] = ("", ())
    for candidate in dict.fromkeys(output for output in outputs if output is not None):
        places = tuple(
            place
            for place, output in enumerate(outputs)
            if output is not None and find_difference(checker, output.encode(), candidate) is None
        )
        if len(places) > len(best[1]):
            best = candidate, places
    return best
