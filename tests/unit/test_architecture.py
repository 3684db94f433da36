"""What is read from config.json, and what is refused."""

import json
from pathlib import Path
from typing import Any

import pytest
from tandem_core.job.model import ScratchModel, ScratchTokenizer
from tandem_core.model_files import build_config
from tandem_trainer.architecture import Architecture, UnsupportedModelError, load_architecture

LLAMA = {
    "model_type": "llama",
    "vocab_size": 128256,
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 16,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": True,
    "rope_theta": 500000.0,
    "rope_scaling": {
        "rope_type": "llama3",
        "factor": 32.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    },
}


def test_a_scratch_models_config_is_understood() -> None:
    model = ScratchModel(
        architecture="qwen3_moe", experts=8, intermediate_size=96, tokenizer=ScratchTokenizer(tokens=["a"])
    )
    architecture = Architecture.from_config(build_config(model))
    assert (architecture.experts, architecture.intermediate_size, architecture.head_size) == (8, 96, 32)
    assert architecture.normalise_expert_weights
    assert architecture.query_key_norm


def test_older_configs_keep_the_rotary_embedding_elsewhere() -> None:
    architecture = Architecture.from_config(LLAMA)
    assert (architecture.rope_theta, architecture.rope_scaling_factor) == (500000.0, 32.0)
    assert architecture.head_size == 64
    assert architecture.tied_embeddings


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "gpt2"}, "model_type 'gpt2'"),
        ({"hidden_act": "gelu"}, "hidden_act = 'gelu'"),
        ({"attention_bias": True}, "attention_bias = True"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, "yarn"),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 2.0}}, "low_freq_factor"),
        ({"model_type": "qwen3_moe", "mlp_only_layers": [0]}, "mlp_only_layers"),
    ],
)
def test_what_would_be_computed_wrongly_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UnsupportedModelError, match=message):
        Architecture.from_config(LLAMA | change)


def test_a_missing_field_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    with pytest.raises(UnsupportedModelError, match=r"config\.json lacks the field 'num_attention_heads'"):
        load_architecture(tmp_path)
    with pytest.raises(UnsupportedModelError, match="cannot read"):
        load_architecture(tmp_path / "nowhere")
