"""Ending what a run left behind: processes, shared memory, temporary files."""

import contextlib
import os
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tandem_local.container_init import descendants, held_segments, read_parents
from tandem_local.container_process import CONTAINER_VARIABLE, RUN_VARIABLE
from tandem_local.places import Places
from tandem_local.process_table import (
    observe_identity,
    observe_output_file,
    observe_processes,
    observe_variable,
)

_END_SECONDS = 10.0
_LOOK_AGAIN_SECONDS = 0.05


@dataclass(frozen=True)
class Swept:
    """What was cleaned up."""

    processes: int
    files: int


def sweep_run(places: Places) -> Swept:
    """End all processes of the run and remove its directories in shared places; what is not there is fine."""
    logs = places.directory / "logs"

    def belongs(pid: int) -> bool:
        if observe_variable(pid, RUN_VARIABLE) == places.run_id:
            return True
        # Programs that change their title overwrite their environment; their output still goes to the run's logs.
        output = observe_output_file(pid)
        return output is not None and output.is_relative_to(logs)

    swept = _end_processes(belongs)
    return Swept(swept.processes, swept.files + _remove_directories(places))


def sweep_container(places: Places, pod: str, container: str) -> Swept:
    """End what is left of one container whose process 1 was killed."""
    log_file, name = places.log_file(pod, container), f"{pod}/{container}"

    def belongs(pid: int) -> bool:
        if observe_variable(pid, RUN_VARIABLE) == places.run_id:
            return observe_variable(pid, CONTAINER_VARIABLE) == name
        return observe_output_file(pid) == log_file

    return _end_processes(belongs)


def _end_processes(belongs: Callable[[int], bool]) -> Swept:
    """Kill them and their descendants, again and again until none is left; remove the shared memory they held."""
    deadline = time.monotonic() + _END_SECONDS
    ended: set[int] = set()
    segments: set[str] = set()
    while time.monotonic() < deadline:
        found = {pid for pid in observe_processes() if pid != os.getpid() and belongs(pid)}
        parents = read_parents()
        found |= {child for pid in found for child in descendants(pid, parents)}
        alive = {pid for pid in found - {os.getpid()} if observe_identity(pid) is not None}
        if not alive:
            break
        for pid in alive:
            segments |= held_segments(pid)
        for pid in alive:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        ended |= alive
        time.sleep(_LOOK_AGAIN_SECONDS)
    return Swept(len(ended), _remove_files(segments))


def _remove_files(paths: set[str]) -> int:
    """Segments and semaphores that killed processes could not remove themselves."""
    removed = 0
    for path in paths:
        with contextlib.suppress(OSError):
            Path(path).unlink()
            removed += 1
    return removed


def _remove_directories(places: Places) -> int:
    removed = 0
    for path in (places.memory, places.temporary, places.volumes / "pods"):
        if path.exists():
            shutil.rmtree(path, ignore_errors=True)
            removed += 1
    return removed
