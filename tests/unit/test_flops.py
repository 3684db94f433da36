"""What training needs, and what devices could do."""

import pytest
import torch
from tandem_trainer.architecture import Architecture
from tandem_trainer.flops import count_multiplied, count_training_flops, observe_peak_flops

SMALL = {
    "model_type": "qwen3",
    "vocab_size": 100,
    "hidden_size": 8,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 4,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-6,
}
# Queries and output 8 x 16, keys and values 8 x 8, feed-forward 3 x 8 x 32, head 8 x 100.
LAYER = 2 * 8 * 16 + 2 * 8 * 8 + 3 * 8 * 32
HEAD = 8 * 100


def test_parameters_that_tokens_are_multiplied_with() -> None:
    assert count_multiplied(Architecture.from_config(SMALL)) == 2 * LAYER + HEAD


def test_of_experts_only_those_count_that_a_token_goes_to() -> None:
    experts = {"model_type": "qwen3_moe", "moe_intermediate_size": 32, "num_experts": 16, "num_experts_per_tok": 2}
    found = count_multiplied(Architecture.from_config(SMALL | experts))
    router, second = 8 * 16, 3 * 8 * 32
    assert found == 2 * (LAYER + second + router) + HEAD


def test_long_sequences_need_more_for_attention() -> None:
    architecture = Architecture.from_config(SMALL)
    together, apart = (count_training_flops(architecture, lengths) for lengths in ([20], [10, 10]))
    # Forward 2 x 20^2 x 16 (queries with keys, and with values, 2 operations each, half of them masked), 3 times that.
    assert together == 6 * 20 * (2 * LAYER + HEAD) + 3 * 2 * (2 * 20**2 * 16)
    assert together - apart == pytest.approx(3 * 2 * 2 * 16 * (20**2 - 2 * 10**2))


def test_the_speed_of_this_machine_is_measured() -> None:
    assert 1e8 < observe_peak_flops(torch.device("cpu"), torch.float32) < 1e14
