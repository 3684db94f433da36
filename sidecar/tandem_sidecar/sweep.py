"""Removing what a killed engine leaves behind: temporary files and shared-memory segments."""

import contextlib
import os
import shutil
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - only read and removed from
_SEGMENT_PREFIXES = ("psm_", "sem.mp-", "vllm_dist_")
"""multiprocessing's shared memory and semaphores, and what vLLM's tensor-parallel workers on CPUs share."""


@dataclass(frozen=True)
class Segment:
    """A file in /dev/shm."""

    name: str
    inode: int
    owner: int
    created_at: float
    """Unix time in seconds."""


def plan_sweep(segments: Iterable[Segment], mapped: Collection[int], owner: int, started_at: float) -> list[str]:
    """The segments an ended engine left: of multiprocessing or vLLM, by our own user, made since the engine was
    started, and mapped by no process that lives. A killed engine cannot say which ones were its own."""
    return [
        segment.name
        for segment in segments
        if segment.name.startswith(_SEGMENT_PREFIXES)
        and segment.owner == owner
        and segment.created_at >= started_at - 1.0  # clocks of the file system are coarse
        and segment.inode not in mapped
    ]


def sweep_engine_files(scratch: Path, started_at: float) -> list[str]:
    """Empty the engine's scratch directory and remove its segments; returns the segments' names."""
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(mode=0o700, parents=True, exist_ok=True)
    swept = plan_sweep(observe_segments(), observe_mapped(), os.getuid(), started_at)
    for name in swept:
        with contextlib.suppress(FileNotFoundError):
            (SHARED_MEMORY / name).unlink()
    return swept


def observe_segments() -> list[Segment]:
    """What lies in /dev/shm now."""
    segments = []
    with contextlib.suppress(FileNotFoundError):
        for entry in os.scandir(SHARED_MEMORY):
            with contextlib.suppress(FileNotFoundError):
                status = entry.stat(follow_symlinks=False)
                segments.append(Segment(entry.name, status.st_ino, status.st_uid, status.st_ctime))
    return segments


def observe_mapped() -> set[int]:
    """Inodes of the files in /dev/shm that some process maps now: a semaphore is mapped under another name than it
    has, because sem_open renames it."""
    mapped = set()
    for maps in Path("/proc").glob("[0-9]*/maps"):
        with contextlib.suppress(OSError):  # processes end while we look, and others' are not ours to read
            for line in maps.read_text().splitlines():
                _, _, _, _, inode, *path = line.split(maxsplit=5)
                if path and path[0].startswith(f"{SHARED_MEMORY}/"):
                    mapped.add(int(inode))
    return mapped
