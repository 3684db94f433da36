"""Megatron's parameters under Hugging Face names: which box of which tensor a rank holds. Pure, but for views.

Megatron keeps queries, keys and values of one layer in one matrix, interleaved by query group, and the gate and up
projections in another, gate first on each rank. Pipeline and expert parallelism are resolved by the names; what tensor
parallelism cuts stays cut.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch

from tandem_trainer.architecture import Architecture
from tandem_trainer.layout import Layout

EMBEDDING, OUTPUT = "model.embed_tokens.weight", "lm_head.weight"

_WHOLE = {
    "input_layernorm.weight": "input_layernorm.weight",
    "self_attention.linear_qkv.layer_norm_weight": "input_layernorm.weight",
    "pre_mlp_layernorm.weight": "post_attention_layernorm.weight",
    "mlp.linear_fc1.layer_norm_weight": "post_attention_layernorm.weight",
    "self_attention.q_layernorm.weight": "self_attn.q_norm.weight",
    "self_attention.k_layernorm.weight": "self_attn.k_norm.weight",
    "mlp.router.weight": "mlp.gate.weight",
}
"""Parameters of a layer that tensor parallelism does not cut; the layer norms stand alone or in TransformerEngine's
fused linear layers."""

_LAYER = re.compile(r"decoder\.layers\.(\d+)\.(.+)")
_EXPERT = re.compile(r"mlp\.experts\.(?:local_experts\.(\d+)\.(linear_fc[12])\.weight|(linear_fc[12])\.weight(\d+))")


@dataclass(frozen=True)
class OwnedSlice:
    """A box of one Hugging Face tensor that this rank holds."""

    name: str
    """Hugging Face name."""
    global_shape: tuple[int, ...]
    """Shape of the whole tensor, vocabulary padding left out."""
    start: tuple[int, ...]
    """First index of the box in each dimension."""
    view: torch.Tensor
    """The box's elements in order, a view of the parameter; its first dimension may be split into several."""
    replica: int = 0
    """Index of the data-parallel replica (for experts: of the expert-data-parallel one); equal boxes come from each."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the box."""
        return _join_first(self.view, len(self.global_shape))

    @property
    def tensor(self) -> torch.Tensor:
        """The box in its own shape; a view where memory order allows, else a copy."""
        return self.view.reshape(self.shape)


@dataclass(frozen=True)
class Piece:
    """A box of one Hugging Face tensor as it lies in a parameter of Megatron's."""

    name: str
    global_shape: tuple[int, ...]
    start: tuple[int, ...]
    view: torch.Tensor
    """The box's elements in order, a view of the parameter; its first dimension may be split into several."""
    expert: bool = False
    cut: bool = False
    """Whether tensor parallelism cuts the tensor; else each tensor-parallel rank holds the whole."""
    copy: bool = False
    """Whether this is the last pipeline stage's copy of a tied embedding."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the box."""
        return _join_first(self.view, len(self.global_shape))

    def load(self, box: torch.Tensor) -> None:
        """Put `box` of shape `shape` into the parameter."""
        self.view.copy_(box.reshape(self.view.shape))


@torch.no_grad()
def name_parameters(
    parameters: Iterable[tuple[str, torch.Tensor]],
    first_layer: int,
    architecture: Architecture,
    layout: Layout,
) -> Iterator[Piece]:
    """The pieces of this rank's `parameters` (GPTModel's names); `first_layer` is the global index of its layer 0.

    Padding of the vocabulary is in no piece. Raises KeyError for a parameter that has no Hugging Face name.
    """
    for name, parameter in parameters:
        tensor = parameter.detach()
        layer = _LAYER.fullmatch(name)
        if layer is None:
            yield from _outer_pieces(name, tensor, architecture, layout)
        else:
            prefix = f"model.layers.{first_layer + int(layer[1])}."
            yield from _layer_pieces(prefix, layer[2], tensor, architecture, layout)


def _join_first(view: torch.Tensor, dimensions: int) -> tuple[int, ...]:
    """The shape in that many dimensions: the first ones become one."""
    tail = tuple(view.shape[view.dim() - dimensions + 1 :])
    return (view.numel() // max(1, torch.Size(tail).numel()), *tail)


def own_slices(pieces: Iterable[Piece], layout: Layout) -> Iterator[OwnedSlice]:
    """What this rank has to publish: no copies of tied embeddings, and uncut tensors from tensor rank 0 only.

    The slices of replica 0 of all ranks make up the model exactly once.
    """
    for piece in pieces:
        if piece.copy or not (piece.cut or piece.expert or layout.tensor_rank == 0):
            continue
        replica = layout.expert_data_rank if piece.expert else layout.data_rank
        yield OwnedSlice(piece.name, piece.global_shape, piece.start, piece.view, replica)


def _outer_pieces(name: str, tensor: torch.Tensor, architecture: Architecture, layout: Layout) -> Iterator[Piece]:
    match name:
        case "embedding.word_embeddings.weight":
            yield from _vocabulary_piece(EMBEDDING, tensor, architecture, layout, copy=False)
        case "output_layer.weight" if architecture.tied_embeddings:
            yield from _vocabulary_piece(EMBEDDING, tensor, architecture, layout, copy=True)
        case "output_layer.weight":
            yield from _vocabulary_piece(OUTPUT, tensor, architecture, layout, copy=False)
        case "decoder.final_layernorm.weight":
            yield _whole("model.norm.weight", tensor)
        case _:
            raise KeyError(f"{name} has no Hugging Face name")


def _vocabulary_piece(
    name: str, tensor: torch.Tensor, architecture: Architecture, layout: Layout, *, copy: bool
) -> Iterator[Piece]:
    first = tensor.shape[0] * layout.tensor_rank
    rows = min(tensor.shape[0], architecture.vocabulary_size - first)
    if rows > 0:
        shape = (architecture.vocabulary_size, architecture.hidden_size)
        yield Piece(name, shape, (first, 0), tensor[:rows], cut=True, copy=copy)


def _layer_pieces(
    prefix: str, name: str, tensor: torch.Tensor, architecture: Architecture, layout: Layout
) -> Iterator[Piece]:
    if name in _WHOLE:
        yield _whole(prefix + _WHOLE[name], tensor)
    elif name in ("self_attention.linear_qkv.weight", "self_attention.linear_qkv.bias"):
        kind = name.rsplit(".", 1)[1]
        for letter, view in zip("qkv", _split_heads(tensor, architecture), strict=True):
            yield _cut_rows(f"{prefix}self_attn.{letter}_proj.{kind}", view, layout)
    elif name == "self_attention.linear_proj.weight":
        yield _cut_columns(prefix + "self_attn.o_proj.weight", tensor, layout)
    elif name == "mlp.linear_fc1.weight":
        for projection, view in zip(("gate_proj", "up_proj"), tensor.chunk(2, 0), strict=True):
            yield _cut_rows(f"{prefix}mlp.{projection}.weight", view, layout)
    elif name == "mlp.linear_fc2.weight":
        yield _cut_columns(prefix + "mlp.down_proj.weight", tensor, layout)
    elif expert := _EXPERT.fullmatch(name):
        yield from _expert_pieces(prefix, expert, tensor, architecture, layout)
    else:
        raise KeyError(f"{prefix}{name} has no Hugging Face name")


def _expert_pieces(
    prefix: str, expert: re.Match[str], tensor: torch.Tensor, architecture: Architecture, layout: Layout
) -> Iterator[Piece]:
    """Names as transformers saves them: one set of projections for each expert, under its global index."""
    local, linear = (int(expert[1]), expert[2]) if expert[1] is not None else (int(expert[4]), expert[3])
    index = layout.expert_rank * (architecture.experts // layout.expert_size) + local
    if linear == "linear_fc2":
        yield _whole(f"{prefix}mlp.experts.{index}.down_proj.weight", tensor, expert=True)
        return
    for projection, view in zip(("gate_proj", "up_proj"), tensor.chunk(2, 0), strict=True):
        yield _whole(f"{prefix}mlp.experts.{index}.{projection}.weight", view, expert=True)


def _split_heads(tensor: torch.Tensor, architecture: Architecture) -> tuple[torch.Tensor, ...]:
    """Views of queries, keys and values: [groups of this rank, heads of the group x head size, ...]."""
    size = architecture.head_size
    queries = architecture.heads // architecture.key_value_heads * size
    groups = tensor.view(-1, queries + 2 * size, *tensor.shape[1:])
    return groups[:, :queries], groups[:, queries : queries + size], groups[:, queries + size :]


def _whole(name: str, tensor: torch.Tensor, *, expert: bool = False) -> Piece:
    shape = tuple(tensor.shape)
    return Piece(name, shape, (0,) * len(shape), tensor, expert=expert)


def _cut_rows(name: str, view: torch.Tensor, layout: Layout) -> Piece:
    dimensions = 1 if name.endswith("bias") else 2
    tail = tuple(view.shape[view.dim() - dimensions + 1 :])
    rows = view.numel() // torch.Size(tail).numel()
    return Piece(
        name, (rows * layout.tensor_size, *tail), (rows * layout.tensor_rank,) + (0,) * len(tail), view, cut=True
    )


def _cut_columns(name: str, tensor: torch.Tensor, layout: Layout) -> Piece:
    rows, columns = tensor.shape
    return Piece(name, (rows, columns * layout.tensor_size), (0, columns * layout.tensor_rank), tensor, cut=True)
