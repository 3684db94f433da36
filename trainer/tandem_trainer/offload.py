"""Giving a GPU's memory to the engine between training phases, with Megatron's own means."""

from typing import Any

import torch

from tandem_trainer.optimizer import distributed_optimizers


class Offload:
    """Moves weights, gradients and optimiser state to the CPU and back. On a CPU there is nothing to move."""

    def __init__(self, model: Any, optimizer: Any) -> None:
        self._model = model
        self._optimizer = optimizer
        self._away = False
        self._on_gpu = next(model.parameters()).is_cuda

    def offload(self) -> None:
        """Give the memory up; nothing to do if it is given up already."""
        if self._away or not self._on_gpu:
            return
        self._model.offload_grad_buffers()
        for buffer in self._buffers():
            buffer.offload_to_cpu(move_params=True, move_grads=False)
        for part in distributed_optimizers(self._optimizer):
            part.offload_to_cpu()
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        self._away = True

    def load_back(self) -> None:
        """Take the memory back; nothing to do if it was not given up."""
        if not self._away:
            return
        for buffer in self._buffers():
            buffer.reload_from_cpu(move_params=True, move_grads=False)
        for part in distributed_optimizers(self._optimizer):
            part.restore_from_cpu()
        self._model.restore_grad_buffers()
        torch.cuda.synchronize()
        self._away = False

    def _buffers(self) -> list[Any]:
        return [*self._model.buffers, *self._model.expert_parallel_buffers]
