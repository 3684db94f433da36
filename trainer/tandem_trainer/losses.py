"""What is minimised: pure functions of log-probabilities.

Each loss is a sum over the given tokens or sequences divided by the whole minibatch's number of them, so that the
losses of all microbatches and data-parallel ranks add up to the minibatch's.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from tandem_core.job.algorithm import AlgorithmSpec


@dataclass(frozen=True)
class LossInputs:
    """One microbatch; [positions] are all its positions, flat. Sequences are those of the batch (N)."""

    logprobs: torch.Tensor
    """[positions] of the labels, under the policy that is trained; carries the gradient."""
    reference_logprobs: torch.Tensor
    """[positions] under pi_i, the policy at the iteration's start; no gradient."""
    behaviour_logprobs: torch.Tensor
    """[positions] as the engine gave them when it generated."""
    mask: torch.Tensor
    """[positions] bool: what is learnt from."""
    sequences: torch.Tensor
    """[positions] int64 index of the sequence."""
    advantages: torch.Tensor
    """[N]"""
    total_tokens: int
    """Tokens that are learnt from in the whole minibatch."""
    total_sequences: int
    """Sequences in the whole minibatch."""


Loss = Callable[[LossInputs], torch.Tensor]


def choose_loss(algorithm: AlgorithmSpec) -> Loss:
    """The loss of a job's algorithm."""
    match algorithm.loss:
        case "omd":
            return lambda inputs: mirror_descent_loss(inputs, algorithm.tau, algorithm.importance_cap)
        case "grpo":
            low, high, cap = algorithm.clip_low, algorithm.clip_high, algorithm.importance_cap
            return lambda inputs: clipped_policy_loss(inputs, low, high, cap)
        case "rest":
            return imitation_loss


def mirror_descent_loss(inputs: LossInputs, tau: float, importance_cap: float) -> torch.Tensor:
    """Online mirror descent (Kimi k1.5, 2.3.2): the negative of the paper's surrogate, averaged over sequences,

        -A_j log pi(y_j) + tau/2 (log pi(y_j) / pi_i(y_j))^2,   A_j = r_j - mean r,

    with log-probabilities of whole sequences. Tokens of the first term carry the truncated importance weight.
    """
    logprobs = torch.where(inputs.mask, inputs.logprobs, 0.0)
    reference = torch.where(inputs.mask, inputs.reference_logprobs, 0.0)
    weights = importance_weights(inputs, importance_cap) * inputs.advantages[inputs.sequences]
    log_ratio = _sum_by_sequence(logprobs - reference, inputs)
    return ((tau / 2) * log_ratio.square().sum() - (weights * logprobs).sum()) / inputs.total_sequences


def clipped_policy_loss(inputs: LossInputs, low: float, high: float, importance_cap: float) -> torch.Tensor:
    """GRPO's clipped policy gradient (Shao et al. 2024, arXiv 2402.03300, eq. 3 without the KL term), averaged over
    tokens; `low` and `high` apart as in DAPO (arXiv 2503.14476, eq. 10)."""
    ratio = torch.where(inputs.mask, inputs.logprobs - inputs.reference_logprobs, 0.0).exp()
    advantages = inputs.advantages[inputs.sequences]
    gain = torch.minimum(ratio * advantages, ratio.clamp(1 - low, 1 + high) * advantages)
    return -(importance_weights(inputs, importance_cap) * gain).sum() / inputs.total_tokens


def imitation_loss(inputs: LossInputs) -> torch.Tensor:
    """ReST: likelihood of the good answers, those with a positive advantage, which is their weight."""
    weights = torch.where(inputs.mask, inputs.advantages.clamp(min=0)[inputs.sequences], 0.0)
    return -(weights * inputs.logprobs).sum() / inputs.total_tokens


def supervised_loss(inputs: LossInputs) -> torch.Tensor:
    """Mean negative log-likelihood of the tokens."""
    return -torch.where(inputs.mask, inputs.logprobs, 0.0).sum() / inputs.total_tokens


def importance_weights(inputs: LossInputs, cap: float) -> torch.Tensor:
    """[positions] min(pi_i / behaviour, cap), 0 where nothing is learnt: corrects for the engine's probabilities (and
    older versions') differing from the trainer's; truncated as in IMPALA (arXiv 1802.01561). cap 0: no correction."""
    if cap == 0:
        return inputs.mask.to(inputs.reference_logprobs.dtype)
    ratio = (inputs.reference_logprobs - inputs.behaviour_logprobs).exp().clamp(max=cap)
    return torch.where(inputs.mask, ratio, 0.0)


@dataclass(frozen=True)
class LogprobDifference:
    """Sums over tokens of the difference between the trainer's and the engine's log-probabilities."""

    total: torch.Tensor
    """Sum of absolute differences."""
    largest: torch.Tensor
    """Largest absolute difference."""
    divergence: torch.Tensor
    """Sum of exp(d) - 1 - d, d = trainer - engine: an estimate of KL(engine || trainer) that is never negative
    (Schulman, http://joschu.net/blog/kl-approx.html)."""


def compare_logprobs(inputs: LossInputs) -> LogprobDifference:
    """How far the policy pi_i of the trainer is from what generated the tokens."""
    difference = torch.where(inputs.mask, inputs.reference_logprobs - inputs.behaviour_logprobs, 0.0)
    size = difference.abs()
    return LogprobDifference(size.sum(), size.max(), (difference.exp() - 1 - difference).sum())


def _sum_by_sequence(values: torch.Tensor, inputs: LossInputs) -> torch.Tensor:
    return torch.zeros_like(inputs.advantages, dtype=values.dtype).index_add(0, inputs.sequences, values)
