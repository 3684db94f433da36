"""The trained model as a Hugging Face directory, written by all ranks together."""

import json
import math
import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from tandem_core.errors import OutOfSpace

from tandem_trainer.agreement import on_first_rank
from tandem_trainer.naming import OwnedSlice

_DTYPES: dict[torch.dtype, tuple[str, np.dtype[Any], str]] = {
    torch.float32: ("F32", np.dtype("<f4"), "float32"),
    torch.bfloat16: ("BF16", np.dtype("<u2"), "bfloat16"),
}
"""PyTorch's dtype: safetensors' name, what numpy writes it as, config.json's name."""
_WEIGHTS = (".safetensors", ".bin", ".pth", ".index.json")


class ModelNotWritten(OutOfSpace):
    """There is no room for the trained model."""


@dataclass(frozen=True)
class FilePlan:
    """Header of a safetensors file and where in the file each tensor begins."""

    header: bytes
    offsets: dict[str, int]
    size_bytes: int


def plan_file(shapes: dict[str, tuple[int, ...]], dtype_name: str, item_bytes: int) -> FilePlan:
    """Tensors in alphabetical order, one after the other, after a header (https://github.com/huggingface/safetensors)."""
    entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    begin: dict[str, int] = {}
    at = 0
    for name in sorted(shapes):
        size = math.prod(shapes[name]) * item_bytes
        entries[name] = {"dtype": dtype_name, "shape": list(shapes[name]), "data_offsets": [at, at + size]}
        begin[name] = at
        at += size
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    header = len(text).to_bytes(8, "little") + text
    return FilePlan(header, {name: len(header) + first for name, first in begin.items()}, len(header) + at)


def export_model(slices: Iterable[OwnedSlice], model_dir: Path, directory: Path) -> None:
    """Write `directory`, on a disk that all ranks share: model.safetensors, and the rest of `model_dir`. Collective."""
    own = [piece for piece in slices if piece.replica == 0]
    names: list[dict[str, tuple[int, ...]]] = [{}] * dist.get_world_size()
    dist.all_gather_object(names, {piece.name: piece.global_shape for piece in own})
    shapes = {name: shape for part in names for name, shape in part.items()}
    dtype = _common_dtype(own)
    dtype_name, item, config_name = _DTYPES[dtype]
    plan = plan_file(shapes, dtype_name, item.itemsize)
    partial = directory / "model.safetensors.part"

    def prepare() -> None:
        directory.mkdir(parents=True, exist_ok=True)
        _copy_companions(model_dir, directory, config_name)
        _reserve(partial, plan)

    try:
        on_first_rank(prepare)
    except OSError as error:
        existing = next(path for path in (directory, *directory.parents) if path.exists())
        raise ModelNotWritten(
            f"the trained model cannot be written to {directory} ({error.strerror}): it needs {plan.size_bytes} "
            f"bytes, {shutil.disk_usage(existing).free} are free. Make room: it is tried again"
        ) from error
    for piece in own:
        _write_slice(partial, plan.offsets[piece.name], item, piece)
    dist.barrier()
    if dist.get_rank() == 0:
        partial.replace(directory / "model.safetensors")
    dist.barrier()


def _reserve(path: Path, plan: FilePlan) -> None:
    """Write the header and take the space: a disk that fills while a mapped file is written ends the process."""
    with path.open("wb") as file:
        file.write(plan.header)
        file.flush()
        os.posix_fallocate(file.fileno(), 0, plan.size_bytes)


def _common_dtype(own: list[OwnedSlice]) -> torch.dtype:
    """All parameters are of one dtype: a rank that owns none learns it from the others."""
    found: list[torch.dtype | None] = [None] * dist.get_world_size()
    dist.all_gather_object(found, own[0].tensor.dtype if own else None)
    return next(dtype for dtype in found if dtype is not None)


def _write_slice(path: Path, offset: int, item: np.dtype[Any], piece: OwnedSlice) -> None:
    tensor = piece.tensor.detach().to("cpu").contiguous()
    values = tensor.view(torch.uint16).numpy() if tensor.dtype is torch.bfloat16 else tensor.numpy()
    whole = np.memmap(path, dtype=item, mode="r+", offset=offset, shape=piece.global_shape)
    whole[tuple(slice(first, first + size) for first, size in zip(piece.start, values.shape, strict=True))] = values
    whole.flush()


def _copy_companions(model_dir: Path, directory: Path, dtype: str) -> None:
    """Tokenizer, generation settings and the like; config.json with the dtype the weights now have."""
    for path in model_dir.iterdir():
        if path.is_file() and not path.name.endswith(_WEIGHTS) and path.name != "config.json":
            shutil.copyfile(path, directory / path.name)
    config = json.loads((model_dir / "config.json").read_text())
    config.pop("torch_dtype", None)
    config["dtype"] = dtype
    (directory / "config.json").write_text(json.dumps(config, indent=2))
