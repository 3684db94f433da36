"""Choosing among 100,000 answers, on SQLite and on PostgreSQL."""

import asyncio
import itertools
import sqlite3
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncConnection
from tandem_rollout.storage.browsing import AnswerLine, AnswerOrder, AnswerQuery
from tandem_rollout.storage.database import open_database
from tandem_rollout.storage.history import AccuracyRecord, EvaluationSample, Extent, ServedRecord
from tandem_rollout.storage.replay_buffer import ReplayBuffer, sqlite_url
from tandem_rollout.storage.tables import TrajectoryRow
from tandem_rollout.trajectory import FinishReason, Piece, Score, ScoredSample, Segment, VersionSpan

from .many_answers import GROUP_SIZE, GROUPS_AN_ITERATION, HOSTILE, fill

ANSWERS = 100_000
PER_ITERATION = GROUP_SIZE * GROUPS_AN_ITERATION
FEW = 8_000
"""For PostgreSQL in the usual tests: filling it takes longer."""


@dataclass(frozen=True)
class Many:
    """A replay buffer."""

    url: str
    uid: str
    answers: int


MANY = ["sqlite", pytest.param("postgresql", marks=pytest.mark.long)]


@pytest.fixture(scope="module", params=[*MANY, "few in postgresql"])
def many(request: pytest.FixtureRequest) -> Many:
    """A replay buffer with ANSWERS answers."""
    if request.param == "sqlite":
        return Many(sqlite_url(request.getfixturevalue("page_file")), "sums", ANSWERS)
    answers = ANSWERS if request.param == "postgresql" else FEW
    found = Many(str(request.getfixturevalue("postgresql")), f"many-{answers}", answers)
    asyncio.run(fill(found.url, found.uid, answers))
    return found


QUERIES = [
    AnswerQuery(),
    AnswerQuery(order="oldest", correct=False),
    AnswerQuery(order="best"),
    AnswerQuery(order="worst", tokens_from=100),
    AnswerQuery(order="longest", reward_to=0.1),
    AnswerQuery(order="shortest", iteration_from=300),
    AnswerQuery(iteration_from=250, iteration_to=250, order="best"),
    AnswerQuery(iteration_from=1, iteration_to=499, reward_from=0.99, order="longest"),
    AnswerQuery(reward_from=5.0),
    AnswerQuery(tokens_from=100_000, iteration_from=2),
    AnswerQuery(limit=200, correct=True, reward_to=0.85, tokens_to=60),
]


@pytest.fixture(scope="module")
def seconds_for_all(many: Many) -> float:
    """What a page would cost that reads all answers to choose from them."""

    async def read_all(connection: AsyncConnection) -> int:
        columns = (TrajectoryRow.id, TrajectoryRow.reward, TrajectoryRow.correct, TrajectoryRow.length)
        rows = (await connection.execute(select(*columns, func.substr(TrajectoryRow.text, 1, 160)))).all()
        return len(sorted(rows, key=lambda row: row.reward))

    async def measure() -> float:
        database = open_database(many.url, many.uid, 10.0)
        seconds = []
        try:
            for _ in range(4):
                began = time.perf_counter()
                assert await database.read(read_all) == many.answers
                seconds.append(time.perf_counter() - began)
        finally:
            await database.dispose()
        return min(seconds)

    return asyncio.run(measure())


@pytest.mark.parametrize("many", MANY, indirect=True, scope="module")
@pytest.mark.parametrize("query", QUERIES, ids=lambda query: query.model_dump_json(exclude_defaults=True))
async def test_a_page_costs_a_fraction_of_reading_all_answers(
    many: Many, seconds_for_all: float, query: AnswerQuery
) -> None:
    pages, followers = [], []
    async with ReplayBuffer(many.url, many.uid) as buffer:
        for _ in range(5):
            began = time.perf_counter()
            page = await buffer.find_answers(query)
            pages.append(time.perf_counter() - began)
            if page.next:
                began = time.perf_counter()
                await buffer.find_answers(query.model_copy(update={"after": page.next}))
                followers.append(time.perf_counter() - began)
    print(f"{pages} s, next page {followers} s, all {seconds_for_all:.3f} s, {page.matching} match")
    assert min(pages) < seconds_for_all / 4
    assert min(followers, default=0.0) < seconds_for_all / 4


@pytest.mark.parametrize("order", list(AnswerOrder))
async def test_pages_follow_each_other_without_gap_or_repetition(many: Many, order: AnswerOrder) -> None:
    """Rewards and lengths occur many times, so that pages end between equal ones."""
    query = AnswerQuery(order=order, iteration_from=7, iteration_to=9, reward_from=0.2, limit=37)
    lines: list[AnswerLine] = []
    async with ReplayBuffer(many.url, many.uid) as buffer:
        whole = await buffer.find_answers(query.model_copy(update={"limit": 200}))
        page = await buffer.find_answers(query)
        assert page.matching == whole.matching
        while True:
            lines += page.answers
            if not page.next:
                break
            page = await buffer.find_answers(query.model_copy(update={"after": page.next}))
            assert page.matching is None
    assert len(lines) == len({line.id for line in lines}) == whole.matching
    assert all(7 <= (line.iteration or 0) <= 9 and line.reward >= 0.2 for line in lines)
    values = [_value(order, line) for line in lines]
    assert all(first < second for first, second in itertools.pairwise(values))
    assert lines[: len(whole.answers)] == list(whole.answers)


def _value(order: AnswerOrder, line: AnswerLine) -> tuple[float, int]:
    """Grows along the order."""
    keys = {
        AnswerOrder.NEWEST: (0.0, -line.id),
        AnswerOrder.OLDEST: (0.0, line.id),
        AnswerOrder.BEST: (-line.reward, -line.id),
        AnswerOrder.WORST: (line.reward, line.id),
        AnswerOrder.LONGEST: (-float(line.tokens), -line.id),
        AnswerOrder.SHORTEST: (float(line.tokens), line.id),
    }
    return keys[order]


async def test_counts_are_those_of_all_pages(many: Many) -> None:
    async with ReplayBuffer(many.url, many.uid) as buffer:
        everything = await buffer.find_answers(AnswerQuery())
        one = await buffer.find_answers(AnswerQuery(iteration_from=3, iteration_to=3))
        right = await buffer.find_answers(AnswerQuery(correct=True, limit=1))
        wrong = await buffer.find_answers(AnswerQuery(correct=False, limit=1))
    assert everything.matching == many.answers
    assert one.matching == PER_ITERATION
    assert (right.matching or 0) + (wrong.matching or 0) == many.answers
    assert min(right.matching or 0, wrong.matching or 0) > many.answers / 5


async def test_an_answer_comes_with_its_pieces_and_its_group(many: Many) -> None:
    async with ReplayBuffer(many.url, many.uid) as buffer:
        (line,) = (await buffer.find_answers(AnswerQuery(limit=1))).answers
        answer = await buffer.answer(line.id)
        assert await buffer.answer(line.id + GROUP_SIZE) is None
    assert answer is not None
    assert (answer.text, answer.index, answer.iteration) == (HOSTILE, GROUP_SIZE - 1, many.answers // PER_ITERATION)
    assert sum(piece.characters for piece in answer.pieces) == len(HOSTILE)
    assert [piece.finish_reason for piece in answer.pieces] == ["budget", "stop"]
    assert [sibling.index for sibling in answer.group] == list(range(GROUP_SIZE))
    assert answer.group[-1].id == answer.id
    assert set(answer.parts) == {"exact", "format"}


async def test_what_is_not_scored_is_not_shown_and_pieces_outlive_the_tokens(tmp_path: Path) -> None:
    async with ReplayBuffer(sqlite_url(tmp_path / "replay.db"), "few") as buffer:
        scored, unscored = await buffer.create_groups(1, [1, 2], 1, texts={1: "one?", 2: "two?"})
        tokens, spans = np.arange(3, dtype=np.int32), (VersionSpan(0, 3),)
        segment = Segment(tokens, np.zeros(3, np.float32), spans, FinishReason.STOP, 1)
        for group in (scored, unscored):
            group.trajectories[0].append(segment)
        piece = Piece(1, 0, 3, 5, "stop")
        sample = ScoredSample(scored.trajectories[0], "three", Score(0.5, {"exact": 0.5}, False), (piece,))
        await buffer.save([sample], unscored.trajectories)
        (restored,) = await buffer.scored_groups()
        assert restored.samples[0].pieces == (piece,)
        page = await buffer.find_answers(AnswerQuery())
        assert [(line.text, line.prompt, line.iteration) for line in page.answers] == [("three", "one?", None)]
        await buffer.record_batch(1, b"data", [restored])
        await buffer.prune_batches(2)
        answer = await buffer.answer(page.answers[0].id)
        assert answer is not None
        assert (answer.pieces, answer.iteration) == ((piece,), 1)
        assert await buffer.answer(unscored.trajectories[0].id) is None


async def test_a_replay_buffer_of_before_gets_what_it_lacks_and_keeps_what_it_has(tmp_path: Path) -> None:
    file = tmp_path / "replay.db"
    await fill(sqlite_url(file), "old", 80)
    with sqlite3.connect(file) as database:
        database.execute("DROP TABLE served")
        for index in ("trajectories_newest", "trajectories_by_reward", "trajectories_by_length"):
            database.execute(f"DROP INDEX {index}")
        database.execute("ALTER TABLE trajectories DROP COLUMN pieces")
    database.close()
    async with ReplayBuffer(sqlite_url(file), "old") as buffer:
        page = await buffer.find_answers(AnswerQuery(order="best", limit=1))
        answer = await buffer.answer(page.answers[0].id)
        assert (page.matching, answer and answer.pieces) == (80, ())
        assert await buffer.served(0.0, 1e12) == []
    with sqlite3.connect(file) as database:
        plan = database.execute(
            "EXPLAIN QUERY PLAN SELECT id FROM trajectories WHERE state = 'scored' ORDER BY reward DESC, id DESC"
        ).fetchall()
    database.close()
    assert "COVERING INDEX trajectories_by_reward" in plan[0][3]


async def test_what_engines_served_is_found_by_time(tmp_path: Path) -> None:
    async with ReplayBuffer(sqlite_url(tmp_path / "replay.db"), "few") as buffer:
        early, late = ServedRecord("a", 1, 10.0, 20.0), ServedRecord("b", 2, 15.0, 40.0)
        await buffer.add_served([late, early])
        await buffer.add_served([late])  # again: nothing changes
        assert await buffer.served(0.0, 100.0) == [early, late]
        assert await buffer.served(20.0, 30.0) == [late]
        assert await buffer.served(40.0, 50.0) == []


async def test_the_extent_grows_and_evaluations_are_summed_up(tmp_path: Path) -> None:
    async with ReplayBuffer(sqlite_url(tmp_path / "replay.db"), "few") as buffer:
        assert await buffer.extent() == Extent()
        for iteration in (0, 1, 2):
            await buffer.record_iteration(iteration, version=iteration, metrics={}, phase_seconds={})
        extent = await buffer.extent()
        assert (extent.first, extent.last) == (0, 2)
        assert time.time() - extent.changed_at < 60
        samples = [EvaluationSample(number, "?", "1", "1", (1,), 1.0, number == 0) for number in range(4)]
        await buffer.record_evaluation(2, 2, samples)
        assert await buffer.accuracies() == [AccuracyRecord(2, 0.25, 4)]
