"""Files in shared memory, mapped for reading and kept so."""

import mmap
import os
from collections.abc import Callable
from pathlib import Path

type _Identity = tuple[int, int, int]


class MappedFiles:
    """Files of the trainer ranks and the checkpoint engine, mapped for reading.

    They are written anew in place, version after version. A mapping is kept as long as its file is, because mapping
    anew costs more than copying: a page fault for each page.
    """

    def __init__(self, prepare: Callable[[mmap.mmap, str], object] | None = None) -> None:
        """`prepare` is called with each new mapping and its path; what it returns is kept as long as the mapping."""
        self._prepare = prepare
        self._mappings: dict[Path, tuple[_Identity, mmap.mmap, object]] = {}

    def open(self, path: Path) -> mmap.mmap:
        """The mapped file; raises OSError if it is missing."""
        with path.open("rb") as file:
            identity = _identity(os.fstat(file.fileno()))
            if path not in self._mappings or self._mappings[path][0] != identity:
                mapping = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
                prepared = self._prepare(mapping, str(path)) if self._prepare is not None else None
                self._mappings[path] = (identity, mapping, prepared)
        return self._mappings[path][1]

    def drop_replaced(self) -> None:
        """Let go of files that exist no more under their name: their memory would not be freed."""
        for path, (identity, *_) in list(self._mappings.items()):
            try:
                kept = _identity(path.stat()) == identity
            except FileNotFoundError:
                kept = False
            if not kept:
                del self._mappings[path]


def _identity(status: os.stat_result) -> _Identity:
    return status.st_dev, status.st_ino, status.st_size
