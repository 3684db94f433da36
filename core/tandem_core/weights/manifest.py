"""The manifest: which bytes of which rank's file make up which tensor. Plain data."""

import math
from typing import Self

from pydantic import BaseModel, ConfigDict, model_validator

from tandem_core.coordination.records import Record

DTYPE_BYTES = {"F32": 4, "BF16": 2, "F16": 2, "F8_E4M3": 1, "I64": 8, "I32": 4, "U8": 1}
"""Size in bytes by the dtype names of the safetensors format."""


class TensorSlice(BaseModel):
    """A box of one tensor, stored contiguously (row-major) in the publishing rank's file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    """Hugging Face name."""
    dtype: str
    """safetensors dtype name."""
    global_shape: tuple[int, ...]
    """Shape of the whole tensor."""
    start: tuple[int, ...]
    """First index of the box in each dimension."""
    shape: tuple[int, ...]
    """Shape of the box."""
    offset: int
    """First byte in the rank's file; a multiple of 64."""
    checksum: str
    """xxh3_64 of the bytes, hexadecimal."""

    @property
    def size_bytes(self) -> int:
        """Bytes of the box."""
        return math.prod(self.shape) * DTYPE_BYTES[self.dtype]

    @property
    def whole(self) -> bool:
        """Whether the box is the whole tensor."""
        return self.shape == self.global_shape

    @model_validator(mode="after")
    def _box_inside_tensor(self) -> Self:
        if self.dtype not in DTYPE_BYTES:
            raise ValueError(f"{self.name}: dtype {self.dtype} is none of {sorted(DTYPE_BYTES)}")
        if not len(self.global_shape) == len(self.start) == len(self.shape) or any(
            first < 0 or size < 1 or first + size > whole
            for first, size, whole in zip(self.start, self.shape, self.global_shape, strict=True)
        ):
            raise ValueError(
                f"{self.name}: slice {self.shape} at {self.start} does not lie in the tensor {self.global_shape}"
            )
        return self


class ManifestPart(Record):
    """weights/<version>/parts/<rank>: what one rank attests to have written. Kept in etcd, under 1 MiB."""

    version: int
    rank: int
    world_size: int
    incarnation: str
    """The same for all ranks of one start of the trainer: parts of different starts are never mixed."""
    pod: str
    """The pod in whose shared memory the file lies."""
    url: str
    """http://address:port of that pod's checkpoint engine, which serves the file to other pods."""
    file: str
    """Path of the file below the pod's TANDEM_SHM_DIR."""
    file_bytes: int
    slices: tuple[TensorSlice, ...]


class Commit(Record):
    """weights/<version>/commit and newest_commit: all parts of the version are there and fit together."""

    version: int
    world_size: int
    incarnation: str
    token: int
    """Fencing token of the committing master."""
    size_bytes: int
    """Bytes of the whole model."""
    committed_at: float
