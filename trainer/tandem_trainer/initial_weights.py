"""First weights: from a Hugging Face directory, or made from random numbers the same way for each layout."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import safe_open
from tandem_core.errors import TandemError

from tandem_trainer.naming import Piece

_FUSED_EXPERTS = re.compile(r"(.+\.mlp\.experts)\.(gate_up_proj|down_proj)")


class WeightsError(TandemError):
    """The model's weights cannot be read."""


class WeightSource(Protocol):
    """Gives boxes of Hugging Face tensors."""

    def read(self, piece: Piece) -> torch.Tensor:
        """The box that `piece` needs. Raises WeightsError if the tensor is missing or has another shape."""
        ...


def load_pieces(pieces: Iterable[Piece], source: WeightSource) -> None:
    """Fill every piece from `source`."""
    with torch.no_grad():
        for piece in pieces:
            piece.load(source.read(piece))


class RandomWeights:
    """The weights that transformers gives a new model under a seed; whole on each rank, so that any cut is the same."""

    def __init__(self, model_dir: Path, seed: int) -> None:
        from transformers import AutoConfig, AutoModelForCausalLM

        config = AutoConfig.from_pretrained(model_dir)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        self._tensors = dict(split_fused_experts(model.state_dict()))

    def read(self, piece: Piece) -> torch.Tensor:
        """The box that `piece` needs."""
        tensor = self._tensors.get(piece.name)
        if tensor is None:
            raise WeightsError(f"transformers makes no tensor {piece.name} for this model")
        _check_shape(piece, tuple(tensor.shape), "the new model")
        return tensor[_box(piece)]


def split_fused_experts(tensors: Mapping[str, torch.Tensor]) -> Iterator[tuple[str, torch.Tensor]]:
    """Names and tensors as transformers saves them: it computes with all experts of a layer in one tensor,
    but saves each on its own."""
    for name, tensor in tensors.items():
        fused = _FUSED_EXPERTS.fullmatch(name)
        if fused is None:
            yield name, tensor
            continue
        for index, expert in enumerate(tensor):
            if fused[2] == "down_proj":
                yield f"{fused[1]}.{index}.down_proj.weight", expert
            else:
                gate, up = expert.chunk(2, 0)
                yield f"{fused[1]}.{index}.gate_proj.weight", gate
                yield f"{fused[1]}.{index}.up_proj.weight", up


class SafetensorsDirectory:
    """The safetensors files of a Hugging Face directory; only the boxes asked for are read. A context manager."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._file_of = _index_files(directory)
        self._open: dict[Path, safe_open] = {}
        self._stack = ExitStack()

    def __enter__(self) -> "SafetensorsDirectory":
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def read(self, piece: Piece) -> torch.Tensor:
        """The box that `piece` needs."""
        path = self._file_of.get(piece.name)
        if path is None:
            raise WeightsError(
                f"{self._directory} has no tensor {piece.name}: config.json and the safetensors files do not belong "
                "together, or the download is incomplete"
            )
        if path not in self._open:
            self._open[path] = self._stack.enter_context(safe_open(path, framework="pt"))
        tensor: Any = self._open[path].get_slice(piece.name)  # type: ignore[no-untyped-call]
        _check_shape(piece, tuple(tensor.get_shape()), str(path))
        return tensor[_box(piece)]


def has_weights(directory: Path) -> bool:
    """Whether the directory holds safetensors files."""
    return any(directory.glob("*.safetensors"))


def _index_files(directory: Path) -> dict[str, Path]:
    index = directory / "model.safetensors.index.json"
    if index.is_file():
        names = json.loads(index.read_text())["weight_map"]
        return {name: directory / file for name, file in names.items()}
    file_of: dict[str, Path] = {}
    for path in sorted(directory.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            file_of |= dict.fromkeys(file.keys(), path)
    if not file_of:
        raise WeightsError(f"{directory} has no safetensors files: the trainer reads no other format")
    return file_of


def _check_shape(piece: Piece, found: tuple[int, ...], where: str) -> None:
    if found != piece.global_shape:
        raise WeightsError(f"{piece.name} in {where} has shape {found}, config.json asks for {piece.global_shape}")


def _box(piece: Piece) -> tuple[slice, ...]:
    return tuple(slice(first, first + size) for first, size in zip(piece.start, piece.shape, strict=True))
