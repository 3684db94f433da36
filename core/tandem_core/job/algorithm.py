"""How the policy learns from scored answers."""

from typing import Literal

from pydantic import Field

from tandem_core.job.schema import Count, SpecModel


class AlgorithmSpec(SpecModel):
    """The loss and its optimiser."""

    loss: Literal["omd", "grpo", "rest"] = "omd"
    """omd: online mirror descent (Kimi k1.5, 2.3.2); grpo: clipped policy gradient with group-relative advantages;
    rest: imitate the right answers only."""
    tau: float = Field(default=0.1, ge=0)
    """omd: strength of the pull towards the policy at the iteration's start."""
    clip_low: float = Field(default=0.2, ge=0, lt=1)
    """grpo: the probability ratio is clipped below at 1 - clipLow."""
    clip_high: float = Field(default=0.2, ge=0)
    """grpo: the probability ratio is clipped above at 1 + clipHigh."""
    normalise_by_std: bool = True
    """grpo: whether advantages are divided by the standard deviation of their group."""
    importance_cap: float = Field(default=2.0, ge=0)
    """Upper bound of the weight that corrects for the engine's and the trainer's probabilities of a token
    differing (truncated importance sampling); 0 turns the correction off."""
    train_on_old_segments: bool = True
    """Whether segments that earlier iterations generated are in the loss (else only those of the current one)."""
    updates_per_iteration: Count = Field(default=1, ge=1)
    """Optimiser steps in one iteration; the batch is split evenly by prompt groups."""
    learning_rate: float = Field(default=1e-6, gt=0)
    """Learning rate of the first iteration."""
    learning_rate_schedule: Literal["constant", "linear"] = "constant"
    """constant, or linear: falls evenly to a tenth of learningRate in the last iteration."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Decoupled weight decay."""
    adam_beta1: float = Field(default=0.9, ge=0, lt=1)
    """Decay of the first moment."""
    adam_beta2: float = Field(default=0.98, ge=0, lt=1)
    """Decay of the second moment."""
    gradient_clip: float = Field(default=1.0, gt=0)
    """Largest gradient norm."""
    reset_optimizer: bool = False
    """Whether moments are cleared at the start of every iteration, as the reference policy changes
    (Kimi k1.5, 2.3.2)."""


class WarmupSpec(SpecModel):
    """Supervised fine-tuning on reference answers before reinforcement learning."""

    steps: Count = Field(default=0, ge=0)
    """Most optimiser steps; 0 leaves the warm-up out."""
    stop_loss: float = Field(default=0.0, ge=0)
    """Stops when the mean loss of the last 10 steps falls to this."""
    batch_size: Count = Field(default=128, ge=1)
    """Examples a step."""
    learning_rate: float = Field(default=1e-5, gt=0)
    """Learning rate, constant."""
