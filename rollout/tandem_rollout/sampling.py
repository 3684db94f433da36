"""Which prompts come next: pure, and repeatable after a restart."""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
from tandem_core.job.data import DataSpec

from tandem_rollout.prompts import Prompt

type Probabilities = npt.NDArray[np.float64]


def choose_prompts(
    data: DataSpec,
    prompts: Sequence[Prompt],
    *,
    count: int,
    iteration: int,
    drawn: int,
    seed: int,
    success_rates: Mapping[int, float],
) -> list[int]:
    """The ids of the next `count` prompts out of `prompts` (not empty), by data.sampling.

    `iteration` counts from 1. `drawn` is the number of groups ever created (ReplayBuffer.groups_created): the place in
    the epoch for uniform sampling. `success_rates` (prompt id -> 0..1) is for prioritised sampling; a prompt that was
    never tried counts as 0. A prompt comes twice only if `count` exceeds the prompts to choose from, or an epoch ends.
    """
    if data.sampling == "uniform":
        return [prompts[place].id for place in _uniform(len(prompts), count, drawn, seed)]
    if data.sampling == "curriculum":
        weights = curriculum_weights(prompts, count, iteration / data.curriculum_iterations)
    else:
        weights = prioritised_probabilities([success_rates.get(prompt.id, 0.0) for prompt in prompts])
    rng = np.random.default_rng([seed, iteration, drawn])
    return [prompts[place].id for place in _weighted(weights, count, rng)]


def prioritised_probabilities(success_rates: Sequence[float]) -> Probabilities:
    """Probability of each prompt: proportional to 1 - s_i (Kimi k1.5, 2.3.4); all alike if all are solved."""
    weights = 1.0 - np.clip(np.asarray(success_rates, dtype=np.float64), 0.0, 1.0)
    total = weights.sum()
    return weights / total if total > 0 else np.full(len(weights), 1 / len(weights))


def curriculum_weights(prompts: Sequence[Prompt], count: int, progress: float) -> Probabilities:
    """Alike for the easiest share `progress` of the prompts (at least `count` of them), 0 for the rest.

    From progress 1 on all prompts are in use. Raises ValueError if a prompt has no difficulty.
    """
    difficulties = []
    for prompt in prompts:
        if prompt.difficulty is None:
            raise ValueError(f"prompt {prompt.id} has no difficulty: curriculum sampling needs one for every prompt")
        difficulties.append(prompt.difficulty)
    in_use = min(len(prompts), max(count, int(np.ceil(len(prompts) * min(1.0, progress)))))
    weights = np.zeros(len(prompts))
    weights[np.argsort(difficulties, kind="stable")[:in_use]] = 1 / in_use
    return weights


def _uniform(size: int, count: int, drawn: int, seed: int) -> list[int]:
    """Places `drawn` to `drawn + count` of an endless row of shuffled epochs."""
    places: list[int] = []
    while len(places) < count:
        epoch, offset = divmod(drawn + len(places), size)
        shuffled = np.random.default_rng([seed, epoch]).permutation(size)
        places += shuffled[offset : offset + count - len(places)].tolist()
    return places


def _weighted(weights: Probabilities, count: int, rng: np.random.Generator) -> list[int]:
    """`count` places drawn one after the other without replacement, each with probability proportional to its weight.

    The largest of log weight + Gumbel noise give just that (Efraimidis and Spirakis 2006). Where the places of positive
    weight are used up, the others follow at random, and where all are used up it starts again.
    """
    places: list[int] = []
    while len(places) < count:
        with np.errstate(divide="ignore"):
            keys = np.log(weights) + rng.gumbel(size=len(weights))
        order = np.lexsort((rng.random(len(weights)), -keys))
        places += order[: count - len(places)].tolist()
    return places
