"""From rewards of a group to what each answer's log-probability is weighted with: pure functions."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from tandem_core.job.algorithm import AlgorithmSpec
from tandem_core.job.rewards import LengthReward

type Floats = npt.NDArray[np.float64]

_STD_FLOOR = 1e-6  # keeps grpo's quotient finite where rewards differ by less than anyone means


def group_advantages(rewards: Sequence[float], correct: Sequence[bool], algorithm: AlgorithmSpec) -> Floats:
    """[k] advantages of the k answers of one group.

    omd: r - mean r (Kimi k1.5, 2.3.2, where the mean stands for tau log Z). grpo: the same, divided by the population
    standard deviation if algorithm.normaliseByStd (DeepSeekMath, arXiv 2402.03300, 4.1.2). rest: 1 for right answers,
    0 for the others. omd and grpo give exact zeros where all rewards are equal, so for a single answer too.
    """
    values = np.asarray(rewards, dtype=np.float64)
    if algorithm.loss == "rest":
        return np.asarray(correct, dtype=np.float64)
    if all_equal(values):
        return np.zeros_like(values)
    centred = values - values.mean()
    if algorithm.loss == "grpo" and algorithm.normalise_by_std:
        return centred / (values.std() + _STD_FLOOR)
    return centred


def length_rewards(lengths: Sequence[int], correct: Sequence[bool]) -> Floats:
    """[k] length reward of each answer of one group, before its weight (Kimi k1.5, 2.3.3).

    lambda = 0.5 - (len - min len) / (max len - min len); a right answer gets lambda, a wrong one min(0, lambda); all
    get 0 where all lengths are equal.
    """
    values = np.asarray(lengths, dtype=np.float64)
    if all_equal(values):
        return np.zeros_like(values)
    scale = 0.5 - (values - values.min()) / (values.max() - values.min())
    return np.where(np.asarray(correct, dtype=bool), scale, np.minimum(0.0, scale))


def total_rewards(
    rewards: Sequence[float], lengths: Sequence[int], correct: Sequence[bool], spec: LengthReward, iteration: int
) -> Floats:
    """[k] the scorers' rewards plus the weighted length reward, which starts after spec.warmupIterations.

    `iteration` counts from 1.
    """
    values = np.asarray(rewards, dtype=np.float64)
    if spec.weight == 0 or iteration <= spec.warmup_iterations:
        return values
    return values + spec.weight * length_rewards(lengths, correct)


def all_equal(values: Sequence[float] | Floats) -> bool:
    """Whether all values are the same; also for one value or none."""
    array = np.asarray(values, dtype=np.float64)
    return bool((array == array[:1]).all())
