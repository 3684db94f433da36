"""Brings files back from a container that has ended, without following what a hostile program left there."""

import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

from tandem_sandbox.job import JobFile

_MOST_FILES = 1024
_MOST_DEPTH = 16
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC  # a pipe or device must not block us


def read_outputs(work: Path, wanted: Sequence[str], most_bytes: int) -> tuple[dict[str, JobFile], tuple[str, ...]]:
    """The wanted files below `work` (** for all), and the paths that could not be had: missing, links, too large.

    No path is followed through a link, at any depth; nothing but plain files is read.
    """
    found: dict[str, JobFile] = {}
    left_out: list[str] = []
    remaining = most_bytes
    top = os.open(work, _FOLDER)
    try:
        for path in dict.fromkeys(_expand(top, wanted)):
            file = _read_file(top, path, remaining) if len(found) < _MOST_FILES else None
            if file is None:
                left_out.append(path)
                continue
            found[path] = file
            remaining -= len(file.data)
    finally:
        os.close(top)
    return found, tuple(left_out[:_MOST_FILES])


def _expand(top: int, wanted: Sequence[str]) -> Iterator[str]:
    for path in wanted:
        if path == "**":
            yield from _walk(top, "", 0)
        else:
            yield path


def _walk(folder: int, prefix: str, depth: int) -> Iterator[str]:
    """Paths of all that is no folder; at most a few more than can be brought back."""
    count = 0
    with os.scandir(folder) as entries:
        for entry in entries:
            count += 1
            if count > 2 * _MOST_FILES:
                return
            if not entry.is_dir(follow_symlinks=False):
                yield prefix + entry.name
            elif depth < _MOST_DEPTH:
                try:
                    inner = os.open(entry.name, _FOLDER, dir_fd=folder)
                except OSError:
                    continue
                try:
                    yield from _walk(inner, f"{prefix}{entry.name}/", depth + 1)
                finally:
                    os.close(inner)


def _read_file(top: int, path: str, most_bytes: int) -> JobFile | None:
    *folders, name = path.split("/")
    opened = [top]
    try:
        for folder in folders:
            opened.append(os.open(folder, _FOLDER, dir_fd=opened[-1]))
        opened.append(os.open(name, _FILE, dir_fd=opened[-1]))
        status = os.fstat(opened[-1])
        if not stat.S_ISREG(status.st_mode) or status.st_size > most_bytes or not _encodable(path):
            return None
        data = bytearray()
        while chunk := os.read(opened[-1], 1 << 20):
            data += chunk
        return JobFile(bytes(data), executable=bool(status.st_mode & stat.S_IXUSR))
    except OSError:
        return None
    finally:
        for descriptor in opened[1:]:
            os.close(descriptor)


def _encodable(path: str) -> bool:
    """Whether the name is UTF-8: others cannot be told in JSON."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True
