"""Which slices a rank writes, and where in its file each begins: pure functions."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Self

import torch
import xxhash

from tandem_trainer.naming import OwnedSlice

ALIGNMENT_BYTES = 64
DTYPE_NAMES = {
    torch.float32: "F32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.uint8: "U8",
}
"""safetensors' names."""


@dataclass(frozen=True)
class Box:
    """A slice without its values."""

    name: str
    global_shape: tuple[int, ...]
    start: tuple[int, ...]
    shape: tuple[int, ...]
    dtype: torch.dtype

    @classmethod
    def of(cls, owned: OwnedSlice) -> Self:
        """The box that `owned` fills."""
        return cls(owned.name, owned.global_shape, owned.start, owned.shape, owned.view.dtype)

    @property
    def identity(self) -> int:
        """The same number for the same box on any rank, in 63 bits."""
        return xxhash.xxh3_64_intdigest(f"{self.name}{self.start}{self.shape}".encode()) >> 1

    @property
    def size_bytes(self) -> int:
        """Bytes of its values."""
        return torch.Size(self.shape).numel() * self.dtype.itemsize


@dataclass(frozen=True)
class ShardLayout:
    """A rank's file: boxes and the first byte of each."""

    offsets: dict[Box, int]
    size_bytes: int


def plan_layout(boxes: Iterable[Box]) -> ShardLayout:
    """Boxes in the given order, each at a multiple of 64 bytes."""
    offsets: dict[Box, int] = {}
    end = 0
    for box in boxes:
        offsets[box] = -(-end // ALIGNMENT_BYTES) * ALIGNMENT_BYTES
        end = offsets[box] + box.size_bytes
    return ShardLayout(offsets, end)


def choose_boxes(
    boxes: Iterable[Box], rank: int, ranks_per_pod: int, identities: Sequence[frozenset[int]]
) -> list[Box]:
    """Those of this rank's boxes that it has to publish: the ones that no lower rank of its pod holds as well.

    `identities` are all ranks' boxes. Each pod so has everything that its ranks hold exactly once: what a pod's own
    engine can read locally, it need not fetch.
    """
    first = rank - rank % ranks_per_pod
    published: frozenset[int] = frozenset().union(*identities[first:rank])
    return [box for box in boxes if box.identity not in published]
