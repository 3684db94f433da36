"""Waits for the end of a run, whichever way it ends."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass

from tandem_local.job_follower import JobFollower
from tandem_local.run_state import RunStatus
from tandem_local.workload_supervisor import WorkloadFailed

_FAILED_PODS_SECONDS = 30.0
"""How long pods may take to notice that the job has failed, and to end by themselves."""


@dataclass(frozen=True)
class RunEnd:
    """What can end a run beside its Jobs."""

    follower: JobFollower
    stop: asyncio.Event
    """Set when the user wants the end."""
    model_seconds: float
    """How long pods may go on after the job is done: to write the trained model."""

    async def wait(self, jobs: Sequence["asyncio.Task[None]"]) -> tuple[RunStatus, str]:
        """The status and its reason: all Jobs complete, one failed, the job said that it ended, or `stop` was set."""
        stopped = asyncio.create_task(self.stop.wait())
        finished = asyncio.create_task(self.follower.finished.wait())
        deadline: float | None = None
        waits: set[asyncio.Task[object]] = {stopped, finished, *jobs}
        try:
            while True:
                timeout = None if deadline is None else max(0.0, deadline - time.monotonic())
                done, waits = await asyncio.wait(waits, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
                if stopped in done:
                    return RunStatus.STOPPED, ""
                for task in jobs:
                    if task.done() and (failure := _failure(task)) is not None:
                        return RunStatus.FAILED, failure
                if all(task.done() for task in jobs):
                    return RunStatus.SUCCEEDED, ""
                if finished in done:
                    deadline = time.monotonic() + (_FAILED_PODS_SECONDS if self.follower.failed else self.model_seconds)
                if not done:
                    late = ", ".join(task.get_name() for task in jobs if not task.done())
                    return RunStatus.FAILED, f"the job has ended, but {late} did not"
        finally:
            stopped.cancel()
            finished.cancel()


def _failure(task: "asyncio.Task[None]") -> str | None:
    """Why the Job failed; None: it did not. Other exceptions are errors of this program and are raised."""
    try:
        task.result()
    except WorkloadFailed as error:
        return str(error)
    return None
