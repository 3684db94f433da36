"""Writes what is only for reports behind the job's back: no phase waits for it."""

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Mapping

import structlog
from tandem_core.coordination.records import Ack, Activity, Member

from tandem_rollout.served_versions import ServedVersions
from tandem_rollout.storage.errors import StorageError
from tandem_rollout.storage.history import ServedRecord
from tandem_rollout.storage.replay_buffer import ReplayBuffer

log = structlog.get_logger()

QUEUE_SIZE = 256


class HistoryWriter:
    """Activities, phase times and served versions go in; `run` writes them, one iteration at a time."""

    def __init__(self, buffer: ReplayBuffer) -> None:
        self._buffer = buffer
        self._served = ServedVersions()
        self._activities: defaultdict[str, list[Activity]] = defaultdict(list)
        self._queue: asyncio.Queue[Callable[[], Awaitable[object]]] = asyncio.Queue(QUEUE_SIZE)

    def note_activities(self, acks: Iterable[Ack], members: Mapping[str, Member]) -> None:
        """What members did in a phase; they are written with the iteration."""
        for ack in acks:
            self._activities[pod_of(ack.member, members)] += ack.activities

    def note_own(self, pod: str, activity: Activity) -> None:
        """What the master in `pod` did."""
        self._activities[pod].append(activity)

    def note_engines(self, members: Iterable[Member], now: float) -> None:
        """What engines say of themselves at `now` (Unix seconds)."""
        self._served.observe(members, now)

    def current_served(self, now: float) -> list[ServedRecord]:
        """What the replay buffer does not have yet of which engine served which version when."""
        return self._served.current(now)

    async def end_iteration(self, iteration: int, phase_seconds: Mapping[str, float]) -> None:
        """Write the iteration's phase times, and all that was noted."""
        noted, self._activities = self._activities, defaultdict(list)
        served = self._served.take()

        async def write() -> None:
            for pod, activities in noted.items():
                if activities:
                    await self._buffer.add_activities(pod, iteration, activities)
            if served:
                await self._buffer.add_served(served)
            await self._buffer.record_iteration(iteration, version=iteration, metrics={}, phase_seconds=phase_seconds)

        await self._queue.put(write)

    async def prune(self, before_iteration: int) -> None:
        """Forget the bytes of batches that no checkpoint needs."""
        if before_iteration > 1:
            await self._queue.put(lambda: self._buffer.prune_batches(before_iteration))

    async def flush(self) -> None:
        """Return when all is written."""
        await self._queue.join()

    async def run(self) -> None:
        """Write until cancelled. What cannot be written is missing in reports; that is logged."""
        while True:
            write = await self._queue.get()
            try:
                await write()
            except StorageError as error:
                log.warning("a part of the history is not written", error=str(error))
            finally:
                self._queue.task_done()


def pod_of(member: str, members: Mapping[str, Member]) -> str:
    """The pod of an ack's member, role-name; a trainer that is gone is its own pod."""
    role, _, name = member.partition("-")
    found = members.get(f"{role}/{name}")
    return found.pod if found is not None else (member if role == "trainer" else name)
