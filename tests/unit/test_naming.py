"""Megatron's parameters under Hugging Face names."""

from dataclasses import replace

import pytest
import torch
from tandem_trainer.architecture import Architecture
from tandem_trainer.layout import Layout
from tandem_trainer.naming import name_parameters, own_slices

DENSE = Architecture(
    model_type="qwen3",
    vocabulary_size=13,
    hidden_size=6,
    intermediate_size=8,
    layers=4,
    heads=4,
    key_value_heads=2,
    head_size=2,
    max_length=64,
    norm_epsilon=1e-6,
    rope_theta=10000.0,
    rope_scaling_factor=None,
    tied_embeddings=False,
    query_key_norm=True,
    query_key_value_bias=False,
    experts=0,
    experts_per_token=0,
    normalise_expert_weights=False,
)
EXPERTS = replace(DENSE, model_type="qwen3_moe", experts=4, experts_per_token=2)


def pieces(
    name: str,
    tensor: torch.Tensor,
    architecture: Architecture = DENSE,
    layout: Layout | None = None,
    first_layer: int = 0,
) -> dict[str, tuple[tuple[int, ...], tuple[int, ...], torch.Tensor]]:
    """By name: global shape, start, box."""
    found = name_parameters([(name, tensor)], first_layer, architecture, layout or Layout())
    return {piece.name: (piece.global_shape, piece.start, piece.view.reshape(piece.shape)) for piece in found}


def test_queries_keys_and_values_are_taken_apart_by_group() -> None:
    # Two groups of two query heads, a key and a value head, each of two rows.
    rows = torch.arange(16.0)[:, None].repeat(1, 6)
    found = pieces("decoder.layers.1.self_attention.linear_qkv.weight", rows)
    firsts = {name.split(".")[-2]: box[:, 0].tolist() for name, (_, _, box) in found.items()}
    assert firsts == {
        "q_proj": [0, 1, 2, 3, 8, 9, 10, 11],
        "k_proj": [4, 5, 12, 13],
        "v_proj": [6, 7, 14, 15],
    }
    assert set(found) == {f"model.layers.1.self_attn.{letter}_proj.weight" for letter in "qkv"}


def test_a_tensor_rank_holds_its_rows_of_the_gate_and_of_the_up_projection() -> None:
    layout = Layout(tensor_rank=1, tensor_size=2)
    found = pieces("decoder.layers.0.mlp.linear_fc1.weight", torch.arange(8.0)[:, None].repeat(1, 6), layout=layout)
    shape, start, gate = found["model.layers.0.mlp.gate_proj.weight"]
    assert (shape, start, gate[:, 0].tolist()) == ((8, 6), (4, 0), [0, 1, 2, 3])
    shape, start, up = found["model.layers.0.mlp.up_proj.weight"]
    assert (shape, start, up[:, 0].tolist()) == ((8, 6), (4, 0), [4, 5, 6, 7])


def test_layers_of_a_later_pipeline_stage_have_their_global_number() -> None:
    assert list(pieces("decoder.layers.1.self_attention.q_layernorm.weight", torch.ones(2), first_layer=2)) == [
        "model.layers.3.self_attn.q_norm.weight"
    ]


@pytest.mark.parametrize(
    ("rank", "start", "rows"),
    [
        pytest.param(0, 0, 8, id="no padding"),
        pytest.param(1, 8, 5, id="partly padding"),
        pytest.param(2, None, 0, id="padding only: holds nothing"),
    ],
)
def test_padding_of_the_vocabulary_is_left_out(rank: int, start: int | None, rows: int) -> None:
    layout = Layout(tensor_rank=rank, tensor_size=3)
    found = pieces("embedding.word_embeddings.weight", torch.zeros(8, 6), layout=layout)
    if start is None:
        assert found == {}
    else:
        shape, first, box = found["model.embed_tokens.weight"]
        assert (shape, first, tuple(box.shape)) == ((13, 6), (start, 0), (rows, 6))


def test_the_last_stages_copy_of_a_tied_embedding_is_filled_but_not_published() -> None:
    tied = replace(DENSE, tied_embeddings=True)
    found = list(name_parameters([("output_layer.weight", torch.zeros(16, 6))], 0, tied, Layout()))
    assert [piece.name for piece in found] == ["model.embed_tokens.weight"]
    assert list(own_slices(found, Layout())) == []


@pytest.mark.parametrize(
    "name",
    [
        "decoder.layers.0.mlp.experts.local_experts.1.linear_fc2.weight",
        "decoder.layers.0.mlp.experts.linear_fc2.weight1",
    ],
    ids=["one module for each expert", "grouped"],
)
def test_experts_have_their_global_number_and_replica(name: str) -> None:
    layout = Layout(expert_rank=1, expert_size=2, expert_data_rank=3, data_rank=5, tensor_rank=1, tensor_size=2)
    found = list(name_parameters([(name, torch.zeros(6, 8))], 0, EXPERTS, layout))
    (published,) = own_slices(found, layout)
    assert published.name == "model.layers.0.mlp.experts.3.down_proj.weight"
    assert (published.global_shape, published.replica) == ((6, 8), 3)


def test_what_all_tensor_ranks_hold_is_published_by_the_first() -> None:
    for rank, count in ((0, 1), (1, 0)):
        layout = Layout(tensor_rank=rank, tensor_size=2, data_rank=1)
        found = name_parameters([("decoder.final_layernorm.weight", torch.zeros(6))], 0, DENSE, layout)
        assert [piece.replica for piece in own_slices(found, layout)] == [1] * count


def test_loading_a_box_is_the_inverse() -> None:
    parameter = torch.randn(16, 6)
    empty = torch.zeros(16, 6)
    name = "decoder.layers.0.self_attention.linear_qkv.weight"
    given = name_parameters([(name, parameter)], 0, DENSE, Layout())
    for piece, source in zip(name_parameters([(name, empty)], 0, DENSE, Layout()), given, strict=True):
        piece.load(source.view.reshape(source.shape))
    assert torch.equal(empty, parameter)


def test_an_unknown_parameter_is_refused() -> None:
    with pytest.raises(KeyError, match="linear_magic"):
        pieces("decoder.layers.0.mlp.linear_magic.weight", torch.zeros(2, 2))
