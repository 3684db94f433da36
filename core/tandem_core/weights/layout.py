"""Where tensors lie: the receiver's file, and the load file that tells the engine which bytes make up which tensor."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from pydantic import BaseModel, ConfigDict

from tandem_core.weights.manifest import DTYPE_BYTES
from tandem_core.weights.merge import Manifest

ALIGNMENT = 64
"""Tensors start at multiples of this many bytes, as slices do in the files of the trainer ranks: one cache line."""

TORCH_DTYPES: Final[dict[str, str]] = {
    "F32": "float32",
    "BF16": "bfloat16",
    "F16": "float16",
    "F8_E4M3": "float8_e4m3fn",
    "I64": "int64",
    "I32": "int32",
    "U8": "uint8",
}
"""Attribute of the torch module by safetensors dtype name."""

NUMPY_DTYPES: Final[dict[str, str]] = {
    name: {"BF16": "uint16", "F8_E4M3": "uint8"}.get(name, torch_name) for name, torch_name in TORCH_DTYPES.items()
}
"""numpy dtype of the same size by safetensors dtype name; numpy has no bfloat16 and no float8: those are raw bits."""


def align(offset: int) -> int:
    """The first multiple of ALIGNMENT that is not below `offset`."""
    return -(-offset // ALIGNMENT) * ALIGNMENT


def tensor_bytes(dtype: str, shape: Sequence[int]) -> int:
    """Bytes of a tensor of this safetensors dtype and shape."""
    return math.prod(shape) * DTYPE_BYTES[dtype]


@dataclass(frozen=True)
class Layout:
    """The receiver's file: it has room for every tensor of the model in full; what is not fetched is a hole."""

    offsets: dict[str, int]
    """First byte of each tensor."""
    size_bytes: int
    """Apparent size of the file."""


def plan_layout(manifest: Manifest) -> Layout:
    """Lay the tensors out in the order in which the ranks' files hold them, so that neighbours stay neighbours."""
    first_sources = {
        name: (tensor.boxes[0].sources[0].rank, tensor.boxes[0].sources[0].offset)
        for name, tensor in manifest.tensors.items()
    }
    offsets: dict[str, int] = {}
    end = 0
    for name in sorted(first_sources, key=first_sources.__getitem__):
        offsets[name] = end
        end += sum(align(box.size_bytes) for box in manifest.tensors[name].boxes)
    return Layout(offsets, end)


class LoadedBox(BaseModel):
    """A box of a tensor, contiguous (row-major) in a file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    file: int
    """Index in LoadFile.files."""
    offset: int
    """First byte in the file."""
    start: tuple[int, ...]
    shape: tuple[int, ...]


class LoadedTensor(BaseModel):
    """Where the boxes of a tensor are; they need not cover it: what no box covers, this engine has not asked for."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    dtype: str
    """safetensors dtype name."""
    shape: tuple[int, ...]
    """Shape of the whole tensor."""
    boxes: tuple[LoadedBox, ...]


class LoadFile(BaseModel):
    """What the checkpoint engine hands to the engine's workers: verified bytes, by tensor."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: int
    files: tuple[str, ...]
    """Paths below the directory of the load file."""
    tensors: dict[str, LoadedTensor]


def join_rows(dtype: str, boxes: Sequence[LoadedBox]) -> tuple[LoadedBox, ...]:
    """The same boxes, those that follow each other along dimension 0 and in the file made one.

    A tensor whose cuts along dimension 0 lie in place becomes one box: the engine then reads it without a copy.
    """
    joined: list[LoadedBox] = []
    for box in sorted(boxes, key=lambda box: box.start):
        last = joined[-1] if joined else None
        if (
            last is not None
            and box.start
            and last.file == box.file
            and last.offset + tensor_bytes(dtype, last.shape) == box.offset
            and last.start[0] + last.shape[0] == box.start[0]
            and last.start[1:] == box.start[1:]
            and last.shape[1:] == box.shape[1:]
        ):
            rows = (last.shape[0] + box.shape[0], *last.shape[1:])
            joined[-1] = last.model_copy(update={"shape": rows})
        else:
            joined.append(box)
    return tuple(joined)
