"""Runs inside vLLM's workers: loads verified shared-memory files through vLLM's own weight loaders.

Given to vLLM as worker extension class; importing it registers the weight-transfer backend "tandem".
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tandem_core.errors import TandemError
from tandem_core.weights.layout import LoadFile
from tandem_core.weights.pinned import pin_mapping
from vllm.distributed.weight_transfer.base import (
    WeightTransferEngine,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)
from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory
from vllm.model_executor.layers.vocab_parallel_embedding import VocabParallelEmbedding
from vllm.model_executor.model_loader.reload import finalize_layerwise_reload, initialize_layerwise_reload
from vllm.model_executor.model_loader.reload.layerwise import get_layerwise_info

from tandem_sidecar.mapped_files import MappedFiles
from tandem_sidecar.mapped_tensors import map_tensors
from tandem_sidecar.packed_weights import PackingThreads

BACKEND = "tandem"
"""Name of the backend in --weight-transfer-config."""


class WeightLoadError(TandemError):
    """The model does not take the weights as they are: the engine must be restarted, it is half loaded."""


@dataclass
class TandemInitInfo(WeightTransferInitInfo):
    """Nothing is to be agreed on beforehand."""


@dataclass
class TandemUpdateInfo(WeightTransferUpdateInfo):
    """One version."""

    path: str = ""
    """The load file that the checkpoint engine has written."""


class TandemWeightTransferEngine(WeightTransferEngine[TandemInitInfo, TandemUpdateInfo]):
    """Loads a version from files in shared memory that trainer ranks and the checkpoint engine have written.

    vLLM's layerwise reload does the placing: it cuts, fuses, converts and packs as at start-up, one layer at a time,
    and keeps the addresses of the parameters (CUDA graphs hold them). A tensor that one box covers is read where it
    is; of others, only the part is put together that the model's loader asks for.
    """

    init_info_cls = TandemInitInfo
    update_info_cls = TandemUpdateInfo
    supports_draft_weight_update = False

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._files = MappedFiles(pin_mapping)
        self._packing = PackingThreads(self.parallel_config.world_size)

    def init_transfer_engine(self, init_info: TandemInitInfo) -> None:
        """Nothing to connect to."""

    def start_weight_update(self) -> None:
        """Prepare every layer to take its weights anew."""
        self._loaded: set[str] = set()
        self._expected = {name for name, _ in self.model.named_parameters()}
        self._packing.prepare(self.model)
        initialize_layerwise_reload(self.model)

    def update_weights(self, update_info: dict[str, Any]) -> None:
        """Load one version; unlike the inherited method, works without an accelerator too."""
        self.receive_weights(self.parse_update_info(update_info))
        if self.device.type != "cpu":
            torch.accelerator.synchronize()

    def receive_weights(self, update_info: TandemUpdateInfo) -> None:
        """Give every tensor of the load file to the model's loader; raises what the loader raises."""
        path = Path(update_info.path)
        load_file = LoadFile.model_validate_json(path.read_bytes())
        self._loaded |= set(self.model.load_weights(map_tensors(load_file, path.parent, self._files)) or ())

    def finish_weight_update(self) -> None:
        """Finish the layers that wait for it; raises WeightLoadError if parameters were left without new weights."""
        incomplete = [*sorted(self._expected - self._loaded), *_partly_loaded_layers(self.model)]
        # A quantised engine has scales that no checkpoint of the trainer's holds, and makes them itself.
        if incomplete and self.model_config.quantization is None:
            raise WeightLoadError(
                f"the version has no weights, or not all, for {', '.join(incomplete[:8])}"
                f"{f' and {len(incomplete) - 8} more' if len(incomplete) > 8 else ''}: trainer and engine do not have "
                "the same model; restart the engine"
            )
        finalize_layerwise_reload(self.model, self.model_config)
        self._packing.finish()
        self._files.drop_replaced()

    def shutdown(self) -> None:
        """Let go of the files."""
        self._files = MappedFiles()


class TandemWorkerExtension:
    """Mixed into vLLM's worker class, and adds nothing to it: naming it makes each worker import this module, which
    registers the engine."""


def _partly_loaded_layers(model: torch.nn.Module) -> list[str]:
    """Layers that got some of their elements, but not all: vLLM would fill them up with uninitialised memory."""
    partly = []
    for name, layer in model.named_modules():
        info = get_layerwise_info(layer)
        # Embeddings are padded: the loader itself fills what no checkpoint holds with zeros.
        if (
            info.load_numel_total is not None
            and 0 < info.load_numel < info.load_numel_total
            and not isinstance(layer, VocabParallelEmbedding)
        ):
            partly.append(f"{name} ({info.load_numel} of {info.load_numel_total} elements)")
    return partly


if BACKEND not in WeightTransferEngineFactory._registry:
    WeightTransferEngineFactory.register_engine(BACKEND, TandemWeightTransferEngine)
