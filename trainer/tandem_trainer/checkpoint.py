"""Training state on shared disk, in Megatron's distributed format: loads at any layout.

A checkpoint is a directory; it counts only once its complete.json is there, which lists every file with size and
checksum. Files are written by a thread of each rank while training goes on. A save that fails is no reason to stop: its
directory is removed, and training goes on with the checkpoint before to fall back on.
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
from megatron.core import dist_checkpointing
from megatron.core.dist_checkpointing.strategies import filesystem_async
from tandem_core.errors import OutOfSpace, TandemError
from torch.distributed.checkpoint.api import CheckpointException

from tandem_trainer.agreement import all_ranks, gather, on_first_rank
from tandem_trainer.checkpoint_files import (
    MARKER,
    CompleteCheckpoint,
    Files,
    Progress,
    are_intact,
    complete,
    complete_directories,
    fingerprint,
    make_empty,
    read_marker,
    trained_iterations,
)
from tandem_trainer.optimizer import describe_state, load_state

_log = structlog.get_logger(__name__)


class CheckpointNotWritten(OutOfSpace):
    """The disk did not take a checkpoint."""


class RanksOutOfStep(RuntimeError):
    """Only the first rank failed, in the middle of a collective: all ranks have to start anew."""


@dataclass
class _Saving:
    directory: Path
    progress: Progress
    finalize: list[Callable[[], None]]
    written: Future[Files]


@dataclass
class Checkpoints:
    """Saves and loads the state of a model and its optimiser. All methods are collective; none raises because a disk
    fails: `problem` tells."""

    directory: Path
    keep: int
    architecture: dict[str, Any]
    model: Any
    """GPTModel, unwrapped."""
    optimizer: Any
    problem: str = ""
    """Why the last save failed, or which checkpoint was damaged, until a save succeeds. Empty on all ranks or none."""
    kept: tuple[int, ...] = ()
    """`trained` of the complete checkpoints, the oldest first."""
    _size_bytes: int = 0
    _saving: _Saving | None = None
    _writer: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, "checkpoint"))

    def save(self, progress: Progress) -> None:
        """Copy the state and start writing it; finishes an earlier save first. A complete checkpoint of the same
        progress is left as it is: training is deterministic."""
        self.finish()
        directory = self.directory / progress.directory
        with self._noting_failure(directory):
            self._begin(directory, progress)

    def _begin(self, directory: Path, progress: Progress) -> None:
        if on_first_rank(lambda: (directory / MARKER).exists()):
            self.problem = ""
            return
        on_first_rank(lambda: make_empty(directory, self._size_bytes))
        # The writer puts its result into this queue. Megatron's own would be a process, started for this.
        filesystem_async._results_queue = SimpleQueue()
        request = dist_checkpointing.save(
            self._state(loading=False), str(directory), async_sharded_save=True, async_strategy="mcore"
        )
        arguments = list(request.async_fn_args)
        if request.preload_fn is not None:
            arguments[1] = _own_copies(request.preload_fn())
        prefix = f"__{dist.get_rank()}_"

        def write() -> Files:
            if request.async_fn is not None:
                request.async_fn(*arguments, **request.async_fn_kwargs)
            return {path.name: fingerprint(path) for path in directory.glob(prefix + "*")}

        self._saving = _Saving(directory, progress, request.finalize_fns, self._writer.submit(write))

    def finish_if_written(self) -> None:
        """Complete the save in progress if all ranks have written their files; never waits for a disk."""
        if self._saving is not None and all_ranks(self._saving.written.done()):
            self.finish()

    def finish(self) -> None:
        """Wait for the save in progress and complete it."""
        saving, self._saving = self._saving, None
        if saving is not None:
            with self._noting_failure(saving.directory):
                self._finish(saving)

    def _finish(self, saving: _Saving) -> None:
        parts = gather(_result_or_error(saving.written))
        for part in parts:
            if isinstance(part, OSError):
                raise part
        _finalize(saving)
        files = {name: value for part in parts if isinstance(part, dict) for name, value in part.items()}
        self.kept, self._size_bytes = on_first_rank(lambda: self._complete(saving, files))
        self.problem = ""

    def load_newest(self) -> Progress | None:
        """Load the newest complete checkpoint whose files are as they were written; None if there is none.

        Raises TandemError if it is of another model.
        """
        for directory in on_first_rank(partial(complete_directories, self.directory)):
            checkpoint = on_first_rank(partial(read_marker, directory))
            if checkpoint is None or not all_ranks(are_intact(directory, _share(checkpoint.files))):
                self.problem = f"the checkpoint {directory} is damaged and not used: going on from an earlier one"
                _log.error("checkpoint is damaged", problem=self.problem)
                on_first_rank(partial((directory / MARKER).unlink, missing_ok=True))
                continue
            if checkpoint.architecture != self.architecture:
                raise TandemError(
                    f"{directory} holds another model than the job's: found {checkpoint.architecture}, expected "
                    f"{self.architecture}. Use an empty checkpoint directory"
                )
            state = dist_checkpointing.load(self._state(loading=True), str(directory))
            self.model.load_state_dict(state["model"])
            load_state(self.optimizer, state["optimizer"])
            self.kept = on_first_rank(partial(trained_iterations, self.directory))
            self._size_bytes = checkpoint.size_bytes
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

    def _complete(self, saving: _Saving, files: Files) -> tuple[tuple[int, ...], int]:
        """Returns `kept` and the size in bytes."""
        for path in saving.directory.iterdir():
            if path.name not in files:  # Megatron's own metadata, written last by the first rank
                files[path.name] = fingerprint(path)
        checkpoint = CompleteCheckpoint(progress=saving.progress, architecture=self.architecture, files=files)
        complete(saving.directory, checkpoint, self.keep)
        return trained_iterations(self.directory), checkpoint.size_bytes

    @contextmanager
    def _noting_failure(self, directory: Path) -> Iterator[None]:
        """Turns errors of the disk into `problem`, which says what to do, and removes what was written."""
        try:
            yield
        except (OSError, CheckpointException) as error:
            self.problem = _explain(error, directory)
            _log.error("no checkpoint; going on without it", problem=self.problem, kept=self.kept)
            on_first_rank(partial(shutil.rmtree, directory, ignore_errors=True))


def _explain(error: OSError | CheckpointException, directory: Path) -> str:
    # The first rank alone is told by Megatron what failed where.
    failures = [pair[0] for pair in error.failures.values()] if isinstance(error, CheckpointException) else [error]
    told = "; ".join(sorted({str(failure) for failure in failures})) or "the log of rank 0 says why"
    existing = next(path for path in (directory, *directory.parents) if path.exists())
    return (
        f"the checkpoint {directory} cannot be written ({told}); {shutil.disk_usage(existing).free} bytes are free "
        "there. Make room: it is tried again with each iteration, and until then a crash goes back to the one before"
    )


def _result_or_error(written: Future[Files]) -> Files | OSError:
    try:
        return written.result()
    except OSError as error:
        return error


def _finalize(saving: _Saving) -> None:
    """Megatron's last steps: what it finds wrong it raises on all ranks, but not that its own files cannot be written
    by the first."""
    try:
        for finalize in saving.finalize:
            finalize()
    except OSError as error:
        if dist.get_world_size() == 1:
            raise
        raise RanksOutOfStep(f"{_explain(error, saving.directory)}: all ranks start anew") from error


def _own_copies(buckets: list[Any]) -> list[Any]:
    """On a CPU Megatron hands out the very tensors that training will change."""
    if torch.cuda.is_available():
        return buckets
    return [
        (path, key, (data, [(item, tensor.clone()) for item, tensor in tensors]))
        for path, key, (data, tensors) in buckets
    ]


def _share(files: Files) -> Files:
    """This rank's part of the files, to be checked."""
    return {name: files[name] for name in sorted(files)[dist.get_rank() :: dist.get_world_size()]}
