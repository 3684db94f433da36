"""Which prompts come next."""

from collections import Counter

import numpy as np
import pytest
from tandem_core.job.data import DataSpec
from tandem_rollout.prompts import Prompt
from tandem_rollout.sampling import choose_prompts, curriculum_weights, prioritised_probabilities


def prompt(number: int, difficulty: float | None = None) -> Prompt:
    return Prompt(number, f"prompt {number}", "", {}, difficulty, (1,), "")


def data(sampling: str, **more: int) -> DataSpec:
    return DataSpec.model_validate({"reasoningGym": {"task": "chain_sum"}, "sampling": sampling, **more})


def choose(
    spec: DataSpec,
    prompts: list[Prompt],
    count: int,
    *,
    iteration: int = 1,
    drawn: int = 0,
    seed: int = 7,
    rates: dict[int, float] | None = None,
) -> list[int]:
    return choose_prompts(
        spec, prompts, count=count, iteration=iteration, drawn=drawn, seed=seed, success_rates=rates or {}
    )


PROMPTS = [prompt(100 + number) for number in range(10)]


def test_an_epoch_of_uniform_sampling_has_every_prompt_once() -> None:
    epoch = [id for step in range(5) for id in choose(data("uniform"), PROMPTS, 2, iteration=step + 1, drawn=2 * step)]
    assert sorted(epoch) == [each.id for each in PROMPTS]
    assert epoch != sorted(epoch)


def test_epochs_are_shuffled_differently_and_join_without_a_gap() -> None:
    spec = data("uniform")
    two_epochs = choose(spec, PROMPTS, 20)
    assert two_epochs[:10] != two_epochs[10:]
    assert Counter(two_epochs) == {each.id: 2 for each in PROMPTS}
    # However an epoch is cut into iterations, the order is the same: carried-over prompts change the cuts.
    assert choose(spec, PROMPTS, 7) + choose(spec, PROMPTS, 8, drawn=7, iteration=2) == two_epochs[:15]


@pytest.mark.parametrize("sampling", ["uniform", "curriculum", "prioritised"])
def test_the_choice_repeats_after_a_restart_and_depends_on_the_seed(sampling: str) -> None:
    prompts = [prompt(number, difficulty=number) for number in range(50)]
    rates = {number: number / 50 for number in range(50)}
    first = choose(data(sampling), prompts, 20, iteration=90, drawn=30, rates=rates)
    assert first == choose(data(sampling), prompts, 20, iteration=90, drawn=30, rates=dict(rates))
    assert first != choose(data(sampling), prompts, 20, iteration=90, drawn=30, rates=rates, seed=8)


def test_prioritised_probabilities_are_those_computed_by_hand() -> None:
    # 1 - s: 1, 0.75, 0.5, 0.25, 0; their sum is 2.5
    np.testing.assert_allclose(prioritised_probabilities([0, 0.25, 0.5, 0.75, 1]), [0.4, 0.3, 0.2, 0.1, 0])
    np.testing.assert_allclose(prioritised_probabilities([1, 1, 1, 1]), [0.25] * 4)
    np.testing.assert_allclose(prioritised_probabilities([0, 0]), [0.5, 0.5])


def test_prioritised_draws_follow_the_probabilities() -> None:
    prompts = [prompt(number) for number in range(5)]
    rates = {1: 0.25, 2: 0.5, 3: 0.75, 4: 1.0}  # prompt 0 was never tried: counts as 0
    draws = 4000
    found = Counter(
        id
        for iteration in range(1, draws + 1)
        for id in choose(data("prioritised"), prompts, 1, iteration=iteration, drawn=iteration, rates=rates)
    )
    expected = {0: 0.4 * draws, 1: 0.3 * draws, 2: 0.2 * draws, 3: 0.1 * draws}
    assert found[4] == 0
    chi_square = sum((found[number] - count) ** 2 / count for number, count in expected.items())
    assert chi_square < 16.3  # 0.1 % of fair draws exceed it with 3 degrees of freedom


def test_two_prioritised_draws_are_without_replacement() -> None:
    # Weights 1, 0.5, 0.5: P({0, 1}) = 1/2 * 1/2 + 1/4 * 2/3 = 5/12, the same for {0, 2}; P({1, 2}) = 1/6
    prompts = [prompt(number) for number in range(3)]
    draws = 3000
    pairs = Counter(
        frozenset(choose(data("prioritised"), prompts, 2, iteration=number, rates={1: 0.5, 2: 0.5}))
        for number in range(1, draws + 1)
    )
    expected = {frozenset({0, 1}): 5 / 12, frozenset({0, 2}): 5 / 12, frozenset({1, 2}): 1 / 6}
    assert set(pairs) == set(expected)
    chi_square = sum((pairs[pair] - share * draws) ** 2 / (share * draws) for pair, share in expected.items())
    assert chi_square < 13.8  # 0.1 % with 2 degrees of freedom


def test_solved_prompts_come_last_when_the_others_are_used_up() -> None:
    prompts = [prompt(number) for number in range(4)]
    chosen = choose(data("prioritised"), prompts, 4, rates={2: 1.0, 3: 1.0})
    assert set(chosen[:2]) == {0, 1}
    assert set(chosen[2:]) == {2, 3}


def test_a_curriculum_starts_with_easy_prompts_and_ends_with_all() -> None:
    prompts = [prompt(number, difficulty=-number) for number in range(100)]  # the last are the easiest
    spec = data("curriculum", curriculumIterations=10)
    assert min(choose(spec, prompts, 10, iteration=1)) >= 90
    assert min(choose(spec, prompts, 20, iteration=5)) >= 50
    late = {id for iteration in range(10, 30) for id in choose(spec, prompts, 20, iteration=iteration)}
    assert min(late) < 10


def test_curriculum_weights_are_alike_for_the_prompts_in_use() -> None:
    prompts = [prompt(number, difficulty=number) for number in range(8)]
    assert curriculum_weights(prompts, 1, 0.5).tolist() == [0.25] * 4 + [0.0] * 4
    assert curriculum_weights(prompts, 5, 0.01).tolist() == [0.2] * 5 + [0.0] * 3  # at least as many as are asked for
    assert curriculum_weights(prompts, 1, 3.0).tolist() == [0.125] * 8


def test_a_curriculum_without_difficulty_names_the_prompt() -> None:
    with pytest.raises(ValueError, match="prompt 103 has no difficulty"):
        choose(data("curriculum"), [prompt(102, 1.0), prompt(103)], 1)


@pytest.mark.parametrize("sampling", ["uniform", "curriculum", "prioritised"])
def test_more_prompts_than_there_are_come_again_evenly(sampling: str) -> None:
    prompts = [prompt(number, difficulty=0.0) for number in range(3)]
    assert set(Counter(choose(data(sampling), prompts, 9)).values()) == {3}
