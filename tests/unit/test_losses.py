"""The losses against the formulas they come from."""

from collections.abc import Callable

import pytest
import torch
from tandem_core.job.algorithm import AlgorithmSpec
from tandem_trainer.losses import (
    LossInputs,
    choose_loss,
    clipped_policy_loss,
    compare_logprobs,
    imitation_loss,
    importance_weights,
    mirror_descent_loss,
    supervised_loss,
)

TAU = 0.3


def make_inputs(
    logits: torch.Tensor, reference: torch.Tensor, advantages: list[float], **changes: object
) -> LossInputs:
    """Two groups' worth of positions: 4 answers of 3, 1, 2 and 2 learnt tokens, and one position not learnt from."""
    sequences = torch.tensor([0, 0, 0, 1, 2, 2, 3, 3, 3])
    mask = torch.tensor([1, 1, 1, 1, 1, 1, 0, 1, 1], dtype=torch.bool)
    labels = torch.tensor([0, 2, 1, 1, 0, 0, 2, 2, 1])
    logprobs = logits.log_softmax(-1).gather(-1, labels[:, None])[:, 0]
    values: dict[str, object] = {
        "logprobs": logprobs,
        "reference_logprobs": reference,
        "behaviour_logprobs": reference,
        "mask": mask,
        "sequences": sequences,
        "advantages": torch.tensor(advantages, dtype=torch.float64),
        "total_tokens": 8,
        "total_sequences": 4,
    }
    return LossInputs(**(values | changes))  # type: ignore[arg-type]


def random_policy(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """[9, 3] logits that want a gradient, and log-probabilities of another policy at the same labels."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(9, 3, generator=generator, dtype=torch.float64).requires_grad_()
    reference = -torch.rand(9, generator=generator, dtype=torch.float64) - 0.5
    return logits, reference


def gradient_by_differences(loss: Callable[[torch.Tensor], torch.Tensor], logits: torch.Tensor) -> torch.Tensor:
    step, point = 1e-6, logits.detach()
    result = torch.zeros_like(point)
    for index in range(point.numel()):
        change = torch.zeros_like(point).flatten()
        change[index] = step
        change = change.view_as(point)
        result.view(-1)[index] = (loss(point + change) - loss(point - change)) / (2 * step)
    return result


def paper_gradient(logits: torch.Tensor, reference: torch.Tensor, rewards: list[float]) -> torch.Tensor:
    """Kimi k1.5, 2.3.2, word for word, with k = 4 answers of one prompt; descent, so with the sign turned."""
    mean = sum(rewards) / len(rewards)
    total = torch.zeros_like(logits)
    for answer, reward in enumerate(rewards):
        inputs = make_inputs(logits, reference, rewards)
        own = (inputs.sequences == answer) & inputs.mask
        logprob, old = inputs.logprobs[own].sum(), inputs.reference_logprobs[own].sum()
        (score,) = torch.autograd.grad(logprob, logits, retain_graph=True)
        (pull,) = torch.autograd.grad((logprob - old) ** 2, logits)
        total += score * (reward - mean) - TAU / 2 * pull
    return -total / len(rewards)


@pytest.mark.parametrize(
    "rewards",
    [
        pytest.param([1.0, 0.0, 0.0, 1.0], id="right and wrong"),
        pytest.param([0.3, 0.3, 0.9, 0.3], id="ties"),
        pytest.param([1.0, 1.0, 1.0, 1.0], id="all equal: only the pull is left"),
    ],
)
def test_the_gradient_of_omd_is_the_papers(rewards: list[float]) -> None:
    logits, reference = random_policy()
    advantages = [reward - sum(rewards) / 4 for reward in rewards]

    def loss(logits: torch.Tensor) -> torch.Tensor:
        return mirror_descent_loss(make_inputs(logits, reference, advantages), TAU, importance_cap=0)

    (gradient,) = torch.autograd.grad(loss(logits), logits)
    torch.testing.assert_close(gradient, paper_gradient(logits, reference, rewards))
    torch.testing.assert_close(gradient, gradient_by_differences(loss, logits), atol=1e-8, rtol=1e-6)


def test_a_group_of_one_answer_is_only_pulled_back_to_the_reference() -> None:
    logits, reference = random_policy()
    loss = mirror_descent_loss(make_inputs(logits, reference, [0.0] * 4), TAU, importance_cap=0)
    assert loss > 0
    at_reference = make_inputs(logits, make_inputs(logits, reference, [0.0] * 4).logprobs.detach(), [0.0] * 4)
    (gradient,) = torch.autograd.grad(mirror_descent_loss(at_reference, TAU, importance_cap=2.0), logits)
    assert gradient.abs().max() == 0


@pytest.mark.parametrize("name", ["omd", "grpo", "rest"])
def test_what_is_not_learnt_from_gets_no_gradient(name: str) -> None:
    logits, reference = random_policy()
    loss = choose_loss(AlgorithmSpec(loss=name))(make_inputs(logits, reference, [0.5, -0.5, 0.2, 1.0]))
    (gradient,) = torch.autograd.grad(loss, logits)
    assert gradient[6].abs().max() == 0
    assert gradient.abs().max() > 0


def test_parts_of_a_minibatch_add_up_to_the_whole() -> None:
    logits, reference = random_policy()
    advantages = [0.5, -0.5, 0.2, 1.0]
    for loss in (choose_loss(AlgorithmSpec(loss=name)) for name in ("omd", "grpo", "rest")):
        whole = loss(make_inputs(logits, reference, advantages))
        first = make_inputs(logits, reference, advantages).sequences < 2
        parts = []
        for chosen in (first, ~first):
            inputs = make_inputs(logits, reference, advantages)
            parts.append(loss(make_inputs(logits, reference, advantages, mask=inputs.mask & chosen)))
        torch.testing.assert_close(sum(parts), whole)


def test_grpo_stops_pushing_beyond_the_clip() -> None:
    logits, _ = random_policy()
    advantages = [1.0, -1.0, 1.0, 1.0]
    logprobs = make_inputs(logits, torch.zeros(9), advantages).logprobs.detach()
    raised = torch.tensor([0.5, 0.1, -0.5, 0.5, 0, 0, 0, 0, 0], dtype=torch.float64)  # by how much pi is above pi_i
    inputs = make_inputs(logits, logprobs - raised, advantages)
    (gradient,) = torch.autograd.grad(clipped_policy_loss(inputs, 0.2, 0.2, importance_cap=0), logits)
    moved = gradient.abs().amax(-1) > 0
    # A good token raised enough stays; one raised little or lowered moves; a bad token that was raised still falls.
    assert moved[:4].tolist() == [False, True, True, True]


def test_grpo_at_the_reference_is_the_policy_gradient_over_tokens() -> None:
    logits, _ = random_policy()
    advantages = [0.5, -0.5, 0.2, 1.0]
    logprobs = make_inputs(logits, torch.zeros(9), advantages).logprobs
    inputs = make_inputs(logits, logprobs.detach(), advantages)
    (found,) = torch.autograd.grad(clipped_policy_loss(inputs, 0.2, 0.2, importance_cap=2.0), logits, retain_graph=True)
    weights = torch.tensor(advantages, dtype=torch.float64)[inputs.sequences] * inputs.mask
    (expected,) = torch.autograd.grad(-(weights * logprobs).sum() / 8, logits)
    torch.testing.assert_close(found, expected)


def test_importance_weights_correct_for_the_engine_up_to_the_cap() -> None:
    logits, reference = random_policy()
    behaviour = reference.clone()
    behaviour[0] -= 0.1  # the trainer finds the token likelier than the engine did
    behaviour[1] -= 5.0  # far likelier: capped
    behaviour[2] += 0.2
    behaviour[6] -= 0.1  # not learnt from
    inputs = make_inputs(logits, reference, [1.0] * 4, behaviour_logprobs=behaviour)
    expected = torch.tensor([0.1, 0.0, -0.2, 0, 0, 0, 0, 0, 0], dtype=torch.float64).exp()
    expected[1], expected[6] = 2.0, 0.0
    torch.testing.assert_close(importance_weights(inputs, 2.0), expected)
    assert importance_weights(inputs, 0).tolist() == inputs.mask.double().tolist()


def test_rest_learns_from_good_answers_only() -> None:
    logits, reference = random_policy()
    loss = imitation_loss(make_inputs(logits, reference, [1.0, -1.0, 0.0, 0.5]))
    (gradient,) = torch.autograd.grad(loss, logits)
    moved = gradient.abs().amax(-1) > 0
    assert moved.tolist() == [True, True, True, False, False, False, False, True, True]


def test_the_supervised_loss_is_the_mean_over_tokens() -> None:
    logits, reference = random_policy()
    inputs = make_inputs(logits, reference, [0.0] * 4)
    torch.testing.assert_close(supervised_loss(inputs), -inputs.logprobs[inputs.mask].mean())


def test_the_difference_to_the_engine_is_measured_where_it_counts() -> None:
    logits, reference = random_policy()
    behaviour = reference.clone()
    behaviour[0] -= 0.1
    behaviour[3] += 0.3
    behaviour[6] -= 9.0  # not learnt from
    inputs = make_inputs(logits, reference, [1.0] * 4, behaviour_logprobs=behaviour)
    difference = compare_logprobs(inputs)
    assert difference.total.item() == pytest.approx(0.4)
    assert difference.largest.item() == pytest.approx(0.3)
    d = torch.tensor([0.1, -0.3], dtype=torch.float64)
    torch.testing.assert_close(difference.divergence, (d.exp() - 1 - d).sum())
