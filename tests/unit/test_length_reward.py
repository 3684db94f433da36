"""The length reward of Kimi k1.5, section 2.3.3."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tandem_core.job.rewards import LengthReward
from tandem_rollout.advantages import length_rewards, total_rewards

# lengths, correct, expected: lambda = 0.5 - (len - min) / (max - min), for wrong answers at most 0
TABLE = [
    # shortest, half-way, longest; all right: 0.5, 0, -0.5
    ([10, 20, 30], [True, True, True], [0.5, 0.0, -0.5]),
    # all wrong: the short one gets nothing for being short
    ([10, 20, 30], [False, False, False], [0.0, 0.0, -0.5]),
    ([100, 125, 175, 200], [True, False, True, False], [0.5, 0.0, -0.25, -0.5]),
    # wrong answers count for the range: (40 - 20) / (60 - 20) = 0.5
    ([20, 40, 60], [False, True, False], [0.0, 0.0, -0.5]),
    ([20, 30, 60], [False, True, False], [0.0, 0.25, -0.5]),
    ([7, 7, 7], [True, False, True], [0.0, 0.0, 0.0]),
    ([5], [True], [0.0]),
    ([0, 8], [True, True], [0.5, -0.5]),
]


@pytest.mark.parametrize(("lengths", "correct", "expected"), TABLE)
def test_length_rewards_are_those_computed_by_hand(
    lengths: list[int], correct: list[bool], expected: list[float]
) -> None:
    np.testing.assert_allclose(length_rewards(lengths, correct), expected, atol=1e-12)


@pytest.mark.parametrize(
    ("iteration", "expected"),
    [(1, [1.0, 0.0]), (5, [1.0, 0.0]), (6, [1.1, -0.1]), (100, [1.1, -0.1])],
)
def test_the_length_reward_starts_after_its_warm_up(iteration: int, expected: list[float]) -> None:
    spec = LengthReward(weight=0.2, warmup_iterations=5)
    np.testing.assert_allclose(total_rewards([1.0, 0.0], [4, 9], [True, False], spec, iteration), expected)


def test_weight_zero_leaves_rewards_alone() -> None:
    assert total_rewards([1.0, 0.25], [4, 9], [True, False], LengthReward(), 50).tolist() == [1.0, 0.25]


@given(st.lists(st.tuples(st.integers(0, 10_000), st.booleans()), min_size=1, max_size=16))
def test_length_rewards_lie_between_minus_and_plus_a_half(answers: list[tuple[int, bool]]) -> None:
    lengths, correct = [length for length, _ in answers], [right for _, right in answers]
    rewards = length_rewards(lengths, correct)
    assert (np.abs(rewards) <= 0.5).all()
    assert all(reward <= 0 for reward, right in zip(rewards, correct, strict=True) if not right)
