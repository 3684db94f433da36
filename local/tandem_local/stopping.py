"""Ending a run from outside, whatever state it is in."""

import contextlib
import os
import signal
import time
from collections.abc import Callable

from tandem_core.errors import TandemError

from tandem_local.prepare import observe_places
from tandem_local.process_table import is_alive
from tandem_local.run_directory import RunDirectory
from tandem_local.run_state import RunState, RunStatus
from tandem_local.sweep import Swept, sweep_run

_GRACE_SECONDS = 180.0  # longer than the longest grace of a job's pods
_KILL_SECONDS = 10.0
_POLL_SECONDS = 0.05


def stop_run(directory: RunDirectory, *, now: bool = False) -> Swept:
    """Ask the run's runner to end it (`now`: without grace), or end what is left if there is no runner any more.

    Returns what was left to clean up. Raises TandemError if there is no such run.
    """
    state = directory.read_state()
    if state is None:
        raise TandemError(f"{directory.path} holds no run")
    if is_alive(state.runner) and state.runner is not None:
        _signal(state.runner.pid, signal.SIGTERM)
        if now:
            _signal(state.runner.pid, signal.SIGINT)
        if not _wait(lambda: not is_alive(state.runner), _GRACE_SECONDS):
            _signal(state.runner.pid, signal.SIGKILL)
            _wait(lambda: not is_alive(state.runner), _KILL_SECONDS)
    swept = sweep_run(observe_places(directory, state))
    _mark_stopped(directory, state)
    return swept


def _mark_stopped(directory: RunDirectory, former: RunState) -> None:
    state = directory.read_state() or former
    if not state.status.final:
        changes = {"status": RunStatus.STOPPED, "reason": "its runner is gone", "ended_at": time.time()}
        directory.write_state(state.model_copy(update=changes))


def _signal(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def _wait(condition: Callable[[], bool], timeout_seconds: float) -> bool:
    deadline = time.monotonic() + timeout_seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL_SECONDS)
    return True
