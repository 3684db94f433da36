"""Which jobs the operator looks at, and when."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from tandem_operator.resources import JobKey
from tandem_operator.work_queue import FIRST_RETRY_SECONDS, GATHER_SECONDS, REST_SECONDS, WorkQueue

ONE, OTHER = JobKey("default", "one"), JobKey("default", "other")


@asynccontextmanager
async def running(work: Callable[[JobKey], Awaitable[float | None]], workers: int = 4) -> AsyncIterator[WorkQueue]:
    queue = WorkQueue(work, workers)
    task = asyncio.create_task(queue.run())
    try:
        yield queue
    finally:
        task.cancel()
        await asyncio.wait([task])


class Looks:
    """Counts looks and how many there are at a time; each takes `seconds`."""

    def __init__(self, seconds: float = 0.0) -> None:
        self._seconds = seconds
        self._now: list[JobKey] = []
        self.seen: list[JobKey] = []
        self.most = 0
        self.twice = False

    async def __call__(self, key: JobKey) -> float | None:
        self.seen.append(key)
        self.twice |= key in self._now
        self._now.append(key)
        self.most = max(self.most, len(self._now))
        await asyncio.sleep(self._seconds)
        self._now.remove(key)
        return None


async def test_news_that_come_together_are_one_look_and_later_news_another() -> None:
    looks = Looks()
    async with running(looks) as queue:
        for _ in range(5):
            queue.ask(ONE)
        await asyncio.sleep(2 * GATHER_SECONDS)
        assert looks.seen == [ONE]
        for _ in range(5):  # while it rests
            queue.ask(ONE)
        await asyncio.sleep(GATHER_SECONDS + 2 * REST_SECONDS)
        assert looks.seen == [ONE, ONE]


async def test_a_job_has_one_look_at_a_time_and_none_is_forgotten() -> None:
    looks = Looks(seconds=4 * GATHER_SECONDS)
    async with running(looks) as queue:
        queue.ask(ONE)
        queue.ask(OTHER)
        await asyncio.sleep(2 * GATHER_SECONDS)
        queue.ask(ONE)
        await asyncio.sleep(10 * GATHER_SECONDS + 2 * REST_SECONDS)
    assert sorted(looks.seen) == [ONE, ONE, OTHER]
    assert not looks.twice
    assert looks.most == 2


async def test_no_more_jobs_are_looked_at_than_there_are_workers() -> None:
    looks = Looks(seconds=0.02)
    async with running(looks, workers=3) as queue:
        for number in range(10):
            queue.ask(JobKey("default", str(number)))
        await asyncio.sleep(1)
    assert len(looks.seen) == 10
    assert looks.most == 3


async def test_what_fails_is_tried_again_and_what_asks_for_it_is_looked_at_again() -> None:
    calls: list[JobKey] = []

    async def work(key: JobKey) -> float | None:
        calls.append(key)
        if len(calls) == 1:
            raise ValueError("a defect")
        return 0.0 if len(calls) == 2 else None

    async with running(work) as queue:
        queue.ask(ONE)
        await asyncio.sleep(FIRST_RETRY_SECONDS / 2)
        assert calls == [ONE]
        await asyncio.sleep(FIRST_RETRY_SECONDS + 2 * REST_SECONDS)
        assert calls == [ONE] * 3
