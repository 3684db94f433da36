"""Memory of the CPU that a GPU copies from and to by itself, several times as fast as other memory. Needs PyTorch."""

import mmap
import warnings
import weakref
from contextlib import suppress

import structlog
import torch

log = structlog.get_logger()

_READ_ONLY = 8
"""cudaHostRegisterReadOnly."""


def pin_mapping(mapping: mmap.mmap, what: str) -> torch.Tensor:
    """The bytes of a mapping, as a tensor that shares its memory and keeps it pinned while the tensor itself lives.

    Without CUDA there is nothing to pin. If CUDA refuses, that is logged, naming `what`: copies then take detours.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given buffer is not writable")
        content = torch.frombuffer(mapping, dtype=torch.uint8)
    if torch.cuda.is_initialized():
        with memoryview(mapping) as view:
            flags = _READ_ONLY if view.readonly else 0
        cuda, address = torch.cuda.cudart(), content.data_ptr()
        error = cuda.cudaHostRegister(address, content.nbytes, flags)
        if int(error) == 0:
            weakref.finalize(content, cuda.cudaHostUnregister, address).atexit = False
        else:
            log.warning("CUDA does not pin memory: copies will be slower", what=what, error=int(error))
            with suppress(RuntimeError):  # CUDA tells the next caller of the error
                torch.zeros(1, device="cuda")
    return content
