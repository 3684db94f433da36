"""The phases of a job and their order: pure functions."""

from enum import StrEnum


class Phase(StrEnum):
    """What the whole job is doing now."""

    WARMUP = "Warmup"
    ROLLOUT = "Rollout"
    DRAINING = "Draining"
    TRAINING = "Training"
    PUBLISHING = "Publishing"
    LOADING = "Loading"
    DONE = "Done"
    FAILED = "Failed"

    @property
    def final(self) -> bool:
        """Whether no other phase follows."""
        return self in (Phase.DONE, Phase.FAILED)


TO_TRAINING = (Phase.DRAINING,)
"""The switch from inference to training."""
TO_INFERENCE = (Phase.PUBLISHING, Phase.LOADING)
"""The switch from training to inference."""


def next_phase(phase: Phase, iteration: int, last_iteration: int) -> tuple[Phase, int]:
    """The phase after `phase` of `iteration`, and its iteration.

    Iteration 0 is the warm-up: it publishes and loads version 0 and generates nothing. A resumed job starts with
    Warmup at the iteration it had reached. Loading of the last iteration is followed by Done.
    Raises ValueError for a final phase.
    """
    match phase:
        case Phase.WARMUP:
            return Phase.PUBLISHING, iteration
        case Phase.ROLLOUT:
            return Phase.DRAINING, iteration
        case Phase.DRAINING:
            return Phase.TRAINING, iteration
        case Phase.TRAINING:
            return Phase.PUBLISHING, iteration
        case Phase.PUBLISHING:
            return Phase.LOADING, iteration
        case Phase.LOADING:
            return (Phase.DONE, iteration) if iteration >= last_iteration else (Phase.ROLLOUT, iteration + 1)
    raise ValueError(f"no phase follows {phase}")
