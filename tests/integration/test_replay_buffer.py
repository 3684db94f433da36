"""The replay buffer on SQLite and on a real PostgreSQL."""

import asyncio
import hashlib
import itertools
import json
import random
import sqlite3
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytest_asyncio
from sqlalchemy import Engine, event
from tandem_core.coordination.records import Activity
from tandem_rollout.storage import batches
from tandem_rollout.storage.errors import StorageError
from tandem_rollout.storage.history import EvaluationSample
from tandem_rollout.storage.history_file import open_history
from tandem_rollout.storage.replay_buffer import ReplayBuffer, sqlite_url
from tandem_rollout.trajectory import (
    FinishReason,
    Group,
    Score,
    ScoredGroup,
    ScoredSample,
    Segment,
    Trajectory,
    TrajectoryState,
    VersionSpan,
)

WRITER = Path(__file__).parent / "record_batches.py"
_uids = itertools.count()


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return sqlite_url(tmp_path / "replay.db")
    return str(request.getfixturevalue("postgresql"))


@pytest.fixture
def uid() -> str:
    return f"job-{next(_uids)}"


@pytest_asyncio.fixture
async def buffer(url: str, uid: str) -> AsyncIterator[ReplayBuffer]:
    async with ReplayBuffer(url, uid) as opened:
        yield opened


def segment(
    tokens: list[int], reason: FinishReason = FinishReason.STOP, *, iteration: int = 1, version: int = 0
) -> Segment:
    spans = (VersionSpan(version, len(tokens) - 1), VersionSpan(version + 1, 1))
    return Segment(np.array(tokens, np.int32), np.array(tokens, np.float32) / -8, spans, reason, iteration)


def scored(trajectory: Trajectory, reward: float = 1.0) -> ScoredSample:
    trajectory.append(segment([7, 8, 9]))
    return ScoredSample(trajectory, f"text {trajectory.index}", Score(reward, {"exact": reward}, reward == 1.0))


async def scored_groups(buffer: ReplayBuffer, iteration: int, prompts: list[int]) -> list[ScoredGroup]:
    """New groups of two, the first answer right."""
    groups = await buffer.create_groups(iteration, prompts, 2)
    samples = [scored(each, 1.0 - each.index) for group in groups for each in group.trajectories]
    await buffer.save(samples)
    return await buffer.scored_groups()


async def test_groups_come_back_as_they_were_saved(buffer: ReplayBuffer) -> None:
    created = await buffer.create_groups(1, [30, 10, 30], 2)
    assert [group.prompt_id for group in created] == [30, 10, 30]
    assert len({each.id for group in created for each in group.trajectories}) == 6
    one = created[0].trajectories[1]
    one.append(segment([1, 2, 3], FinishReason.BUDGET))
    await buffer.save([], [one])
    one.append(segment([4, 5], FinishReason.LENGTH, iteration=2, version=3))
    await buffer.save([], [one])
    await buffer.save([], [one])  # nothing new: nothing happens

    again = await buffer.open_groups()
    assert [_shape(group) for group in again] == [_shape(group) for group in created]
    found = again[0].trajectories[1]
    assert found.state == TrajectoryState.FINISHED
    assert found.tokens.tolist() == [1, 2, 3, 4, 5]
    np.testing.assert_array_equal(found.logprobs, np.array([1, 2, 3, 4, 5], np.float32) / -8)
    assert found.versions.tolist() == [0, 0, 1, 3, 4]
    assert [each.iteration for each in found.segments] == [1, 2]
    assert [each.finish_reason for each in found.segments] == [FinishReason.BUDGET, FinishReason.LENGTH]
    assert found.saved_segments == 2


async def test_a_group_is_open_until_all_its_answers_are_scored(buffer: ReplayBuffer) -> None:
    first, second = await buffer.create_groups(1, [1, 2], 2)
    await buffer.save([scored(each) for each in second.trajectories])
    await buffer.save([scored(first.trajectories[0], 0.25)])
    assert [group.id for group in await buffer.open_groups()] == [first.id]
    assert [group.id for group in await buffer.scored_groups()] == [second.id]
    await buffer.save([scored(first.trajectories[1])])
    assert await buffer.open_groups() == []
    complete = await buffer.scored_groups()
    assert [group.id for group in complete] == [first.id, second.id]  # the oldest first
    sample = complete[0].samples[0]
    assert (sample.text, sample.score) == ("text 0", Score(0.25, {"exact": 0.25}, False))
    assert sample.trajectory.state == TrajectoryState.SCORED
    assert sample.trajectory.tokens.tolist() == [7, 8, 9]


async def test_a_batch_is_recorded_once_whatever_comes_later(buffer: ReplayBuffer) -> None:
    groups = await scored_groups(buffer, 1, [1, 2, 3])
    assert await buffer.batch(1) is None
    assert await buffer.record_batch(1, b"first", groups[:2], metrics={"reward": 0.5}) == b"first"
    assert await buffer.record_batch(1, b"other", groups, metrics={"reward": 0.9}) == b"first"
    assert await buffer.batch(1) == b"first"
    assert [record.metrics for record in await buffer.iterations()] == [{"reward": 0.5}]
    assert [group.id for group in await buffer.scored_groups()] == [groups[2].id]
    assert await buffer.last_recorded_iteration() == 1


async def test_a_group_is_in_one_batch_at_most(buffer: ReplayBuffer) -> None:
    groups = await scored_groups(buffer, 1, [1, 2, 3])
    await buffer.record_batch(1, b"first", groups[:2])
    with pytest.raises(StorageError, match=r"iteration 2 .* 1 of the 2 groups are in an earlier batch"):
        await buffer.record_batch(2, b"second", groups[1:])
    assert await buffer.batch(2) is None  # and group 3 is still free
    assert await buffer.record_batch(2, b"second", groups[2:]) == b"second"


async def test_batches_have_no_gaps(buffer: ReplayBuffer) -> None:
    groups = await scored_groups(buffer, 1, [1])
    with pytest.raises(StorageError, match="the next batch to record is that of iteration 1, not 2"):
        await buffer.record_batch(2, b"second", groups)


async def test_two_masters_that_record_at_the_same_time_get_the_same_batch(url: str, uid: str) -> None:
    async with ReplayBuffer(url, uid) as one, ReplayBuffer(url, uid) as other:
        for iteration in range(1, 6):
            groups = await scored_groups(one, iteration, [1, 2])
            results = await asyncio.gather(
                *(
                    buffer.record_batch(iteration, name, groups)
                    for buffer, name in ((one, b"one"), (other, b"other")) * 2
                )
            )
            assert len(set(results)) == 1
            assert await one.scored_groups() == []


async def test_trained_iterations_are_marked(buffer: ReplayBuffer) -> None:
    assert await buffer.last_trained_iteration() == 0
    with pytest.raises(StorageError, match="iteration 1 cannot be marked"):
        await buffer.mark_trained(1)
    await buffer.record_batch(1, b"1", await scored_groups(buffer, 1, [1]))
    assert await buffer.last_trained_iteration() == 0
    await buffer.record_iteration(1, version=1, metrics={"reward": 0.5}, phase_seconds={"Rollout": 2.0})
    await buffer.mark_trained(1, {"loss": 0.25})
    assert await buffer.last_trained_iteration() == 1
    (iteration,) = await buffer.iterations()
    assert iteration.metrics == {"reward": 0.5, "loss": 0.25}
    assert iteration.phase_seconds == {"Rollout": 2.0}


async def test_metrics_that_are_no_numbers_stay_what_they_are(buffer: ReplayBuffer) -> None:
    metrics = {"loss": float("nan"), "gradient_norm": float("inf"), "reward": 0.5}
    await buffer.record_iteration(1, version=1, metrics=metrics, phase_seconds={})
    assert [each.metrics for each in await buffer.iterations()] == [pytest.approx(metrics, nan_ok=True)]


async def test_success_rates_follow_the_newest_groups(buffer: ReplayBuffer) -> None:
    await buffer.record_batch(1, b"1", await scored_groups(buffer, 1, [5, 6]))
    assert await buffer.success_rates() == {5: 0.5, 6: 0.5}
    (group,) = await buffer.create_groups(2, [5], 2)
    await buffer.save([scored(each) for each in group.trajectories])
    assert await buffer.success_rates() == {5: 0.5, 6: 0.5}  # counted when it is in a batch
    await buffer.record_batch(2, b"2", await buffer.scored_groups())
    assert await buffer.success_rates() == {5: 0.75, 6: 0.5}


async def test_pruning_forgets_bytes_and_keeps_the_story(buffer: ReplayBuffer) -> None:
    for iteration in (1, 2, 3):
        await buffer.record_batch(iteration, b"data", await scored_groups(buffer, iteration, [iteration]))
    assert await buffer.prune_batches(3) == 2
    assert await buffer.prune_batches(3) == 0
    assert [await buffer.batch(iteration) for iteration in (1, 2, 3)] == [None, None, b"data"]
    assert await buffer.last_recorded_iteration() == 3
    samples = await buffer.samples(1)
    assert [(each.text, each.tokens, each.last_version) for each in samples] == [("text 0", 3, 1), ("text 1", 3, 1)]
    with pytest.raises(StorageError, match="batch of iteration 1 was pruned"):
        await buffer.record_batch(1, b"again", [])


async def test_activities_evaluations_and_facts_are_kept(buffer: ReplayBuffer) -> None:
    activity = Activity(name="step", started_at=10.5, ended_at=11.0)
    await buffer.add_activities("pod-0", 1, [activity, activity])
    await buffer.add_activities("pod-0", 1, [activity.model_copy(update={"ended_at": 12.0})])
    await buffer.add_activities("pod-1", 1, [activity])
    assert [(each.pod, each.ended_at) for each in await buffer.activities()] == [("pod-0", 12.0), ("pod-1", 11.0)]
    right = EvaluationSample(4, "1 + 1", "2", "2", (5, 1), 1.0, True)
    wrong = EvaluationSample(5, "1 + 2", "3", "", (), 0.0, False)
    await buffer.record_evaluation(0, 0, [wrong])
    await buffer.record_evaluation(0, 0, [right, wrong])
    (evaluation,) = await buffer.evaluations()
    assert evaluation.samples == (right, wrong)
    assert evaluation.accuracy == 0.5
    await buffer.set_info({"started_at": 3.5, "job": {"name": "a"}})
    info = await buffer.info()
    assert (info["started_at"], info["job"]) == (3.5, {"name": "a"})


async def test_what_was_written_is_there_after_reopening(url: str, uid: str) -> None:
    async with ReplayBuffer(url, uid) as first:
        groups = await scored_groups(first, 1, [1, 2])
        await first.record_batch(1, b"one", groups[:1])
        await first.create_groups(2, [9], 2)
    async with ReplayBuffer(url, uid) as second:
        assert await second.batch(1) == b"one"
        assert await second.groups_created() == 3
        assert len(await second.open_groups()) == 1
        assert len(await second.scored_groups()) == 1


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
async def test_nothing_is_lost_or_used_twice_when_the_master_is_killed(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    url = sqlite_url(tmp_path / "replay.db") if kind == "sqlite" else str(request.getfixturevalue("postgresql"))
    log = tmp_path / "log"
    log.touch()
    dice = random.Random(5)
    for _ in range(6):
        _run_and_kill(url, log, after_lines=dice.randint(6, 18), pause=dice.uniform(0, 0.015))
    # The last line may be cut off by the kill.
    notes = [json.loads(line) for line in log.read_text().splitlines() if line.endswith("}")]
    saved = {group for each in notes for group in each.get("saved", [])}
    given_out = {each["iteration"]: each["digest"] for each in notes if "iteration" in each}
    assert len(given_out) >= 12

    async with ReplayBuffer(url, "kill-test") as buffer:
        last = await buffer.last_recorded_iteration()
        used: list[int] = []
        for iteration in range(1, last + 1):
            data = await buffer.batch(iteration)
            assert data is not None
            if iteration in given_out:
                assert hashlib.sha256(data).hexdigest() == given_out[iteration]
            used += json.loads(data[: data.index(b"]") + 1])
            assert len({each.group_id for each in await buffer.samples(iteration)}) == 3
        free = {group.id for group in await buffer.scored_groups()}
        open_ids = {group.id for group in await buffer.open_groups()}
        assert max(given_out) in (last, last - 1)
        assert len(used) == len(set(used))  # nothing is used twice
        assert not set(used) & (free | open_ids)
        assert saved <= set(used) | free  # nothing that was saved is lost
        assert len(set(used) | free | open_ids) == await buffer.groups_created()


def _run_and_kill(url: str, log: Path, *, after_lines: int, pause: float) -> None:
    """Start the writer and kill it while it records a batch, or just after."""
    before = len(log.read_text().splitlines())
    process = subprocess.Popen([sys.executable, str(WRITER), url, str(log)])
    try:
        deadline = time.monotonic() + 60
        while len(lines := log.read_text().splitlines()) < before + after_lines or "recording" not in lines[-1]:
            assert process.poll() is None, "the writer ended by itself"
            assert time.monotonic() < deadline, "the writer is too slow"
            time.sleep(0.0005)
        time.sleep(pause)  # so that the kill falls anywhere in the transaction
    finally:
        process.kill()
        process.wait(10)
    if not log.read_text().endswith("\n"):
        with log.open("a") as file:
            file.write("\n")


async def test_a_full_disk_is_a_clear_error_and_loses_nothing(tmp_path: Path, uid: str) -> None:
    file = tmp_path / "replay.db"
    async with ReplayBuffer(sqlite_url(file), uid, patience_seconds=0.2) as buffer:
        groups = await scored_groups(buffer, 1, [1])
        await _limit_pages(buffer, file)
        with pytest.raises(StorageError, match=r"disk is full.*storage\.size"):
            await buffer.record_batch(1, bytes(10_000_000), groups)
        assert await buffer.batch(1) is None
        assert [group.id for group in await buffer.scored_groups()] == [groups[0].id]


async def _limit_pages(buffer: ReplayBuffer, file: Path) -> None:
    """What SQLite does at its page limit is what it does on a full disk: the same error, the same rollback."""
    with sqlite3.connect(file) as connection:
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
    async with buffer._database.durable.connect() as connection_:
        await connection_.exec_driver_sql(f"PRAGMA max_page_count={pages + 10}")


async def test_databases_that_do_not_fit_are_refused_with_the_remedy(tmp_path: Path) -> None:
    file = tmp_path / "replay.db"
    async with ReplayBuffer(sqlite_url(file), "mine") as buffer:
        await buffer.set_info({"job": "a"})
    with pytest.raises(StorageError, match="belongs to the job with uid mine, not yours"):
        async with ReplayBuffer(sqlite_url(file), "yours"):
            pass
    with sqlite3.connect(file) as connection:
        connection.execute("UPDATE info SET value = '99' WHERE key = 'schema_version'")
    with pytest.raises(StorageError, match="tables of version 99"):
        async with ReplayBuffer(sqlite_url(file), "mine"):
            pass
    file.write_bytes(b"this is no database" * 1000)
    with pytest.raises(StorageError, match="not a database"):
        async with ReplayBuffer(sqlite_url(file), "mine"):
            pass
    with pytest.raises(StorageError, match=r"unable to open.*directory exists"):
        async with ReplayBuffer(sqlite_url(tmp_path / "no" / "replay.db"), "mine"):
            pass
    with pytest.raises(StorageError, match="sqlite or postgresql, not in 'mysql'"):
        ReplayBuffer("mysql://a/b", "mine")


async def test_a_server_that_is_away_is_waited_for_and_then_named() -> None:
    buffer = ReplayBuffer("postgresql://tandem:secret@127.0.0.1:1/tandem", "mine", patience_seconds=0.5)
    with pytest.raises(StorageError, match=r"127\.0\.0\.1:1") as raised:
        async with buffer:
            pass
    assert "secret" not in str(raised.value)


async def test_jobs_share_a_postgresql_database_without_meeting(postgresql: str) -> None:
    async with ReplayBuffer(postgresql, "job-a") as one, ReplayBuffer(postgresql, "job-b") as other:
        await one.record_batch(1, b"a", await scored_groups(one, 1, [1]))
        assert await other.batch(1) is None
        assert await other.groups_created() == 0


async def test_the_history_reads_while_the_master_writes(tmp_path: Path, uid: str) -> None:
    file = tmp_path / "replay.db"
    with pytest.raises(StorageError, match="no replay buffer"):
        open_history(file)
    async with ReplayBuffer(sqlite_url(file), uid) as buffer:
        with open_history(file) as history:
            assert history.iterations() == []
            await buffer.record_batch(1, b"1", await scored_groups(buffer, 1, [1]))
            await buffer.mark_trained(1, {"loss": 0.5})
            await buffer.record_evaluation(1, 1, [])
            await buffer.add_activities("pod", 1, [Activity(name="step", started_at=1, ended_at=2)])
            assert [each.metrics for each in history.iterations()] == [{"loss": 0.5}]
            assert [each.text for each in history.samples(1)] == ["text 0", "text 1"]
            assert history.samples(1, limit=1)[0].parts == {"exact": 1.0}
            assert len(history.evaluations()) == len(history.activities()) == 1
            assert history.info()["job_uid"] == uid


async def test_a_batch_too_large_for_one_row_is_kept_in_parts(
    buffer: ReplayBuffer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "PART_BYTES", 1000)
    for iteration, size in enumerate((3456, 2000, 1, 0), 1):
        data = random.Random(iteration).randbytes(size)
        await buffer.record_batch(iteration, data, await scored_groups(buffer, iteration, [1]))
        assert await buffer.batch(iteration) == data
    assert await buffer.prune_batches(2) == 1
    assert [len(await buffer.batch(iteration) or b"") for iteration in (1, 2, 3)] == [0, 2000, 1]


async def test_an_iteration_of_256_answers_costs_few_statements(tmp_path: Path, uid: str) -> None:
    statements: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
        statements.append(statement)

    async with ReplayBuffer(sqlite_url(tmp_path / "replay.db"), uid) as buffer:
        event.listen(Engine, "before_cursor_execute", note)
        try:
            groups = await buffer.create_groups(1, range(32), 8)
            samples = [scored(each) for group in groups for each in group.trajectories]
            await buffer.save(samples)
            ready = [
                ScoredGroup(group.id, group.prompt_id, 1, tuple(samples[8 * place : 8 * place + 8]))
                for place, group in enumerate(groups)
            ]
            await buffer.record_batch(1, bytes(200_000), ready)
            await buffer.mark_trained(1)
        finally:
            event.remove(Engine, "before_cursor_execute", note)
    assert 4 <= len(statements) < 32, statements


def _shape(group: Group) -> tuple[int, int, int, list[tuple[int, int]]]:
    members = [(each.id, each.index) for each in group.trajectories]
    return group.id, group.prompt_id, group.created_iteration, members
