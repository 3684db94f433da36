"""What a Hugging Face config.json says about the model, as far as Megatron has to know it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from tandem_core.errors import TandemError

_KNOWN = ("llama", "qwen2", "qwen3", "qwen3_moe")
_LLAMA3_ROPE = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}


class UnsupportedModelError(TandemError):
    """A model that the trainer cannot build as its config.json wants it."""


@dataclass(frozen=True)
class Architecture:
    """A decoder of the Llama family: Llama, Qwen2, Qwen3 and Qwen3-MoE."""

    model_type: str
    vocabulary_size: int
    hidden_size: int
    intermediate_size: int
    """Width of the feed-forward layer (of one expert, where there are experts)."""
    layers: int
    heads: int
    key_value_heads: int
    head_size: int
    max_length: int
    norm_epsilon: float
    rope_theta: float
    rope_scaling_factor: float | None
    """Factor of Llama 3's scaling of the rotary embedding; None without scaling."""
    tied_embeddings: bool
    query_key_norm: bool
    query_key_value_bias: bool
    experts: int
    """0 for a dense model."""
    experts_per_token: int
    normalise_expert_weights: bool
    """Whether the chosen experts' weights are made to add up to 1."""

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Read the fields of a config.json. Raises UnsupportedModelError that names the field and the value."""
        kind = config.get("model_type")
        if kind not in _KNOWN:
            raise UnsupportedModelError(f"model_type {kind!r} is not supported; supported are {', '.join(_KNOWN)}")
        _refuse_variants(config)
        theta, scaling = _rope(config)
        moe = kind == "qwen3_moe"
        heads = config["num_attention_heads"]
        return cls(
            model_type=kind,
            vocabulary_size=config["vocab_size"],
            hidden_size=config["hidden_size"],
            intermediate_size=config["moe_intermediate_size" if moe else "intermediate_size"],
            layers=config["num_hidden_layers"],
            heads=heads,
            key_value_heads=config.get("num_key_value_heads") or heads,
            head_size=config.get("head_dim") or config["hidden_size"] // heads,
            max_length=config["max_position_embeddings"],
            norm_epsilon=config["rms_norm_eps"],
            rope_theta=theta,
            rope_scaling_factor=scaling,
            tied_embeddings=config.get("tie_word_embeddings", False),
            query_key_norm=kind in ("qwen3", "qwen3_moe"),
            query_key_value_bias=kind == "qwen2",
            # transformers before version 5 wrote num_experts
            experts=(config.get("num_experts") or config["num_local_experts"]) if moe else 0,
            experts_per_token=config["num_experts_per_tok"] if moe else 0,
            normalise_expert_weights=config.get("norm_topk_prob", False) if moe else False,
        )


def load_architecture(model_dir: Path) -> Architecture:
    """The architecture in `model_dir`/config.json. Raises UnsupportedModelError."""
    path = model_dir / "config.json"
    try:
        return Architecture.from_config(json.loads(path.read_text()))
    except KeyError as error:
        raise UnsupportedModelError(f"{path} lacks the field {error}") from error
    except (OSError, json.JSONDecodeError) as error:
        raise UnsupportedModelError(f"cannot read {path}: {error}") from error


def _refuse_variants(config: Mapping[str, Any]) -> None:
    wanted = {
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "use_sliding_window": False,
        "mlp_only_layers": [],
        "decoder_sparse_step": 1,
        "partial_rotary_factor": 1.0,
    }
    for field, value in wanted.items():
        if config.get(field, value) not in (value, None):
            raise UnsupportedModelError(f"config.json has {field} = {config[field]!r}; only {value!r} is supported")


def _rope(config: Mapping[str, Any]) -> tuple[float, float | None]:
    parameters = config.get("rope_parameters") or {}
    scaling = {**(config.get("rope_scaling") or {}), **parameters}
    theta = float(parameters.get("rope_theta") or config.get("rope_theta") or 10_000.0)
    kind = scaling.get("rope_type") or scaling.get("type") or "default"
    if kind == "default":
        return theta, None
    fits = all(scaling.get(name, value) == value for name, value in _LLAMA3_ROPE.items())
    if kind != "llama3" or not fits:
        raise UnsupportedModelError(
            f"config.json has rotary embedding {scaling}; supported are default and llama3 with {_LLAMA3_ROPE}"
        )
    return theta, float(scaling["factor"])
