"""Processes, as /proc shows them."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

PROC = Path("/proc")


def descend(process: int) -> Iterator[int]:
    """The process, and all below it that can be seen at the moment."""
    known = [process]
    for each in known:
        yield each
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has ended
            for thread in (PROC / str(each) / "task").iterdir():
                known += map(int, (thread / "children").read_text().split())
