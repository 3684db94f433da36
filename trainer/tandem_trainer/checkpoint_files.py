"""The files of checkpoints: which are complete, and whether they are as they were written."""

import errno
import shutil
from pathlib import Path
from typing import Any

import xxhash
from pydantic import BaseModel, ConfigDict, ValidationError

MARKER = "complete.json"

type Files = dict[str, tuple[int, str]]
"""Name of each file: size in bytes and xxh3_64."""


class Progress(BaseModel):
    """How far training has come."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    trained: int = -1
    """-1: initial weights; 0: the warm-up is done; i: iteration i is."""
    warmup_step: int = 0
    """Next step of the warm-up."""
    warmup_losses: tuple[float, ...] = ()
    """Losses of the last steps of an unfinished warm-up."""

    @property
    def directory(self) -> str:
        """Name of the checkpoint's directory; alphabetical order is order of training."""
        return f"{self.trained + 1:08d}-{self.warmup_step:08d}"


class CompleteCheckpoint(BaseModel):
    """complete.json"""

    model_config = ConfigDict(extra="forbid", frozen=True)

    progress: Progress
    architecture: dict[str, Any]
    """The model that was trained; another cannot load it."""
    files: Files

    @property
    def size_bytes(self) -> int:
        """Of all files."""
        return sum(size for size, _ in self.files.values())


def complete_directories(state: Path) -> list[Path]:
    """The complete checkpoints in `state`, the newest first."""
    return sorted((path.parent for path in state.glob(f"*/{MARKER}")), reverse=True)


def trained_iterations(state: Path) -> tuple[int, ...]:
    """`Progress.trained` of the complete checkpoints in `state`, the oldest first."""
    return tuple(int(directory.name[:8]) - 1 for directory in reversed(complete_directories(state)))


def complete(directory: Path, checkpoint: CompleteCheckpoint, keep: int) -> None:
    """Make the written checkpoint count; remove those before it but `keep`, and half-written ones."""
    temporary = directory / (MARKER + ".tmp")
    temporary.write_text(checkpoint.model_dump_json())
    temporary.replace(directory / MARKER)
    old = complete_directories(directory.parent)[keep:]
    for other in directory.parent.iterdir():
        half_written = other.name < directory.name and not (other / MARKER).exists()
        if other in old or half_written:  # the latter by a run that was ended
            shutil.rmtree(other, ignore_errors=True)


def read_marker(directory: Path) -> CompleteCheckpoint | None:
    """What the checkpoint says about itself; None if it cannot be read."""
    try:
        return CompleteCheckpoint.model_validate_json((directory / MARKER).read_text())
    except (OSError, ValidationError):
        return None


def are_intact(directory: Path, files: Files) -> bool:
    """Whether the files are as they were written."""
    try:
        return all(fingerprint(directory / name) == files[name] for name in files)
    except OSError:
        return False


def fingerprint(path: Path) -> tuple[int, str]:
    """Size in bytes and xxh3_64 of a file."""
    digest, size = xxhash.xxh3_64(), 0
    with path.open("rb") as file:
        while block := file.read(1 << 24):
            digest.update(block)
            size += len(block)
    return size, digest.hexdigest()


def make_empty(directory: Path, size_bytes: int) -> None:
    """Raises OSError also if there is no room for `size_bytes`: half a checkpoint only fills the disk for others."""
    if directory.exists():
        shutil.rmtree(directory)
    directory.mkdir(parents=True)
    if shutil.disk_usage(directory).free < size_bytes:
        raise OSError(errno.ENOSPC, f"it needs {size_bytes} bytes, as the one before")
