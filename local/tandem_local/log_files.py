"""Containers' logs: bounded in size, and read from their end."""

import asyncio
import shutil
from pathlib import Path

LARGEST_LOG_BYTES = 64 * 2**20
_CHECK_SECONDS = 10.0
_BLOCK_BYTES = 64 * 1024


async def keep_logs_bounded(directory: Path) -> None:
    """Check all logs below `directory` from time to time, until cancelled."""
    while True:
        await asyncio.sleep(_CHECK_SECONDS)
        await asyncio.to_thread(bound_logs, directory, LARGEST_LOG_BYTES)


def bound_logs(directory: Path, largest_bytes: int) -> None:
    """Move the content of logs that are too long to <name>.log.1, whose former content goes.

    The file itself stays: its writers have it open, at its end. What they write in between is lost.
    """
    for path in directory.glob("*/*.log"):
        if path.stat().st_size > largest_bytes:
            shutil.copyfile(path, path.with_name(path.name + ".1"))
            with path.open("r+b") as file:
                file.truncate(0)


def read_tail(path: Path, lines: int) -> list[str]:
    """The last `lines` lines; empty if there is no file."""
    if not path.is_file() or lines < 1:
        return []
    with path.open("rb") as file:
        position = file.seek(0, 2)
        content = b""
        while position > 0 and content.count(b"\n") <= lines:
            step = min(_BLOCK_BYTES, position)
            position -= step
            file.seek(position)
            content = file.read(step) + content
    return content.decode(errors="replace").splitlines()[-lines:]


class LogFollower:
    """Reads the lines that are appended to a log from now on."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._position = path.stat().st_size if path.is_file() else 0
        self._rest = b""

    def read_lines(self) -> list[str]:
        """The lines completed since the last call."""
        size = self._path.stat().st_size if self._path.is_file() else 0
        if size < self._position:  # its content was moved away
            self._position, self._rest = 0, b""
        if size == self._position:
            return []
        with self._path.open("rb") as file:
            file.seek(self._position)
            content = self._rest + file.read(size - self._position)
        self._position = size
        *lines, self._rest = content.split(b"\n")
        return [line.decode(errors="replace") for line in lines]
