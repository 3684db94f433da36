"""What vLLM packs for CPUs at start-up and its layerwise reload forgets: without this, updates are silently wrong.

Seen with vLLM 0.32; nothing here acts on other devices, where vLLM packs neither.
"""

from typing import Any

import torch
from vllm.model_executor.layers.fused_moe.experts.cpu_moe import CPUUnquantizedExperts
from vllm.model_executor.layers.fused_moe.unquantized_fused_moe_method import UnquantizedFusedMoEMethod
from vllm.model_executor.layers.utils import dispatch_cpu_unquantized_gemm
from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead, VocabParallelEmbedding


def repack_tied_output_layers(model: torch.nn.Module) -> None:
    """Renew the packed copy of the embedding that a tied output layer multiplies with; call after the reload.

    The reload packs only layers that were loaded themselves: a tied output layer was not, and would go on with the
    previous version.
    """
    embeddings = {
        id(layer.weight)
        for layer in model.modules()
        if isinstance(layer, VocabParallelEmbedding) and not isinstance(layer, ParallelLMHead)
    }
    for layer in model.modules():
        if isinstance(layer, ParallelLMHead) and hasattr(layer, "cpu_linear") and id(layer.weight) in embeddings:
            dispatch_cpu_unquantized_gemm(layer, remove_weight=False)


def pack_experts_on_every_load(model: torch.nn.Module) -> None:
    """Make mixture-of-experts layers pack their weights whenever they are loaded; call before the reload.

    UnquantizedFusedMoEMethod._setup_kernel packs them when it makes the kernel, and never again: after a reload the
    kernel would take unpacked weights for packed ones.
    """
    for layer in model.modules():
        method = getattr(layer, "quant_method", None)
        if isinstance(method, UnquantizedFusedMoEMethod) and method.moe_kernel is not None:
            experts = method.moe_kernel.fused_experts
            if isinstance(experts, CPUUnquantizedExperts) and not isinstance(vars(method).get(_PROCESS), _LoadAndPack):
                setattr(method, _PROCESS, _LoadAndPack(getattr(method, _PROCESS), experts))


_PROCESS = "process_weights_after_loading"


class _LoadAndPack:
    """Stands for a method's process_weights_after_loading."""

    def __init__(self, process: Any, experts: CPUUnquantizedExperts) -> None:
        self._process = process
        self._experts = experts

    def __call__(self, layer: torch.nn.Module) -> None:
        self._process(layer)
        self._experts.process_weights_after_loading(layer)
