"""How vLLM's matrices are packed for CPUs whenever they are loaded: in threads, and none of them forgotten.

Left alone, vLLM 0.32 packs one matrix after the other between the copies, packs an embedding although nothing
multiplies with it, and forgets the experts and the tied output layer when it reloads, so that the served model is
silently a mixture of two versions. Nothing here acts on other devices, where vLLM packs nothing.
"""

import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
from vllm.model_executor.layers.fused_moe.experts.cpu_moe import CPUUnquantizedExperts
from vllm.model_executor.layers.fused_moe.unquantized_fused_moe_method import UnquantizedFusedMoEMethod
from vllm.model_executor.layers.linear import UnquantizedLinearMethod
from vllm.model_executor.layers.utils import dispatch_cpu_unquantized_gemm
from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead, UnquantizedEmbeddingMethod
from vllm.model_executor.model_loader.reload.layerwise import get_layerwise_info

ROW_PADDING_BYTES = 64
"""Rows that lie a power of two apart share few cache lines: oneDNN then packs up to four times as slowly."""
_PROCESS = "process_weights_after_loading"


class PackingThreads:
    """Packs matrices while the next ones are copied."""

    def __init__(self, workers_per_pod: int) -> None:
        threads = max(1, len(os.sched_getaffinity(0)) // workers_per_pod)
        # Matrices are packed side by side, each by one thread. (vLLM disables torch.set_num_threads.)
        self._pool = ThreadPoolExecutor(threads, "pack", initializer=torch._C.set_num_threads, initargs=(1,))
        self._unfinished: deque[Future[None]] = deque()
        self._most_unfinished = 2 * threads

    def prepare(self, model: torch.nn.Module) -> None:
        """Have the model's layers packed here when they are loaded; call before each reload."""
        for layer in model.modules():
            method = getattr(layer, "quant_method", None)
            if method is None or _PROCESS in vars(method):
                continue
            if type(method) is UnquantizedFusedMoEMethod and method.moe_kernel is not None:
                experts = method.moe_kernel.fused_experts
                if isinstance(experts, CPUUnquantizedExperts):
                    setattr(method, _PROCESS, partial(_process_and_pack_experts, method, experts))
            elif type(method) is UnquantizedLinearMethod and layer.weight.numel() == 0:  # it is packed, and not kept
                setattr(method, _PROCESS, partial(self._take_weight, (layer,)))
                _pad_rows(layer)
            elif type(method) is UnquantizedEmbeddingMethod and vars(layer).pop("cpu_linear", None) is not None:
                setattr(method, _PROCESS, partial(self._submit, tuple(_output_layers(model, layer))))
                _pad_rows(layer)

    def finish(self) -> None:
        """Return when all is packed; raises what went wrong."""
        while self._unfinished:
            self._unfinished.popleft().result()

    def _take_weight(self, users: tuple[torch.nn.Module, ...], layer: torch.nn.Module) -> None:
        self._submit(users, layer)
        layer.weight = torch.nn.Parameter(layer.weight.new_empty(0), requires_grad=False)

    def _submit(self, users: tuple[torch.nn.Module, ...], layer: torch.nn.Module) -> None:
        """Pack the layer's weight for its users; waits while many others are unfinished: all hold their copies."""
        if len(self._unfinished) == self._most_unfinished:
            self._unfinished.popleft().result()
        if users:
            self._unfinished.append(self._pool.submit(_pack, layer.weight, users))


def _pack(weight: torch.Tensor, users: tuple[torch.nn.Module, ...]) -> None:
    packed: Any = SimpleNamespace(weight=weight, bias=getattr(users[0], "bias", None))
    dispatch_cpu_unquantized_gemm(packed, remove_weight=False)
    for layer in users:
        layer.cpu_linear = packed.cpu_linear


def _process_and_pack_experts(
    method: UnquantizedFusedMoEMethod, experts: CPUUnquantizedExperts, layer: torch.nn.Module
) -> None:
    """What UnquantizedFusedMoEMethod._setup_kernel does only when it makes the kernel."""
    type(method).process_weights_after_loading(method, layer)
    experts.process_weights_after_loading(layer)


def _output_layers(model: torch.nn.Module, embedding: torch.nn.Module) -> Iterator[torch.nn.Module]:
    """The layers that multiply with the embedding's weight: itself, if it is an output layer, or those tied to it."""
    for layer in model.modules():
        if isinstance(layer, ParallelLMHead) and layer.weight is embedding.weight:
            yield layer


def _pad_rows(layer: torch.nn.Module) -> None:
    """Let the reload put the weight into memory whose rows are padded."""
    parameters, _ = get_layerwise_info(layer).restore_metadata
    weight = parameters["weight"]
    rows, columns = weight.shape
    stride = (columns + ROW_PADDING_BYTES // weight.element_size(), 1)
    padded = torch.empty_strided((rows, columns), stride, dtype=weight.dtype, device="meta")
    padded.__class__, padded.__dict__ = weight.__class__, weight.__dict__
    parameters["weight"] = padded
