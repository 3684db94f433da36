"""Runs inside the bare loop's vLLM (--worker-extension-cls): loads the weights of one safetensors file."""

from dataclasses import dataclass
from typing import Any

from safetensors.torch import load_file
from vllm.distributed.weight_transfer.base import (
    WeightTransferEngine,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)
from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory
from vllm.model_executor.layers.utils import dispatch_cpu_unquantized_gemm
from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead
from vllm.model_executor.model_loader.reload import finalize_layerwise_reload, initialize_layerwise_reload

BACKEND = "bare"


@dataclass
class BareInit(WeightTransferInitInfo):
    """Nothing to agree on."""


@dataclass
class BareUpdate(WeightTransferUpdateInfo):
    """One version."""

    path: str = ""
    """The safetensors file."""


class BareWeightTransferEngine(WeightTransferEngine[BareInit, BareUpdate]):
    """vLLM's own layerwise reload, no more."""

    init_info_cls = BareInit
    update_info_cls = BareUpdate

    def init_transfer_engine(self, init_info: BareInit) -> None:
        """Nothing to connect to."""

    def start_weight_update(self) -> None:
        """Prepare every layer."""
        initialize_layerwise_reload(self.model)

    def update_weights(self, update_info: dict[str, Any]) -> None:
        """Load the file; the inherited method wants an accelerator."""
        self.receive_weights(self.parse_update_info(update_info))

    def receive_weights(self, update_info: BareUpdate) -> None:
        """Load the file."""
        self.model.load_weights(load_file(update_info.path).items())

    def finish_weight_update(self) -> None:
        """Finish, and pack the tied output layer again."""
        finalize_layerwise_reload(self.model, self.model_config)
        for layer in self.model.modules():
            if isinstance(layer, ParallelLMHead) and hasattr(layer, "cpu_linear"):
                dispatch_cpu_unquantized_gemm(layer, remove_weight=False)

    def shutdown(self) -> None:
        """Nothing to let go of."""


class BareWorkerExtension:
    """Naming it makes the worker import this module."""


if BACKEND not in WeightTransferEngineFactory._registry:
    WeightTransferEngineFactory.register_engine(BACKEND, BareWeightTransferEngine)
