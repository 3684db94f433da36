"""Gives jobs to lanes: so many run at a time, a few more containers wait ready, and the rest queues in order."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Self

import structlog

from tandem_sandbox.images.image import Image
from tandem_sandbox.job import ContainerError, Job, Outcome
from tandem_sandbox.lane import Lane
from tandem_sandbox.run_watch import Stop
from tandem_sandbox.threads import run_in_thread

_log = structlog.get_logger(__name__)
_ATTEMPTS = 2


class LanePool:
    """`async with LanePool(lanes, running)`."""

    def __init__(self, lanes: Sequence[Lane], running: int) -> None:
        self._lanes = lanes
        self._idle = list(lanes)
        self._changed = asyncio.Condition()
        self._slots = asyncio.Semaphore(running)
        self._refilling: set[asyncio.Task[None]] = set()
        self.running = 0
        """Jobs that run now."""
        self.waiting = 0
        """Jobs that wait for a place."""
        self.failures = 0
        """Jobs or containers that the sandbox failed at so far."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End all containers. Callers have been cancelled before."""
        await asyncio.gather(*self._refilling, return_exceptions=True)
        await asyncio.gather(*(_empty(lane) for lane in self._lanes), return_exceptions=True)
        for lane in self._lanes:
            lane.thread.shutdown()

    @property
    def ready(self) -> int:
        """Containers that wait ready."""
        return sum(lane.image is not None for lane in self._idle)

    async def warm(self, image: Image) -> None:
        """Have containers of the image wait in all lanes. Raises ContainerError if none can be made."""
        await asyncio.gather(*(_prepare(lane, image) for lane in self._idle))

    async def run(self, image: Image, job: Job) -> Outcome:
        """Run the job as soon as there is a place; a container that fails is replaced once.

        Raises ContainerError. When cancelled, the container has ended before this returns.
        """
        async with self.turn():
            for attempt in range(1, _ATTEMPTS + 1):
                try:
                    return await self._run_once(image, job)
                except ContainerError as error:
                    self.failures += 1
                    _log.warning("a container failed", image=image.name, attempt=attempt, error=str(error))
                    if attempt == _ATTEMPTS:
                        raise
            raise AssertionError

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Wait for a place to run something, and have it."""
        self.waiting += 1
        try:
            await self._slots.acquire()
        finally:
            self.waiting -= 1
        self.running += 1
        try:
            yield
        finally:
            self.running -= 1
            self._slots.release()

    async def _run_once(self, image: Image, job: Job) -> Outcome:
        lane = await self._take(image)
        try:
            if lane.image != image:
                await _prepare(lane, image)
            return await self._run_in(lane, job)
        finally:
            self._refill(lane, image)

    async def _run_in(self, lane: Lane, job: Job) -> Outcome:
        outcome = await run_in_thread(lane.thread, lambda cancellation: lane.run(job, cancellation))
        if outcome.stop == Stop.STARVED:
            raise ContainerError("the machine is too busy: the program got too little processor time to be judged")
        return outcome

    async def _take(self, image: Image) -> Lane:
        """An idle lane; one whose container is of the image, if there is one, else an empty one if possible."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._idle)
            lane = min(self._idle, key=lambda each: (each.image != image, each.image is not None))
            self._idle.remove(lane)
            return lane

    def _refill(self, lane: Lane, image: Image) -> None:
        """Make the next container behind the back of whoever waits for an answer."""
        task = asyncio.create_task(self._make_ahead(lane, image))
        self._refilling.add(task)
        task.add_done_callback(self._refilling.discard)

    async def _make_ahead(self, lane: Lane, image: Image) -> None:
        try:
            await _prepare(lane, image)
        except ContainerError as error:
            self.failures += 1
            _log.warning("a container cannot be made ahead", image=image.name, error=str(error))
        async with self._changed:
            self._idle.append(lane)
            self._changed.notify()


async def _prepare(lane: Lane, image: Image) -> None:
    await asyncio.get_running_loop().run_in_executor(lane.thread, lane.prepare, image)


async def _empty(lane: Lane) -> None:
    await asyncio.get_running_loop().run_in_executor(lane.thread, lane.empty)
