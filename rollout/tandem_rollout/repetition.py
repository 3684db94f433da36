"""Whether an answer goes in circles."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from tandem_core.job.rollout import RepetitionSpec


def goes_in_circles(tokens: Sequence[int] | npt.NDArray[np.int32], spec: RepetitionSpec) -> bool:
    """Whether `tokens` ends with a pattern of allowed length that stands `spec.repeats` times in a row.

    The engine checks the same at every token but a request's last one. Only the end is looked at.
    """
    array = np.asarray(tokens, dtype=np.int32)
    longest = min(spec.max_pattern_tokens, len(array) // spec.repeats)
    for pattern in range(spec.min_pattern_tokens, longest + 1):
        end = array[-pattern * spec.repeats :]
        # The end repeats with period `pattern` if it equals itself shifted by it.
        if np.array_equal(end[pattern:], end[:-pattern]):
            return True
    return False


def end_of_circles(before: npt.NDArray[np.int32], new: npt.NDArray[np.int32], spec: RepetitionSpec) -> int | None:
    """How many of the `new` tokens it takes until `before` and they together go in circles; None: they do not.

    The engine sees one request's tokens only; this looks across the border, and at the end of `new`.
    """
    if not spec.max_pattern_tokens:
        return None
    farthest = spec.max_pattern_tokens * spec.repeats
    tail = before[max(0, len(before) - farthest) :]
    across = range(1, min(len(new), farthest) + 1) if len(tail) else ()
    both = np.concatenate([tail, new])
    return next((end for end in (*across, len(new)) if goes_in_circles(both[: len(tail) + end], spec)), None)
