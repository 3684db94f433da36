"""One optimiser step over a minibatch: forward and backward through all microbatches, in Megatron's schedule."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from megatron.core.pipeline_parallel import get_forward_backward_func
from megatron.core.transformer.transformer_config import TransformerConfig
from tandem_core.batches import TrainingBatch
from tandem_core.job.algorithm import AlgorithmSpec

from tandem_trainer.architecture import Architecture
from tandem_trainer.forward import DeviceMicrobatch, SamplingDistribution, next_token_logprobs
from tandem_trainer.layout import Layout
from tandem_trainer.losses import Loss, LossInputs, choose_loss, compare_logprobs
from tandem_trainer.model import uses_transformer_engine
from tandem_trainer.optimizer import reset_state, set_learning_rate
from tandem_trainer.packing import Minibatch, PackingLimits, pack_batch


@dataclass(frozen=True)
class StepResult:
    """What one optimiser step reports, the same on every rank."""

    loss: float
    gradient_norm: float
    tokens: int
    difference_mean: float
    """Mean |trainer - engine| of the tokens' log-probabilities."""
    difference_largest: float
    divergence: float
    """Estimate of KL(engine || trainer) a token."""


class TrainingStep:
    """Runs batches through the model."""

    def __init__(
        self,
        model: Any,
        optimizer: Any,
        config: TransformerConfig,
        architecture: Architecture,
        layout: Layout,
        limits: PackingLimits,
        temperature: float,
    ) -> None:
        """`temperature` is that of the rollouts: a policy is what answers are sampled from."""
        self._model = model
        self._optimizer = optimizer
        self._config = config
        self._policy = SamplingDistribution(architecture.vocabulary_size, temperature)
        self._model_itself = SamplingDistribution(architecture.vocabulary_size)
        self._layout = layout
        self._limits = limits
        self._device = next(model.parameters()).device
        self._borders = uses_transformer_engine(self._device)
        self._schedule = get_forward_backward_func()

    def train(self, batch: TrainingBatch, algorithm: AlgorithmSpec, learning_rate: float) -> list[StepResult]:
        """The optimiser steps of one iteration; none for a batch with nothing to learn from."""
        if algorithm.reset_optimizer:
            reset_state(self._optimizer)
        packed = pack_batch(batch, self._limits, self._layout.data_rank, algorithm.updates_per_iteration)
        minibatches = [minibatch for minibatch in packed if minibatch.tokens]
        advantages = torch.from_numpy(batch.advantages).to(self._device)
        # With one step pi_theta still is pi_i when the loss is computed: no need for a pass of its own.
        once = len(minibatches) == 1
        references = [None if once else self.logprobs(minibatch) for minibatch in minibatches]
        loss = choose_loss(algorithm)
        return [
            self.update(minibatch, loss, advantages, learning_rate, reference, self._policy)
            for minibatch, reference in zip(minibatches, references, strict=True)
        ]

    def imitate(self, batch: TrainingBatch, loss: Loss, learning_rate: float) -> StepResult:
        """One step on a whole batch with a loss that needs no reference policy."""
        (minibatch,) = pack_batch(batch, self._limits, self._layout.data_rank)
        advantages = torch.from_numpy(batch.advantages).to(self._device)
        return self.update(minibatch, loss, advantages, learning_rate, None, self._model_itself)

    @torch.no_grad()
    def logprobs(self, minibatch: Minibatch) -> list[torch.Tensor]:
        """[positions] under the policy for each microbatch on the last pipeline stage, nothing elsewhere."""

        def forward(microbatches: Iterator[Any], model: Any) -> tuple[torch.Tensor, Callable[..., Any]]:
            output = next_token_logprobs(model, next(microbatches), self._policy)
            return output, lambda logprobs: (logprobs.sum(), {"logprobs": logprobs.detach().flatten().clone()})

        self._model.eval()
        results = self._run(minibatch, self._on_device(minibatch), forward, backward=False)
        self._model.train()
        return [result["logprobs"] for result in results]

    def update(
        self,
        minibatch: Minibatch,
        loss: Loss,
        advantages: torch.Tensor,
        learning_rate: float,
        references: list[torch.Tensor] | None,
        distribution: SamplingDistribution,
    ) -> StepResult:
        """One optimiser step. `references` are the log-probabilities under pi_i; None: the policy is still pi_i."""
        # Megatron divides each loss by the number of microbatches and gradients by the data-parallel ranks;
        # our losses are parts of a sum.
        scale = len(minibatch.microbatches) * self._layout.data_size
        numbered = list(enumerate(self._on_device(minibatch)))

        def forward(microbatches: Iterator[Any], model: Any) -> tuple[torch.Tensor, Callable[..., Any]]:
            number, microbatch = next(microbatches)
            output = next_token_logprobs(model, microbatch, distribution)

            def measure(output: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
                logprobs = output.flatten()
                reference = logprobs.detach() if references is None else references[number]
                inputs = LossInputs(
                    logprobs=logprobs,
                    reference_logprobs=reference,
                    behaviour_logprobs=microbatch.behaviour_logprobs,
                    mask=microbatch.loss_mask,
                    sequences=microbatch.sequences,
                    advantages=advantages,
                    total_tokens=minibatch.tokens,
                    total_sequences=minibatch.sequences,
                )
                value = loss(inputs)
                return value * scale, _measurements(value, inputs)

            return output, measure

        self._model.zero_grad_buffer()
        self._optimizer.zero_grad()
        results = self._run(minibatch, numbered, forward, backward=True)
        set_learning_rate(self._optimizer, learning_rate)
        _, gradient_norm, _ = self._optimizer.step()
        return self._summarise(results, float(gradient_norm), minibatch.tokens)

    def _on_device(self, minibatch: Minibatch) -> list[DeviceMicrobatch]:
        return [
            DeviceMicrobatch(microbatch, self._device, borders=self._borders) for microbatch in minibatch.microbatches
        ]

    def _run(
        self, minibatch: Minibatch, microbatches: list[Any], forward: Callable[..., Any], *, backward: bool
    ) -> list[Any]:
        rows = 1 if self._borders else minibatch.rows
        return self._schedule(
            forward_step_func=forward,
            data_iterator=iter(microbatches),
            model=[self._model],
            num_microbatches=len(microbatches),
            seq_length=minibatch.row_length * minibatch.rows // rows,
            micro_batch_size=rows,
            forward_only=not backward,
        )

    def _summarise(self, results: list[Any], gradient_norm: float, tokens: int) -> StepResult:
        """Adds up what the last stages of all replicas measured, and tells all ranks."""
        sums, largest = torch.zeros(3, device=self._device), torch.zeros(1, device=self._device)
        if results and self._layout.tensor_rank == 0:
            measured = torch.stack([result["sums"] for result in results])
            sums, largest = measured[:, :3].sum(0), measured[:, 3:].amax(0)
        if self._layout.world_size > 1:
            dist.all_reduce(sums)
            dist.all_reduce(largest, op=dist.ReduceOp.MAX)
        loss, difference, divergence = sums.tolist()
        count = max(tokens, 1)
        return StepResult(loss, gradient_norm, tokens, difference / count, float(largest), divergence / count)


@torch.no_grad()
def _measurements(loss: torch.Tensor, inputs: LossInputs) -> dict[str, torch.Tensor]:
    # A tensor of its own: Megatron's schedule divides the loss in place.
    difference = compare_logprobs(inputs)
    sums = (loss.detach().clone(), difference.total, difference.divergence, difference.largest)
    return {"sums": torch.stack([value.float() for value in sums])}


def summarise_iteration(steps: list[StepResult], started: float) -> dict[str, float]:
    """Metrics of an iteration whose training began at `started` (time.monotonic)."""
    if not steps:
        steps = [StepResult(0.0, 0.0, 0, 0.0, 0.0, 0.0)]
    tokens = sum(step.tokens for step in steps)
    share = [step.tokens / max(tokens, 1) for step in steps]
    return {
        "loss": sum(step.loss for step in steps) / len(steps),
        "gradient_norm": sum(step.gradient_norm for step in steps) / len(steps),
        "logprob_difference_mean": sum(s * step.difference_mean for s, step in zip(share, steps, strict=True)),
        "logprob_difference_max": max(step.difference_largest for step in steps),
        "kl": sum(s * step.divergence for s, step in zip(share, steps, strict=True)),
        "tokens": float(tokens),
        "train_seconds": time.monotonic() - started,
    }
