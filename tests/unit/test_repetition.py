"""Answers that go in circles."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tandem_core.job.rollout import RepetitionSpec
from tandem_rollout.repetition import end_of_circles, goes_in_circles

SPEC = RepetitionSpec(max_pattern_tokens=3, min_pattern_tokens=1, repeats=3)


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        ([], False),
        ([5], False),
        ([5, 5], False),
        ([5, 5, 5], True),
        ([1, 2, 3, 5, 5, 5], True),
        ([5, 5, 5, 1], False),  # it found its way out
        ([1, 2, 1, 2, 1, 2], True),
        ([9, 1, 2, 1, 2, 1, 2], True),
        ([2, 1, 2, 1, 2], False),  # two and a half times
        ([1, 2, 3] * 3, True),
        ([1, 2, 3, 4] * 3, False),  # a longer pattern than is looked for
        ([1, 2, 3, 1, 2, 4, 1, 2, 3], False),
    ],
)
def test_only_a_pattern_that_fills_the_end_counts(tokens: list[int], expected: bool) -> None:
    assert goes_in_circles(tokens, SPEC) is expected
    assert goes_in_circles(np.array(tokens, dtype=np.int32), SPEC) is expected


def test_a_circle_across_the_border_of_two_segments_is_seen() -> None:
    first, second = [8, 4, 4], [4]
    assert not goes_in_circles(first, SPEC)
    assert not goes_in_circles(second, SPEC)
    assert goes_in_circles(first + second, SPEC)


def test_it_is_off_by_default_and_short_patterns_can_be_allowed() -> None:
    assert not goes_in_circles([1] * 100, RepetitionSpec())
    pairs_only = RepetitionSpec(max_pattern_tokens=3, min_pattern_tokens=3, repeats=2)
    assert not goes_in_circles([1, 2, 1, 2], pairs_only)
    assert goes_in_circles([1, 2, 3, 1, 2, 3], pairs_only)


def _literally(tokens: list[int], spec: RepetitionSpec) -> bool:
    for size in range(spec.min_pattern_tokens, spec.max_pattern_tokens + 1):
        end = tokens[-size * spec.repeats :]
        if len(end) == size * spec.repeats and end == end[:size] * spec.repeats:
            return True
    return False


@given(st.lists(st.integers(0, 1), max_size=24), st.integers(1, 3), st.integers(0, 3), st.integers(2, 4))
def test_it_agrees_with_the_definition(tokens: list[int], shortest: int, more: int, repeats: int) -> None:
    spec = RepetitionSpec(max_pattern_tokens=shortest + more, min_pattern_tokens=shortest, repeats=repeats)
    assert goes_in_circles(tokens, spec) == _literally(tokens, spec)


def _first_circle(tokens: list[int], spec: RepetitionSpec) -> int:
    return next((end for end in range(1, len(tokens) + 1) if goes_in_circles(tokens[:end], spec)), len(tokens))


@given(st.lists(st.integers(0, 1), max_size=24), st.integers(0, 24), st.integers(1, 3), st.integers(2, 4))
def test_cut_anywhere_an_answer_ends_at_the_same_token(tokens: list[int], cut: int, longest: int, repeats: int) -> None:
    spec = RepetitionSpec(max_pattern_tokens=longest, repeats=repeats)
    whole = _first_circle(tokens, spec)
    if cut < whole:
        rest = tokens[cut:]
        rest = rest[: _first_circle(rest, spec)]  # the engine ends it there, seeing this request alone
        before, after = (np.array(part, dtype=np.int32) for part in (tokens[:cut], rest))
        assert cut + (end_of_circles(before, after, spec) or len(after)) == whole
