"""Engines that come, die, fail and are drained while answers are generated."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

import pytest
from tandem_core.coordination.keys import JobKeys
from tandem_core.coordination.membership import Membership, new_member
from tandem_core.coordination.mirror import Mirror
from tandem_core.coordination.records import EngineState, EngineStatus, Member, Role
from tandem_core.coordination.store import Store
from tandem_core.job.rollout import RepetitionSpec
from tandem_rollout import answer_pool
from tandem_rollout.answer_pool import ALL_ENGINES, STANDALONE_ENGINES, AnswerPool
from tandem_rollout.answers import Answer, Sampling, build_works
from tandem_rollout.engine_client import EngineClient
from tandem_rollout.trajectory import FinishReason, Trajectory

from .scripted_engine import ScriptedEngine

SAMPLING = Sampling(temperature=1.0, top_p=1.0, max_tokens=8, repetition=RepetitionSpec(), seed=0)


@dataclass
class Bench:
    """A pool with its answers."""

    pool: AnswerPool
    stack: AsyncExitStack
    store: Store
    keys: JobKeys
    settled: list[Answer] = field(default_factory=list)

    async def add(
        self,
        engine: ScriptedEngine,
        name: str,
        role: Role = Role.SIDECAR,
        capacity: int = 4,
        version: int = 0,
        ttl_seconds: int = 10,
    ) -> Membership:
        status = EngineStatus(
            url=engine.url, state=EngineState.SERVING, version=version, max_concurrent_sequences=capacity
        )
        membership = Membership(self.store, self.keys, new_member(role, name, name, engine=status), ttl_seconds)
        return await self.stack.enter_async_context(membership)

    def submit(self, groups: int, size: int = 2, allowance: int = 8, iteration: int = 1) -> list[Answer]:
        answers = [
            Answer(
                Trajectory(10 * group + index, group, group, index),
                (5, 6),
                SAMPLING,
                iteration,
                allowance,
                self._settle,
            )
            for group in range(groups)
            for index in range(size)
        ]
        self.pool.submit(build_works(answers))
        return answers

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not condition():  # noqa: ASYNC110 - of the pool, the members in etcd, or both
                await asyncio.sleep(0.01)

    def _settle(self, answer: Answer) -> None:
        self.settled.append(answer)


@asynccontextmanager
async def start_pool(store: Store, keys: JobKeys) -> AsyncIterator[Bench]:
    async with (
        EngineClient("t", request_timeout_seconds=30) as client,
        Mirror(store, keys.members, Member) as members,
        AsyncExitStack() as stack,
    ):
        pool = AnswerPool(client, members)
        pool.use_engines(ALL_ENGINES)
        running = asyncio.create_task(pool.run())
        try:
            yield Bench(pool, stack, store, keys)
        finally:
            running.cancel()
            await asyncio.wait([running])


async def test_requests_of_an_engine_that_dies_go_to_another(store: Store, keys: JobKeys) -> None:
    async with ScriptedEngine(held=True) as dying, ScriptedEngine() as healthy, start_pool(store, keys) as bench:
        await bench.add(dying, "a")
        answers = bench.submit(groups=2)
        await dying.wait_for_requests(2)
        await bench.add(healthy, "b")
        await dying.die()
        await bench.until(lambda: len(bench.settled) == 4)
    assert len(healthy.requests) == 2
    assert {answer.trajectory.finish_reason for answer in answers} == {FinishReason.LENGTH}
    assert all(answer.trajectory.length == 8 for answer in answers)


async def test_requests_of_an_engine_whose_pod_is_gone_go_to_another(
    store: Store, keys: JobKeys, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The machine is cut off: its connections stay silent, but its lease ends."""
    monkeypatch.setattr(answer_pool, "RETURN_SECONDS", 0.2)
    async with ScriptedEngine(held=True) as silent, ScriptedEngine() as healthy, start_pool(store, keys) as bench:
        membership = await bench.add(silent, "a")
        bench.submit(groups=2)
        await silent.wait_for_requests(2)
        await bench.add(healthy, "b")
        await membership.__aexit__(None, None, None)
        await bench.until(lambda: len(bench.settled) == 4)
        assert len(healthy.requests) == 2


async def test_requests_of_an_engine_whose_lease_ran_out_with_etcd_go_on(store: Store, keys: JobKeys) -> None:
    """etcd stood still, and all leases with it: members register again, and what they work on is good."""
    async with ScriptedEngine(held=True) as busy, ScriptedEngine() as other, start_pool(store, keys) as bench:
        membership = await bench.add(busy, "a", ttl_seconds=1)
        answers = bench.submit(groups=2)
        await busy.wait_for_requests(2)
        await bench.add(other, "b")
        await bench.until(lambda: bench.pool.count_serving() == 2)
        assert store.client.lease is not None
        await store.client.lease.revoke(membership._lease)
        await bench.until(lambda: bench.pool.count_serving() == 1)
        await bench.until(lambda: bench.pool.count_serving() == 2)
        assert all(answer.flying for answer in answers)
        busy.release()
        await bench.until(lambda: len(bench.settled) == 4)
        assert (len(busy.requests), len(other.requests)) == (2, 0)


async def test_what_a_draining_pod_works_on_is_continued_elsewhere(store: Store, keys: JobKeys) -> None:
    async with ScriptedEngine(held=True) as going, ScriptedEngine() as staying, start_pool(store, keys) as bench:
        await bench.add(going, "a", role=Role.INFERENCE)
        answers = bench.submit(groups=2)
        await going.wait_for_requests(2)
        bench.pool.drain(["a"])
        assert bench.pool.count_answers() == {"inference/a": 4}
        await bench.add(staying, "b", role=Role.INFERENCE)
        answers += bench.submit(groups=1)
        await bench.until(lambda: len(bench.settled) == 2)
        going.abort()  # its checkpoint engine pauses it
        await bench.until(lambda: len(bench.settled) == 6)
        assert bench.pool.count_answers() == {}
        assert (len(going.requests), len(staying.requests)) == (2, 1 + 4)
        assert [request["sampling_params"]["max_tokens"] for request in staying.requests] == [8] + [4] * 4
        assert all(answer.trajectory.length == 8 for answer in answers)
        going.release()
        bench.pool.drain([])
        bench.submit(groups=2)
        await going.wait_for_requests(3)  # it is needed after all


async def test_a_request_that_a_drained_pod_keeps_is_taken_back(
    store: Store, keys: JobKeys, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It reached the engine just after that was paused."""
    monkeypatch.setattr(answer_pool, "RETURN_SECONDS", 0.2)
    async with ScriptedEngine(held=True) as paused, ScriptedEngine() as staying, start_pool(store, keys) as bench:
        membership = await bench.add(paused, "a", role=Role.INFERENCE)
        bench.submit(groups=1)
        await paused.wait_for_requests(1)
        await bench.add(staying, "b", role=Role.INFERENCE)
        bench.pool.drain(["a"])
        status = membership.member.engine
        assert status is not None
        await membership.update(engine=status.model_copy(update={"state": EngineState.RELEASED}))
        await bench.until(lambda: len(bench.settled) == 2)
        assert len(staying.requests) == 1


async def test_an_engine_that_joins_gets_work_that_waits(store: Store, keys: JobKeys) -> None:
    async with ScriptedEngine(held=True) as full, ScriptedEngine() as late, start_pool(store, keys) as bench:
        await bench.add(full, "a", capacity=2)
        bench.submit(groups=3)
        await full.wait_for_requests(1)
        await bench.add(late, "b", role=Role.INFERENCE)
        await bench.until(lambda: len(bench.settled) == 4)
        assert (len(full.requests), len(late.requests)) == (1, 2)
        full.release()
        await bench.until(lambda: len(bench.settled) == 6)


async def test_a_group_larger_than_the_engine_is_split(store: Store, keys: JobKeys) -> None:
    async with ScriptedEngine() as small, start_pool(store, keys) as bench:
        await bench.add(small, "a", capacity=3)
        answers = bench.submit(groups=1, size=8)
        await bench.until(lambda: len(bench.settled) == 8)
        assert [request["sampling_params"]["n"] for request in small.requests] == [3, 3, 2]
    assert len({tuple(answer.trajectory.tokens.tolist()) for answer in answers}) > 4


async def test_an_engine_that_fails_is_left_alone_for_a_while(
    store: Store, keys: JobKeys, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answer_pool, "RETRY_SECONDS", 0.2)
    async with ScriptedEngine(failing=True) as broken, ScriptedEngine() as healthy, start_pool(store, keys) as bench:
        await bench.add(broken, "a")
        bench.submit(groups=1)
        await broken.wait_for_requests(1)
        await bench.add(healthy, "b")
        await bench.until(lambda: len(bench.settled) == 2)
        assert (len(broken.requests), len(healthy.requests)) == (1, 1)
        broken.failing = False
        bench.settled.clear()
        await bench.store.delete(keys.member(Role.SIDECAR, "b"))
        bench.submit(groups=1)
        await bench.until(lambda: len(bench.settled) == 2)  # forgiven by now
        assert len(broken.requests) == 2


async def test_aborted_answers_go_on_only_where_they_may(store: Store, keys: JobKeys) -> None:
    async with ScriptedEngine(held=True) as drained, ScriptedEngine() as standalone, start_pool(store, keys) as bench:
        await bench.add(drained, "a")
        answers = bench.submit(groups=1)
        await drained.wait_for_requests(1)
        bench.pool.use_engines(STANDALONE_ENGINES)
        drained.abort()
        async with asyncio.timeout(10):
            await bench.pool.wait_landed({Role.SIDECAR})
        assert [answer.trajectory.length for answer in answers] == [4, 4]
        assert not bench.settled
        await bench.add(standalone, "b", role=Role.INFERENCE)
        await bench.until(lambda: len(bench.settled) == 2)
        assert len(drained.requests) == 1
        assert [len(request["token_ids"]) for request in standalone.requests] == [6, 6]
        assert [request["sampling_params"]["max_tokens"] for request in standalone.requests] == [4, 4]
    assert all(answer.trajectory.length == 8 for answer in answers)


async def test_requests_that_a_drained_engine_keeps_are_taken_back(store: Store, keys: JobKeys) -> None:
    async with ScriptedEngine(held=True) as paused, start_pool(store, keys) as bench:
        await bench.add(paused, "a")
        answers = bench.submit(groups=1)
        await paused.wait_for_requests(1)
        bench.pool.use_engines(STANDALONE_ENGINES)
        await bench.pool.recall({Role.SIDECAR}, 0.1)
        assert not any(answer.flying for answer in answers)
        paused.release()
        bench.pool.use_engines(ALL_ENGINES)
        await bench.until(lambda: len(bench.settled) == 2)
        assert len(paused.requests) == 2


async def test_an_engine_too_far_behind_loses_what_it_works_on(store: Store, keys: JobKeys) -> None:
    async with ScriptedEngine(held=True) as old, ScriptedEngine() as new, start_pool(store, keys) as bench:
        await bench.add(old, "a", role=Role.INFERENCE)
        answers = bench.submit(groups=1)
        await old.wait_for_requests(1)
        await bench.add(new, "b", version=1)
        bench.pool.require_version(1)
        await bench.until(lambda: len(bench.settled) == 2)
        assert (len(old.requests), len(new.requests)) == (1, 1)
        assert bench.pool.count_serving() == 1
    assert [answer.trajectory.versions.tolist() for answer in answers] == [[1] * 8] * 2


async def test_an_answer_waits_for_the_version_it_is_for(store: Store, keys: JobKeys) -> None:
    """An evaluation is of the very version, even if a version behind would do for rollouts."""
    async with ScriptedEngine() as old, ScriptedEngine() as new, start_pool(store, keys) as bench:
        await bench.add(old, "a", role=Role.INFERENCE)
        bench.submit(groups=1, iteration=2)
        await bench.until(lambda: bench.pool.count_serving() == 1)
        await bench.add(new, "b", version=1)
        await bench.until(lambda: len(bench.settled) == 2)
        assert (len(old.requests), len(new.requests)) == (0, 1)


async def test_engines_share_what_there_is(store: Store, keys: JobKeys) -> None:
    """One engine would have room for all: the other, which comes back from loading, finds its part left."""
    async with ScriptedEngine(held=True) as first, ScriptedEngine() as second, start_pool(store, keys) as bench:
        await bench.add(first, "a", capacity=99)
        membership = await bench.add(second, "b", role=Role.INFERENCE, capacity=99)
        await bench.until(lambda: bench.pool.count_serving() == 2)
        status = membership.member.engine
        assert status is not None
        await membership.update(engine=status.model_copy(update={"state": EngineState.IDLE}))
        await bench.until(lambda: bench.pool.count_serving() == 1)
        bench.submit(groups=8)
        await first.wait_for_requests(4)
        await membership.update(engine=status)
        await bench.until(lambda: len(bench.settled) == 8)
        assert (len(first.requests), len(second.requests)) == (4, 4)
        first.release()
        await bench.until(lambda: len(bench.settled) == 16)
