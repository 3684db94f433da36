"""Giving a GPU's memory to the engine between training phases."""

import mmap
from collections.abc import Iterator
from typing import Any

import torch
from tandem_core.weights.pinned import pin_mapping

from tandem_trainer.optimizer import distributed_optimizers


class Offload:
    """Moves weights and optimiser state to the CPU and back, and lets go of gradients; does nothing on a CPU.

    Storages are emptied and filled again, so that all views of them stay what they are. Megatron's own way for the
    optimiser gives it other tensors: in fp32, where its parameters are views of the model's, it would train copies that
    the model never sees. It also copies through memory that is not pinned.
    """

    def __init__(self, model: Any, optimizer: Any) -> None:
        self._model = model
        self._optimizer = optimizer
        self._on_gpu = next(model.parameters()).is_cuda
        self._moved: list[tuple[torch.UntypedStorage, torch.Tensor]] = []
        self._host = torch.empty(0, dtype=torch.uint8)

    def offload(self) -> None:
        """Give the memory up; nothing to do if it is given up already."""
        if self._moved or not self._on_gpu:
            return
        self._model.offload_grad_buffers()
        storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage() for tensor in self._tensors()}
        self._take_host_memory(sum(storage.nbytes() for storage in storages.values()))
        end = 0
        for storage in storages.values():
            begin, end = end, end + storage.nbytes()
            self._moved.append((storage, self._host[begin:end]))
        for storage, host in self._moved:
            host.copy_(_bytes_of(storage), non_blocking=True)
        torch.cuda.synchronize()
        for storage, _ in self._moved:
            storage.resize_(0)
        torch.cuda.empty_cache()

    def load_back(self) -> None:
        """Take the memory back; nothing to do if it was not given up."""
        if not self._moved:
            return
        for storage, host in self._moved:
            storage.resize_(host.numel())
            _bytes_of(storage).copy_(host, non_blocking=True)
        self._moved.clear()
        self._model.restore_grad_buffers()  # waits for the copies too

    def _tensors(self) -> Iterator[torch.Tensor]:
        """What is to be kept; several may share a storage."""
        for buffer in (*self._model.buffers, *self._model.expert_parallel_buffers):
            yield buffer.param_data
        device = next(self._model.parameters()).device
        for part in distributed_optimizers(self._optimizer):
            for group in part.optimizer.param_groups:
                yield from group["params"]
            for state in part.optimizer.state.values():
                # Counts of steps are on the CPU always.
                yield from (value for value in state.values() if torch.is_tensor(value) and value.device == device)

    def _take_host_memory(self, size_bytes: int) -> None:
        """Kept from one time to the next: to take it costs much more than to copy."""
        if self._host.numel() != size_bytes:
            self._host = pin_mapping(mmap.mmap(-1, size_bytes), "what training keeps while the engine has the GPU")


def _bytes_of(storage: torch.UntypedStorage) -> torch.Tensor:
    return torch.empty(0, dtype=torch.uint8, device=storage.device).set_(storage)
