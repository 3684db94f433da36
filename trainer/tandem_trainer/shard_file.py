"""A file in shared memory that stays mapped, so that writing it anew costs one copy."""

import contextlib
import errno
import mmap
import os
from pathlib import Path
from typing import Self

import torch
from tandem_core.errors import OutOfSpace, is_out_of_space
from tandem_core.weights.pinned import pin_mapping

GIB = 1 << 30


class SharedMemoryFull(OutOfSpace):
    """The pod's shared memory does not hold two versions of the weights."""


class ShardFile:
    """`size_bytes` bytes, all of them backed by memory before the first one is touched."""

    def __init__(self, path: Path, size_bytes: int, mapping: mmap.mmap | None) -> None:
        self.path = path
        self.size_bytes = size_bytes
        self.bytes = torch.empty(0, dtype=torch.uint8) if mapping is None else pin_mapping(mapping, str(path))
        """The file's content as a tensor that shares its memory."""

    @classmethod
    def open(cls, path: Path, size_bytes: int) -> Self:
        """Map the file. One of the same size is reused; another is replaced, never cut short: engines may have it
        mapped.

        Raises SharedMemoryFull, which names the directory and the bytes needed and free.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            if path.stat().st_size != size_bytes:
                path.unlink()
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            if not size_bytes:
                return cls(path, 0, None)
            _allocate(descriptor, path, size_bytes)
            return cls(path, size_bytes, mmap.mmap(descriptor, size_bytes, flags=mmap.MAP_SHARED | mmap.MAP_POPULATE))
        finally:
            os.close(descriptor)

    def region(self, offset: int, size_bytes: int) -> torch.Tensor:
        """Bytes of the file; writing to the tensor writes the file."""
        return self.bytes[offset : offset + size_bytes]


def _allocate(descriptor: int, path: Path, size_bytes: int) -> None:
    """Take all memory now: a page that is missing later would end the process with SIGBUS."""
    allocated = os.fstat(descriptor).st_blocks * 512
    try:
        if size_bytes - allocated > _free_bytes(path.parent):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.posix_fallocate(descriptor, 0, size_bytes)
    except OSError as error:
        if not is_out_of_space(error):
            raise
        raise _full(path, size_bytes - allocated, _free_bytes(path.parent)) from error
    finally:
        if os.fstat(descriptor).st_size != size_bytes:
            path.unlink(missing_ok=True)


def _free_bytes(directory: Path) -> int:
    status = os.statvfs(directory)
    return status.f_bavail * status.f_frsize


def _full(path: Path, needed_bytes: int, free_bytes: int) -> SharedMemoryFull:
    return SharedMemoryFull(
        f"shared memory in {path.parent} is full: {path.name} needs {needed_bytes} bytes more "
        f"({needed_bytes / GIB:.2f} GiB), {free_bytes} are free ({free_bytes / GIB:.2f} GiB), or the process's limits "
        "forbid it. It must hold two versions of the weights: raise spec.hybrid.sharedMemory (and the pod's memory "
        "limit, which counts it)"
    )
