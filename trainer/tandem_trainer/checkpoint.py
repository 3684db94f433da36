"""Training state on shared disk, in Megatron's distributed format: loads at any layout.

A checkpoint is a directory; it counts only once its complete.json is there, which lists every file with size and
checksum. Files are written by a thread of each rank while training goes on.
"""

import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import structlog
import torch
import torch.distributed as dist
import xxhash
from megatron.core import dist_checkpointing
from megatron.core.dist_checkpointing.strategies import filesystem_async
from pydantic import BaseModel, ConfigDict, ValidationError
from tandem_core.errors import TandemError
from torch.distributed.checkpoint.api import CheckpointException

from tandem_trainer.optimizer import describe_state, load_state

_log = structlog.get_logger(__name__)
_MARKER = "complete.json"


class CheckpointNotWritten(TandemError):
    """The disk did not take a checkpoint."""


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
    files: dict[str, tuple[int, str]]
    """Name of each file: size in bytes and xxh3_64."""


@dataclass
class _Saving:
    directory: Path
    progress: Progress
    finalize: list[Callable[[], None]]
    files: Future[dict[str, tuple[int, str]]]


@dataclass
class Checkpoints:
    """Saves and loads the state of a model and its optimiser. All methods are collective."""

    directory: Path
    keep: int
    architecture: dict[str, Any]
    model: Any
    """GPTModel, unwrapped."""
    optimizer: Any
    _saving: _Saving | None = None
    _writer: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, "checkpoint"))

    def save(self, progress: Progress) -> None:
        """Copy the state and start writing it; finishes an earlier save first. A complete checkpoint of the same
        progress is left as it is: training is deterministic. Raises CheckpointNotWritten."""
        self.finish()
        with _explained(self.directory):
            self._begin(progress)

    def _begin(self, progress: Progress) -> None:
        directory = self.directory / progress.directory
        if _on_first_rank(lambda: (directory / _MARKER).exists()):
            return
        _on_first_rank(lambda: _make_empty(directory))
        # The writer puts its result into this queue. Megatron's own would be a process, started for this.
        filesystem_async._results_queue = SimpleQueue()
        request = dist_checkpointing.save(
            self._state(loading=False), str(directory), async_sharded_save=True, async_strategy="mcore"
        )
        arguments = list(request.async_fn_args)
        if request.preload_fn is not None:
            arguments[1] = _own_copies(request.preload_fn())
        prefix = f"__{dist.get_rank()}_"

        def write() -> dict[str, tuple[int, str]]:
            if request.async_fn is not None:
                request.async_fn(*arguments, **request.async_fn_kwargs)
            return {path.name: _fingerprint(path) for path in directory.glob(prefix + "*")}

        self._saving = _Saving(directory, progress, request.finalize_fns, self._writer.submit(write))

    def finish_if_written(self) -> None:
        """Complete the save in progress if all ranks have written their files; never waits for a disk."""
        if self._saving is not None and _all_ranks(self._saving.files.done()):
            self.finish()

    def finish(self) -> None:
        """Wait for the save in progress and complete it; raises CheckpointNotWritten."""
        saving, self._saving = self._saving, None
        if saving is None:
            return
        with _explained(self.directory):
            self._finish(saving)

    def _finish(self, saving: _Saving) -> None:
        own = saving.files.result()
        for finalize in saving.finalize:
            finalize()
        parts: list[dict[str, tuple[int, str]]] = [{}] * dist.get_world_size()
        dist.all_gather_object(parts, own)
        _on_first_rank(lambda: self._complete(saving, {name: value for part in parts for name, value in part.items()}))

    def load_newest(self) -> Progress | None:
        """Load the newest complete checkpoint whose files are as they were written; None if there is none.

        Raises TandemError if it is of another model.
        """
        for directory in _on_first_rank(self._complete_directories):
            checkpoint = _on_first_rank(partial(_read_marker, directory))
            if checkpoint is None or not _all_ranks(_intact(directory, checkpoint)):
                _log.warning("checkpoint is damaged, trying the one before", directory=str(directory))
                _on_first_rank(partial((directory / _MARKER).unlink, missing_ok=True))
                continue
            if checkpoint.architecture != self.architecture:
                raise TandemError(
                    f"{directory} holds another model than the job's: found {checkpoint.architecture}, expected "
                    f"{self.architecture}. Use an empty checkpoint directory"
                )
            state = dist_checkpointing.load(self._state(loading=True), str(directory))
            self.model.load_state_dict(state["model"])
            load_state(self.optimizer, state["optimizer"])
            _log.info("loaded checkpoint", directory=str(directory), trained=checkpoint.progress.trained)
            return checkpoint.progress
        return None

    def close(self) -> None:
        """Complete the save in progress and end the writer."""
        self.finish()
        self._writer.shutdown()

    def _state(self, *, loading: bool) -> dict[str, Any]:
        model = self.model.sharded_state_dict()
        return {"model": model, "optimizer": describe_state(self.optimizer, model, loading=loading)}

    def _complete(self, saving: _Saving, files: dict[str, tuple[int, str]]) -> None:
        for path in saving.directory.iterdir():
            if path.name not in files:  # Megatron's own metadata, written last by the first rank
                files[path.name] = _fingerprint(path)
        checkpoint = CompleteCheckpoint(progress=saving.progress, architecture=self.architecture, files=files)
        temporary = saving.directory / (_MARKER + ".tmp")
        temporary.write_text(checkpoint.model_dump_json())
        temporary.replace(saving.directory / _MARKER)
        for old in self._complete_directories()[self.keep :]:
            shutil.rmtree(old)
        for other in self.directory.iterdir():
            if other.is_dir() and other.name < saving.directory.name and not (other / _MARKER).exists():
                shutil.rmtree(other)  # half-written by a run that was ended

    def _complete_directories(self) -> list[Path]:
        """Newest first."""
        return sorted((path.parent for path in self.directory.glob(f"*/{_MARKER}")), reverse=True)


@contextmanager
def _explained(directory: Path) -> Iterator[None]:
    """Turns errors of the disk into one that says what to do."""
    try:
        yield
    except (OSError, CheckpointException) as error:
        failures = [pair[0] for pair in error.failures.values()] if isinstance(error, CheckpointException) else [error]
        told = "; ".join(sorted({str(failure) for failure in failures}))
        existing = next(path for path in (directory, *directory.parents) if path.exists())
        raise CheckpointNotWritten(
            f"a checkpoint in {directory} cannot be written ({told}); {shutil.disk_usage(existing).free} bytes "
            "are free there. Make room, then resume the job: it goes on from the checkpoint before and loses nothing"
        ) from error


def _make_empty(directory: Path) -> None:
    if directory.exists():
        shutil.rmtree(directory)
    directory.mkdir(parents=True)


def _own_copies(buckets: list[Any]) -> list[Any]:
    """On a CPU Megatron hands out the very tensors that training will change."""
    if torch.cuda.is_available():
        return buckets
    return [
        (path, key, (data, [(item, tensor.clone()) for item, tensor in tensors]))
        for path, key, (data, tensors) in buckets
    ]


def _read_marker(directory: Path) -> CompleteCheckpoint | None:
    try:
        return CompleteCheckpoint.model_validate_json((directory / _MARKER).read_text())
    except (OSError, ValidationError):
        return None


def _intact(directory: Path, checkpoint: CompleteCheckpoint) -> bool:
    """Whether this rank's share of the files is as it was written."""
    mine = sorted(checkpoint.files)[dist.get_rank() :: dist.get_world_size()]
    return all(
        (directory / name).is_file() and _fingerprint(directory / name) == checkpoint.files[name] for name in mine
    )


def _fingerprint(path: Path) -> tuple[int, str]:
    digest, size = xxhash.xxh3_64(), 0
    with path.open("rb") as file:
        while block := file.read(1 << 24):
            digest.update(block)
            size += len(block)
    return size, digest.hexdigest()


def _all_ranks(value: bool) -> bool:
    """Whether it is true on every rank."""
    if dist.get_world_size() == 1:
        return value
    votes: list[bool] = [False] * dist.get_world_size()
    dist.all_gather_object(votes, value)
    return all(votes)


def _on_first_rank[T](action: Callable[[], T]) -> T:
    """Runs `action` on rank 0 and gives its result to all."""
    if dist.get_world_size() == 1:
        return action()
    result: list[Any] = [None]
    if dist.get_rank() == 0:
        try:
            result = [action()]
        except OSError as error:
            result = [error]  # the others wait for an answer
    dist.broadcast_object_list(result, src=0)
    if isinstance(result[0], OSError):
        raise result[0]
    return result[0]
