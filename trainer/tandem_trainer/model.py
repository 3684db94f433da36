"""Megatron's model for an architecture, cut for this rank."""

import importlib.util
import math
from typing import Any

import torch
import torch.nn.functional as F
from megatron.core.models.gpt.gpt_layer_specs import (
    get_gpt_layer_local_spec,
    get_gpt_layer_with_transformer_engine_spec,
)
from megatron.core.models.gpt.gpt_model import GPTModel
from megatron.core.transformer.module import Float16Module
from megatron.core.transformer.transformer_block import TransformerBlockSubmodules, get_num_layers_to_build
from megatron.core.transformer.transformer_config import TransformerConfig
from tandem_core.job.hybrid import TrainerSpec

from tandem_trainer.architecture import Architecture, UnsupportedModelError
from tandem_trainer.attention import FusedAttention
from tandem_trainer.layout import Layout


def padded_vocabulary(vocabulary_size: int, tensor_size: int) -> int:
    """Rows of Megatron's embedding: a multiple of tensor_size, and the same for every usual tensor_size so that
    checkpoints fit other layouts."""
    multiple = math.lcm(8, tensor_size)
    return -(-vocabulary_size // multiple) * multiple


def uses_transformer_engine(device: torch.device) -> bool:
    """Whether the model is built from TransformerEngine's layers: on GPUs where it is installed."""
    return device.type == "cuda" and importlib.util.find_spec("transformer_engine") is not None


def build_config(
    architecture: Architecture, trainer: TrainerSpec, layout: Layout, device: torch.device
) -> TransformerConfig:
    """Megatron's configuration. Raises UnsupportedModelError if the model cannot be cut that way."""
    _check_cut(architecture, layout)
    dtype = torch.bfloat16 if trainer.precision == "bf16" else torch.float32
    engine = uses_transformer_engine(device)
    experts: dict[str, Any] = {}
    if architecture.experts:
        experts = {
            "num_moe_experts": architecture.experts,
            "moe_router_topk": architecture.experts_per_token,
            "moe_ffn_hidden_size": architecture.intermediate_size,
            "moe_router_pre_softmax": not architecture.normalise_expert_weights,
            "moe_token_dispatcher_type": "alltoall",
            "moe_router_load_balancing_type": "none",
            "moe_grouped_gemm": engine,
        }
    if trainer.recompute:
        experts |= {"recompute_granularity": "full", "recompute_method": "uniform", "recompute_num_layers": 1}
    return TransformerConfig(
        num_layers=architecture.layers,
        hidden_size=architecture.hidden_size,
        num_attention_heads=architecture.heads,
        num_query_groups=architecture.key_value_heads,
        kv_channels=architecture.head_size,
        ffn_hidden_size=architecture.intermediate_size,
        normalization="RMSNorm",
        layernorm_epsilon=architecture.norm_epsilon,
        gated_linear_unit=True,
        activation_func=F.silu,
        add_bias_linear=False,
        add_qkv_bias=architecture.query_key_value_bias,
        qk_layernorm=architecture.query_key_norm,
        hidden_dropout=0.0,
        attention_dropout=0.0,
        attention_softmax_in_fp32=True,
        tensor_model_parallel_size=layout.tensor_size,
        pipeline_model_parallel_size=layout.pipeline_size,
        expert_model_parallel_size=layout.expert_size,
        expert_tensor_parallel_size=1,
        # A mixture of experts under tensor parallelism trains only with the sequence split too.
        sequence_parallel=layout.tensor_size > 1 and (trainer.sequence_parallel or bool(architecture.experts)),
        params_dtype=dtype,
        pipeline_dtype=dtype,
        bf16=dtype is torch.bfloat16,
        perform_initialization=False,  # initial_weights fills every parameter
        use_cpu_initialization=device.type == "cpu",
        masked_softmax_fusion=False,
        gradient_accumulation_fusion=False,
        bias_activation_fusion=engine,
        bias_dropout_fusion=False,
        apply_rope_fusion=engine,
        persist_layer_norm=False,
        **experts,
    )


def build_model(config: TransformerConfig, architecture: Architecture, layout: Layout, device: torch.device) -> Any:
    """This rank's part of the model on `device`, weights not set."""
    model = GPTModel(
        config=config,
        transformer_layer_spec=_layer_spec(config, device),
        vocab_size=padded_vocabulary(architecture.vocabulary_size, layout.tensor_size),
        max_sequence_length=architecture.max_length,
        pre_process=layout.first_stage,
        post_process=layout.last_stage,
        share_embeddings_and_output_weights=architecture.tied_embeddings,
        position_embedding_type="rope",
        rotary_base=architecture.rope_theta,
        rope_scaling=architecture.rope_scaling_factor is not None,
        rope_scaling_factor=architecture.rope_scaling_factor or 1.0,
    ).to(device)
    return Float16Module(config, model) if config.bf16 else model


class RootMeanSquareNorm(torch.nn.RMSNorm):
    """RMSNorm that sequence parallelism may use: Megatron's own wrapper around PyTorch's refuses it."""

    def __init__(self, config: TransformerConfig, hidden_size: int, eps: float = 1e-5, **_: object) -> None:
        super().__init__(hidden_size, eps=eps, dtype=config.params_dtype)
        self.weight.sequence_parallel = config.sequence_parallel


def _layer_spec(config: TransformerConfig, device: torch.device) -> Any:
    options = {
        "num_experts": config.num_moe_experts,
        "qk_layernorm": config.qk_layernorm,
        "moe_grouped_gemm": config.moe_grouped_gemm,
    }
    if uses_transformer_engine(device):
        return get_gpt_layer_with_transformer_engine_spec(**options)
    layer = get_gpt_layer_local_spec(normalization="RMSNorm", **options)
    layer.submodules.input_layernorm = layer.submodules.pre_mlp_layernorm = RootMeanSquareNorm
    attention = layer.submodules.self_attention.submodules
    attention.core_attention = FusedAttention
    if config.qk_layernorm:
        attention.q_layernorm = attention.k_layernorm = RootMeanSquareNorm
    layers = [layer] * get_num_layers_to_build(config)
    return TransformerBlockSubmodules(layer_specs=layers, layer_norm=RootMeanSquareNorm)


def _check_cut(architecture: Architecture, layout: Layout) -> None:
    cuts = (
        ("tensorParallel", layout.tensor_size, "attention heads", architecture.heads),
        ("tensorParallel", layout.tensor_size, "key and value heads", architecture.key_value_heads),
        ("tensorParallel", layout.tensor_size, "columns of the feed-forward layer", architecture.intermediate_size),
        ("pipelineParallel", layout.pipeline_size, "layers", architecture.layers),
    )
    for field, size, what, count in cuts:
        if count % size:
            raise UnsupportedModelError(
                f"hybrid.trainer.{field} ({size}) does not divide the model's {count} {what}: lower it"
            )
    if layout.expert_size > 1 and (not architecture.experts or architecture.experts % layout.expert_size):
        raise UnsupportedModelError(
            f"hybrid.trainer.expertParallel ({layout.expert_size}) does not divide the model's {architecture.experts} "
            "experts: lower it, or leave it out for a dense model"
        )
