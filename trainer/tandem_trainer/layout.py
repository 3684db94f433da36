"""Which part of the model and of the data a rank has."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Layout:
    """This rank's place in each kind of parallelism."""

    rank: int = 0
    world_size: int = 1
    tensor_rank: int = 0
    tensor_size: int = 1
    pipeline_rank: int = 0
    pipeline_size: int = 1
    data_rank: int = 0
    data_size: int = 1
    expert_rank: int = 0
    expert_size: int = 1
    expert_data_rank: int = 0
    """Which of the replicas of its experts this rank holds."""

    @property
    def first_stage(self) -> bool:
        """Whether the embedding is here."""
        return self.pipeline_rank == 0

    @property
    def last_stage(self) -> bool:
        """Whether the output layer is here."""
        return self.pipeline_rank == self.pipeline_size - 1
