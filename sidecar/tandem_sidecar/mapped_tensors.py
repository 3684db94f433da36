"""Tensors that lie in shared memory: whole ones are read where they are, cut ones are put together as they are used."""

import math
import mmap
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from tandem_core.weights.layout import TORCH_DTYPES, LoadedBox, LoadFile
from torch.utils._pytree import tree_map_only

from tandem_sidecar.mapped_files import MappedFiles

_SLICE = torch.ops.aten.slice.Tensor
_COPY = torch.ops.aten.copy_.default
_VIEWS = frozenset({torch.ops.aten.detach.default, torch.ops.aten.alias.default})

type PlacedBox = tuple[tuple[int, ...], torch.Tensor]
"""First index of a box in the whole tensor, and its elements."""


def map_tensors(load_file: LoadFile, directory: Path, files: MappedFiles) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the name and the tensor, in its full shape, of all tensors of a load file in `directory`.

    The tensors must not be written to. Raises OSError if a file is missing.
    """
    mappings: dict[int, mmap.mmap] = {}
    for name, tensor in load_file.tensors.items():
        dtype = getattr(torch, TORCH_DTYPES[tensor.dtype])
        boxes: list[PlacedBox] = []
        for box in tensor.boxes:
            if box.file not in mappings:
                mappings[box.file] = files.open(directory / load_file.files[box.file])
            boxes.append((box.start, _box_tensor(mappings[box.file], box, dtype)))
        if len(boxes) == 1 and boxes[0][1].shape == tensor.shape:
            yield name, boxes[0][1]
        else:
            yield name, BoxedTensor(name, tensor.shape, dtype, boxes)


def _box_tensor(file: mmap.mmap, box: LoadedBox, dtype: torch.dtype) -> torch.Tensor:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given buffer is not writable")
        flat = torch.frombuffer(file, dtype=dtype, count=math.prod(box.shape), offset=box.offset)
    return flat.view(box.shape)


class BoxedTensor(torch.Tensor):
    """A read-only tensor made of boxes, some of which may be missing.

    Narrowing and copying from it, which is what vLLM's loaders do, touch only the elements that are asked for, so a
    tensor-parallel worker reads its own part. Any other operation first puts the elements together. Asking for
    elements that no box has raises IndexError: nothing is ever made up.
    """

    @staticmethod
    def __new__(cls, name: str, shape: Sequence[int], dtype: torch.dtype, boxes: Sequence[PlacedBox]) -> "BoxedTensor":
        """A tensor of this shape; the starts of the boxes are relative to it and may lie outside of it."""
        return torch.Tensor._make_wrapper_subclass(cls, tuple(shape), dtype=dtype, device="cpu")

    def __init__(self, name: str, shape: Sequence[int], dtype: torch.dtype, boxes: Sequence[PlacedBox]) -> None:
        self._name = name
        self._boxes = tuple(boxes)

    def __repr__(self, **_: object) -> str:
        """Without the elements: to print them would put them together."""
        return f"BoxedTensor({self._name}, shape={tuple(self.shape)}, dtype={self.dtype}, boxes={len(self._boxes)})"

    def narrowed(self, dimension: int, first: int, size: int) -> "BoxedTensor":
        """`size` elements from `first` on along a dimension; nothing is copied."""
        shape = list(self.shape)
        shape[dimension] = size
        moved = [
            ((*start[:dimension], start[dimension] - first, *start[dimension + 1 :]), elements)
            for start, elements in self._boxes
        ]
        return BoxedTensor(self._name, shape, self.dtype, moved)

    def copy_into(self, destination: torch.Tensor) -> None:
        """Write all elements to a tensor of the same shape; raises IndexError if some are missing."""
        copied = 0
        for start, elements in self._boxes:
            target, source = destination, elements
            for dimension, (first, size) in enumerate(zip(start, elements.shape, strict=True)):
                begin, end = max(first, 0), min(first + size, destination.shape[dimension])
                target = target.narrow(dimension, begin, max(end - begin, 0)) if begin < end else target[:0]
                source = source.narrow(dimension, begin - first, end - begin) if begin < end else source[:0]
                if begin >= end:
                    break
            if source.numel():
                target.copy_(source)
                copied += source.numel()
        if copied != destination.numel():
            raise IndexError(
                f"tensor {self._name}: {destination.numel() - copied} of the {destination.numel()} elements the model "
                "asks for are not there: the load file does not hold the whole tensor"
            )

    def assembled(self) -> torch.Tensor:
        """An ordinary tensor with the same elements."""
        whole = torch.empty(tuple(self.shape), dtype=self.dtype, device="cpu")
        self.copy_into(whole)
        return whole

    @classmethod
    def __torch_dispatch__(
        cls,
        operation: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Narrow and copy by boxes; for all other operations, assemble."""
        tensor = args[0]
        if operation in _VIEWS and isinstance(tensor, BoxedTensor):
            return BoxedTensor(tensor._name, tensor.shape, tensor.dtype, tensor._boxes)
        if operation is _SLICE and isinstance(tensor, BoxedTensor) and _step(args) == 1:
            dimension, first, size = _slice_range(tensor, *args[1:4])
            return tensor.narrowed(dimension, first, size)
        if operation is _COPY and isinstance(args[1], BoxedTensor):
            if not tensor.is_meta:  # vLLM first loads onto the meta device, to count elements
                args[1]._copy_like_torch(tensor)
            return tensor
        if operation._schema.is_mutable and isinstance(tensor, BoxedTensor):
            raise RuntimeError(f"{operation} would write to {tensor!r}, which is read-only")
        args, kwargs = tree_map_only(BoxedTensor, BoxedTensor.assembled, (args, dict(kwargs or {})))
        return operation(*args, **kwargs)

    def _copy_like_torch(self, destination: torch.Tensor) -> None:
        if self.shape == destination.shape:
            self.copy_into(destination)
        else:
            destination.copy_(self.assembled())


def _step(args: Sequence[Any]) -> int:
    return args[4] if len(args) > 4 else 1


def _slice_range(
    tensor: torch.Tensor, dimension: int = 0, first: int | None = None, last: int | None = None
) -> tuple[int, int, int]:
    """Dimension, first index and length of a slice with the arguments of aten.slice."""
    dimension %= tensor.dim()
    begin, end, _ = slice(first, last).indices(tensor.shape[dimension])
    return dimension, begin, max(end - begin, 0)
