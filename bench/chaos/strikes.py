"""Carries out faults."""

import asyncio
import contextlib
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import psutil
from tandem_core.errors import TandemError

from bench.chaos.faults import Blow, Fault

_AWAY_SECONDS = 30.0
_FULL_SECONDS = (10.0, 20.0)
"""Before and after the part is killed."""


class NothingToStrike(TandemError):
    """What is to be struck is not there."""


@dataclass(frozen=True)
class Disks:
    """Where a job keeps what can fill up or be damaged."""

    memory: Path
    checkpoints: Path

    @classmethod
    def of(cls, runner: psutil.Process, checkpoints: Path) -> "Disks":
        """As the runner sees them: a confined job has mounts of its own."""
        root = Path(f"/proc/{runner.pid}/root")
        return cls(root / "dev/shm", root / checkpoints.relative_to("/"))


async def carry_out(fault: Fault, victim: psutil.Process, disks: Disks) -> None:
    """Returns when it has happened, and has been undone where that belongs to it."""
    match fault.blow:
        case Blow.KILL:
            victim.kill()
        case Blow.STOP:
            victim.suspend()
        case Blow.AWAY:
            victim.suspend()
            await asyncio.sleep(_AWAY_SECONDS)
            victim.resume()
        case Blow.CORRUPT:
            damage_newest(disks.checkpoints)
            victim.kill()
        case Blow.FILL_MEMORY | Blow.FILL_DISK:
            filler = fill(disks.memory if fault.blow is Blow.FILL_MEMORY else disks.checkpoints)
            await asyncio.sleep(_FULL_SECONDS[0])
            with contextlib.suppress(psutil.NoSuchProcess):  # a rank alone that cannot save begins anew by itself
                victim.kill()
            await asyncio.sleep(_FULL_SECONDS[1])
            filler.unlink()


def fill(directory: Path) -> Path:
    """Takes all the room of the disk that `directory` is on; returns the file that does."""
    filler = directory / "filler"
    with filler.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, shutil.disk_usage(directory).free)
    return filler


def damage_newest(checkpoints: Path) -> None:
    """Change bytes in the middle of the newest complete checkpoint's largest file."""
    newest = max((marker.parent for marker in checkpoints.rglob("complete.json")), default=None)
    if newest is None:
        raise NothingToStrike(f"there is no complete checkpoint in {checkpoints}")
    largest = max(newest.iterdir(), key=lambda path: path.stat().st_size)
    with largest.open("r+b") as file:
        file.seek(largest.stat().st_size // 2)
        there = file.read(64)
        file.seek(-len(there), os.SEEK_CUR)
        file.write(bytes(byte ^ 0xFF for byte in there))
