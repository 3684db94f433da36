"""Which jobs are to be looked at, and when: each by one worker at a time, and soon again after a failure."""

import asyncio
import contextlib
import heapq
import math
import time
from collections.abc import Awaitable, Callable

import structlog
from tandem_core.errors import TandemError

from tandem_operator.metrics import QUEUE_LENGTH, RECONCILE_ERRORS, RECONCILE_LAG_SECONDS, RECONCILE_SECONDS
from tandem_operator.resources import JobKey

log = structlog.get_logger()

GATHER_SECONDS = 0.05
"""News of a job that come within this time are looked at together."""
REST_SECONDS = 0.2
"""Least time between two looks at a job: pods that come or go make much news one after the other."""
FIRST_RETRY_SECONDS = 0.5
LAST_RETRY_SECONDS = 30.0


class WorkQueue:
    """Calls `work` for each job that was asked for; what it returns is when it wants to be called again, in seconds."""

    def __init__(self, work: Callable[[JobKey], Awaitable[float | None]], workers: int) -> None:
        self._work = work
        self._slots = asyncio.Semaphore(workers)
        self._due: dict[JobKey, float] = {}
        """time.monotonic() at which each job is to be looked at."""
        self._heap: list[tuple[float, JobKey]] = []
        """The same in order, with entries that no longer hold."""
        self._busy: set[JobKey] = set()
        self._failures: dict[JobKey, int] = {}
        self._changed = asyncio.Event()

    def ask(self, key: JobKey, after_seconds: float = GATHER_SECONDS) -> None:
        """Look at the job after that time; sooner if that was asked for before."""
        due = time.monotonic() + after_seconds
        if self._due.get(key, math.inf) <= due:
            return
        self._due[key] = due
        self._push(key)

    async def run(self) -> None:
        """Work until cancelled."""
        async with asyncio.TaskGroup() as group:
            while True:
                await self._slots.acquire()
                key, due = await self._take()
                group.create_task(self._look_at(key, due), name=f"reconcile {key.namespace}/{key.name}")

    async def _look_at(self, key: JobKey, due: float) -> None:
        began = time.monotonic()
        try:
            again = await self._work(key)
            self._failures.pop(key, None)
        except Exception as error:
            again = self._note_failure(key, error)
        finally:
            self._slots.release()
        ended = time.monotonic()
        RECONCILE_SECONDS.observe(ended - began)
        RECONCILE_LAG_SECONDS.observe(ended - due)
        if again is not None:
            self.ask(key, again)
        await asyncio.sleep(REST_SECONDS)
        self._busy.discard(key)
        if key in self._due:
            self._push(key)  # asked for meanwhile, and passed over

    async def _take(self) -> tuple[JobKey, float]:
        """The next job that is due and that nobody is at."""
        while True:
            self._changed.clear()
            now = time.monotonic()
            while self._heap and self._heap[0][0] <= now:
                due, key = heapq.heappop(self._heap)
                if self._due.get(key) == due and key not in self._busy:
                    del self._due[key]
                    QUEUE_LENGTH.set(len(self._due))
                    self._busy.add(key)
                    return key, due
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), self._heap[0][0] - now if self._heap else None)

    def _push(self, key: JobKey) -> None:
        heapq.heappush(self._heap, (self._due[key], key))
        QUEUE_LENGTH.set(len(self._due))
        self._changed.set()

    def _note_failure(self, key: JobKey, error: Exception) -> float:
        failures = self._failures[key] = self._failures.get(key, 0) + 1
        RECONCILE_ERRORS.labels(type(error).__name__).inc()
        # A defect of ours is told with where it is; what the API server or etcd said is enough by itself.
        where = None if isinstance(error, TandemError) else error
        log.warning("reconcile failed", namespace=key.namespace, job=key.name, error=str(error), exc_info=where)
        return min(LAST_RETRY_SECONDS, FIRST_RETRY_SECONDS * 2.0 ** min(failures - 1, 10))
