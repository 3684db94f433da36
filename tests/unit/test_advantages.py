"""What each answer's log-probability is weighted with."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tandem_core.job.algorithm import AlgorithmSpec
from tandem_rollout.advantages import all_equal, group_advantages

OMD = AlgorithmSpec(loss="omd")
GRPO = AlgorithmSpec(loss="grpo")
GRPO_RAW = AlgorithmSpec(loss="grpo", normalise_by_std=False)
REST = AlgorithmSpec(loss="rest")

# rewards, correct, algorithm, expected: computed by hand
TABLE = [
    ([1, 0, 0, 0], [True, False, False, False], OMD, [0.75, -0.25, -0.25, -0.25]),
    ([1, 1, 0, 0], [True, True, False, False], OMD, [0.5, 0.5, -0.5, -0.5]),
    ([0.2, 0.5, 0.8], [False, False, False], OMD, [-0.3, 0.0, 0.3]),
    ([1, -0.5], [True, False], OMD, [0.75, -0.75]),
    # mean 1/4, deviation sqrt(3)/4: (3/4) / (sqrt(3)/4) = sqrt(3)
    ([1, 0, 0, 0], [True, False, False, False], GRPO, [math.sqrt(3)] + [-1 / math.sqrt(3)] * 3),
    ([1, 1, 0, 0], [True, True, False, False], GRPO, [1.0, 1.0, -1.0, -1.0]),
    ([0.6, 0.2], [False, False], GRPO, [1.0, -1.0]),
    ([1, 0, 0, 0], [True, False, False, False], GRPO_RAW, [0.75, -0.25, -0.25, -0.25]),
    ([1, 0.3, 0.9], [True, False, True], REST, [1.0, 0.0, 1.0]),
    ([0, 0], [False, False], REST, [0.0, 0.0]),
]


@pytest.mark.parametrize(("rewards", "correct", "algorithm", "expected"), TABLE)
def test_advantages_are_those_computed_by_hand(
    rewards: list[float], correct: list[bool], algorithm: AlgorithmSpec, expected: list[float]
) -> None:
    np.testing.assert_allclose(group_advantages(rewards, correct, algorithm), expected, atol=2e-5)


@pytest.mark.parametrize("algorithm", [OMD, GRPO, GRPO_RAW])
@pytest.mark.parametrize("rewards", [[0.1] * 3, [1.0], [0.0, 0.0], [0.7] * 64])
def test_equal_rewards_and_single_answers_teach_exactly_nothing(rewards: list[float], algorithm: AlgorithmSpec) -> None:
    # 0.1 * 3 / 3 != 0.1: without care the rounding error divided by itself would be an advantage of 1.
    assert group_advantages(rewards, [True] * len(rewards), algorithm).tolist() == [0.0] * len(rewards)


@given(st.lists(st.floats(-2, 2), min_size=2, max_size=16))
def test_advantages_of_a_group_add_up_to_nothing_and_keep_the_order(rewards: list[float]) -> None:
    for algorithm in (OMD, GRPO):
        advantages = group_advantages(rewards, [False] * len(rewards), algorithm)
        assert abs(advantages.sum()) < 1e-6 * len(rewards)
        best, worst = int(np.argmax(rewards)), int(np.argmin(rewards))
        assert advantages[best] == advantages.max()
        assert advantages[worst] == advantages.min()


def test_all_equal() -> None:
    assert [all_equal(values) for values in ([], [3.0], [1.0, 1.0], [1.0, 1.0, 0.0])] == [True, True, True, False]
