"""What the rollout master hands to the trainer: flat arrays, sent in the safetensors format."""

from dataclasses import dataclass, fields
from typing import Self

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load, save


@dataclass(frozen=True, eq=False)
class TrainingBatch:
    """N answers with their prompts, all tokens one after the other (T in all)."""

    iteration: int
    tokens: npt.NDArray[np.int32]
    """[T] prompt and answer tokens of each sequence."""
    lengths: npt.NDArray[np.int32]
    """[N] tokens of each sequence; their sum is T."""
    loss_mask: npt.NDArray[np.bool_]
    """[T] True where the token is to be learnt from; never at a sequence's first token."""
    behaviour_logprobs: npt.NDArray[np.float32]
    """[T] the engine's log-probability of each generated token, 0 elsewhere."""
    versions: npt.NDArray[np.int32]
    """[T] the weight version that generated the token, -1 for prompts and reference answers."""
    advantages: npt.NDArray[np.float32]
    """[N] what each answer's log-probability is weighted with (omd: reward - mean of the group)."""
    rewards: npt.NDArray[np.float32]
    """[N] total reward."""
    groups: npt.NDArray[np.int32]
    """[N] index of the prompt's group; sequences of a group stand together."""
    iterations: int = 0
    """spec.iterations when the batch was made, which the learning rate may depend on; 0: it is not known."""

    def __post_init__(self) -> None:
        """Raises ValueError if shapes do not fit together."""
        total, sequences = int(self.lengths.sum()), len(self.lengths)
        for name in ("tokens", "loss_mask", "behaviour_logprobs", "versions"):
            if getattr(self, name).shape != (total,):
                raise ValueError(f"{name} has shape {getattr(self, name).shape}, the lengths add up to {total}")
        for name in ("advantages", "rewards", "groups"):
            if getattr(self, name).shape != (sequences,):
                raise ValueError(f"{name} has shape {getattr(self, name).shape} for {sequences} sequences")

    def encode(self) -> bytes:
        """The batch in the safetensors format."""
        return save({field.name: np.ascontiguousarray(getattr(self, field.name)) for field in fields(self)})

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """The batch that `encode` wrote."""
        arrays = load(data)
        numbers = {name: int(arrays.pop(name)[0]) for name in ("iteration", "iterations") if name in arrays}
        return cls(**numbers, **arrays)  # type: ignore[arg-type]
