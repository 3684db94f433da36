"""Whether an answer goes in circles."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from tandem_core.job.rollout import RepetitionSpec


def goes_in_circles(tokens: Sequence[int] | npt.NDArray[np.int32], spec: RepetitionSpec) -> bool:
    """Whether `tokens` ends with a pattern of allowed length that stands `spec.repeats` times in a row.

    The engine checks the same at every token, but only within one request; this sees the whole answer, across the
    borders of its segments. Only the end is looked at.
    """
    array = np.asarray(tokens, dtype=np.int32)
    longest = min(spec.max_pattern_tokens, len(array) // spec.repeats)
    for pattern in range(spec.min_pattern_tokens, longest + 1):
        end = array[-pattern * spec.repeats :]
        # The end repeats with period `pattern` if it equals itself shifted by it.
        if np.array_equal(end[pattern:], end[:-pattern]):
            return True
    return False
