"""The phase driver against a real etcd and a real replay buffer, with members that are coroutines."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import pytest_asyncio
from etcd3aio import prefix_range_end
from tandem_core.batches import TrainingBatch
from tandem_core.coordination.keys import JobKeys
from tandem_core.coordination.leadership import Leadership, LeadershipLost
from tandem_core.coordination.mirror import Mirror
from tandem_core.coordination.records import Ack, Control, Member, PhaseRecord, Summary
from tandem_core.coordination.store import Store
from tandem_core.job import RLJob
from tandem_core.phases import Phase
from tandem_core.weights.manifest import Commit
from tandem_rollout.history_writer import HistoryWriter
from tandem_rollout.phase_driver import PhaseDriver
from tandem_rollout.storage.history import EvaluationSample
from tandem_rollout.storage.replay_buffer import ReplayBuffer, sqlite_url
from tandem_rollout.trajectory import FinishReason, Score, ScoredGroup, ScoredSample, Segment, VersionSpan

from .phase_members import Members, build_job, build_part

ACKNOWLEDGED = (Phase.WARMUP, Phase.TRAINING, Phase.PUBLISHING, Phase.DONE)  # by trainers
ITERATION = [Phase.ROLLOUT, Phase.DRAINING, Phase.TRAINING, Phase.PUBLISHING, Phase.LOADING]


@dataclass
class QuickRollouts:
    """Answers without engines: what is tested here is the order of things, and the database is real."""

    buffer: ReplayBuffer
    group_size: int = 2
    hold: asyncio.Event | None = None
    """Rollouts from iteration `hold_from` on end when it is set."""
    hold_from: int = 1
    groups: dict[int, ScoredGroup] = field(default_factory=dict)
    committed: int = -1
    first_request_at: float = 0.0
    deadlines: list[float] = field(default_factory=list)
    """Of each rollout phase."""

    @property
    def complete_groups(self) -> int:
        return len(self.groups)

    def commit(self, version: int) -> None:
        self.committed = version

    async def load(self) -> None:
        self.groups = {group.id: group for group in await self.buffer.scored_groups()}

    async def prepare(self, iteration: int) -> None:
        """No standalone engine could begin with them."""

    async def start(self, iteration: int) -> None:
        if self.groups:
            return
        for group in await self.buffer.create_groups(iteration, [0, 1], self.group_size):
            samples = []
            for trajectory in group.trajectories:
                version = VersionSpan(iteration - 1, 1)
                one = np.ones(1)
                trajectory.append(
                    Segment(one.astype(np.int32), -one.astype(np.float32), (version,), FinishReason.STOP, iteration)
                )
                samples.append(ScoredSample(trajectory, "1", Score(1.0, {"exact": 1.0}, correct=True)))
            self.groups[group.id] = ScoredGroup(group.id, group.prompt_id, iteration, tuple(samples))

    async def finish(self, iteration: int, deadline_seconds: float) -> None:
        self.deadlines.append(deadline_seconds)
        if self.hold is not None and iteration >= self.hold_from:
            await self.hold.wait()

    async def recall(self, grace_seconds: float) -> None:
        pass

    async def close(self, iteration: int, last_iteration: int) -> dict[str, float]:
        groups = list(self.groups.values())
        await self.buffer.save([sample for group in groups for sample in group.samples])
        metrics = {"reward": 1.0, "trained_samples": 4.0}
        await self.buffer.record_batch(iteration, batch_of(iteration), groups, metrics=metrics)
        self.groups.clear()
        return metrics


@dataclass
class QuickEvaluation:
    iterations: list[int] = field(default_factory=list)

    async def evaluate(self, iteration: int, deadline_seconds: float) -> list[EvaluationSample]:
        self.iterations.append(iteration)
        return [EvaluationSample(0, "1+1=", "2", "2", (4,), 1.0, correct=True)]


def batch_of(iteration: int) -> bytes:
    one = np.ones(1, dtype=np.float32)
    return TrainingBatch(
        iteration=iteration,
        tokens=np.array([5, 6], dtype=np.int32),
        lengths=np.array([2], dtype=np.int32),
        loss_mask=np.array([False, True]),
        behaviour_logprobs=np.zeros(2, dtype=np.float32),
        versions=np.array([-1, iteration - 1], dtype=np.int32),
        advantages=one,
        rewards=one,
        groups=np.zeros(1, dtype=np.int32),
    ).encode()


@dataclass
class Master:
    driver: PhaseDriver
    leadership: Leadership
    rollouts: QuickRollouts
    evaluation: QuickEvaluation
    control: Mirror[Control]
    stack: AsyncExitStack

    async def die(self) -> None:
        """As by kill -9, but that the lease goes at once."""
        await self.stack.aclose()


@asynccontextmanager
async def start_master(
    store: Store,
    keys: JobKeys,
    job: RLJob,
    buffer: ReplayBuffer,
    hold: asyncio.Event | None = None,
    hold_from: int = 1,
) -> AsyncIterator[Master]:
    async with AsyncExitStack() as stack:
        leadership = await stack.enter_async_context(Leadership(store, keys, "sums-master-0"))
        members = await stack.enter_async_context(Mirror(store, keys.members, Member))
        control = await stack.enter_async_context(Mirror(store, keys.control, Control))
        history = HistoryWriter(buffer)
        writing = asyncio.create_task(history.run())
        stack.callback(writing.cancel)
        rollouts, evaluation = QuickRollouts(buffer, hold=hold, hold_from=hold_from), QuickEvaluation()
        driver = PhaseDriver(job, keys, store, leadership, members, control, buffer, rollouts, evaluation, history)
        yield Master(driver, leadership, rollouts, evaluation, control, stack)


@pytest_asyncio.fixture
async def buffer(tmp_path: Path) -> AsyncIterator[ReplayBuffer]:
    async with ReplayBuffer(sqlite_url(tmp_path / "replay.sqlite"), "uid-1") as buffer:
        yield buffer


def is_at(phase: Phase, iteration: int) -> Callable[[Mapping[str, PhaseRecord]], bool]:
    return lambda values: "" in values and (values[""].phase, values[""].iteration) == (phase, iteration)


async def summary_of(store: Store, keys: JobKeys) -> Summary:
    summary = await store.get(keys.summary, Summary)
    assert summary is not None
    return summary


async def test_a_job_runs_through_its_phases(store: Store, keys: JobKeys, buffer: ReplayBuffer) -> None:
    job = build_job("spec.evaluation.every=2")
    async with Members(store, keys, job, buffer) as members, start_master(store, keys, job, buffer) as master:
        record = await asyncio.wait_for(master.driver.run(), 30)
    assert (record.phase, record.iteration, record.reason) == (Phase.DONE, 3, "")
    assert members.trained == {0: [1, 2, 3], 1: [1, 2, 3]}
    assert master.evaluation.iterations == [0, 2, 3]
    # A short phase in which it has nothing to do may pass unseen by a rank.
    assert [each for each in members.phases if each[0] in ACKNOWLEDGED] == [
        (Phase.WARMUP, 0),
        (Phase.PUBLISHING, 0),
        *[(phase, iteration) for iteration in (1, 2, 3) for phase in (Phase.TRAINING, Phase.PUBLISHING)],
        (Phase.DONE, 3),
    ]
    summary = await summary_of(store, keys)
    assert summary.phase == Phase.DONE
    assert (summary.accuracy_before, summary.accuracy, summary.reward, summary.samples) == (1.0, 1.0, 1.0, 12)
    history = await buffer.iterations()
    assert [each.iteration for each in history] == [0, 1, 2, 3]
    assert set(history[0].phase_seconds) == {Phase.WARMUP, Phase.PUBLISHING, Phase.LOADING}
    assert [set(each.phase_seconds) for each in history[1:]] == [set(ITERATION)] * 3
    assert history[2].metrics["reward"] == 1.0
    assert history[2].metrics["loss"] == 0.5
    assert {each.pod for each in await buffer.activities()} == {"sums-hybrid-0", "sums-hybrid-1", "master"}


async def test_old_acknowledgements_and_versions_go(store: Store, keys: JobKeys, buffer: ReplayBuffer) -> None:
    job = build_job("spec.iterations=5")
    async with Members(store, keys, job, buffer), start_master(store, keys, job, buffer) as master:
        await asyncio.wait_for(master.driver.run(), 30)
    acks = await store.list_prefix(keys.all_acks, Ack)
    assert {name.split("/")[0] for name in acks} == {"00000005"}
    response = await store.kv.get(keys.weights, range_end=prefix_range_end(keys.weights))
    versions = {kv.key.decode().removeprefix(keys.weights) for kv in response.kvs}
    assert {name.split("/")[0] for name in versions} == {"00000004", "00000005"}


@pytest.mark.parametrize("phase", [Phase.WARMUP, *ITERATION, Phase.DONE])
async def test_a_second_master_goes_on_in_any_phase(
    store: Store, keys: JobKeys, buffer: ReplayBuffer, phase: Phase
) -> None:
    iteration = {Phase.WARMUP: 0, Phase.DONE: 3}.get(phase, 2)
    job, hold = build_job(), asyncio.Event()
    async with (
        Members(store, keys, job, buffer) as members,
        start_master(store, keys, job, buffer, hold, hold_from=iteration) as first,
    ):
        if phase != Phase.ROLLOUT:
            hold.set()
        running = asyncio.create_task(first.driver.run())
        if phase != Phase.ROLLOUT:
            members.stop_at(phase, iteration)
        async with Mirror(store, keys.phase, PhaseRecord) as mirror:
            await mirror.wait_for(is_at(phase, iteration), 20)
        running.cancel()
        await asyncio.wait([running])
        await first.die()
        members.go_on()
        async with start_master(store, keys, job, buffer) as second:
            assert second.leadership.token > first.leadership.token
            record = await asyncio.wait_for(second.driver.run(), 30)
    assert (record.phase, record.iteration) == (Phase.DONE, 3)
    assert members.trained == {0: [1, 2, 3], 1: [1, 2, 3]}
    # Iteration 0 has no batch: what the report says of it is written behind, and may be lost with the first master.
    assert [each.iteration for each in await buffer.iterations() if each.iteration] == [1, 2, 3]


async def test_a_resumed_job_begins_with_warmup_where_it_was(store: Store, keys: JobKeys, buffer: ReplayBuffer) -> None:
    job = build_job()
    await store.put(keys.control, Control(stop=True, reason="the cluster needs the devices"))
    async with Members(store, keys, job, buffer), start_master(store, keys, job, buffer) as first:
        record = await asyncio.wait_for(first.driver.run(), 30)
    assert (record.phase, record.iteration) == (Phase.DONE, 0)
    assert record.stopped
    assert "the cluster needs the devices" in record.reason
    await store.delete_prefix(keys.prefix)
    await buffer.record_batch(1, batch_of(1), [])
    async with Members(store, keys, job, buffer) as members, start_master(store, keys, job, buffer) as second:
        record = await asyncio.wait_for(second.driver.run(), 30)
    assert (record.phase, record.iteration) == (Phase.DONE, 3)
    assert members.trained[0] == [1, 2, 3]
    assert members.phases[0] == (Phase.WARMUP, 1)  # where the newest batch is trained, if it was not


async def test_a_write_that_is_cancelled_keeps_nobody_out(buffer: ReplayBuffer) -> None:
    """A transaction that stayed open would keep the next writer waiting for half a minute."""
    for iteration in range(1, 151):
        rollouts = QuickRollouts(buffer)
        await rollouts.start(iteration)
        closing = asyncio.create_task(rollouts.close(iteration, 200))
        await asyncio.sleep(0.0002 * (iteration % 50))
        closing.cancel()
        await asyncio.wait([closing])
        async with asyncio.timeout(10):
            await QuickRollouts(buffer).start(iteration + 1)


async def test_lost_answers_are_generated_again(store: Store, keys: JobKeys, buffer: ReplayBuffer) -> None:
    """A master was killed in Draining before it had saved any answer."""
    job = build_job()
    record = PhaseRecord(iteration=1, phase=Phase.DRAINING, version=0, token=1, started_at=0.0)
    await store.put(keys.phase, record)
    void = Ack(member="sidecar-sums-hybrid-0", iteration=1, phase=Phase.DRAINING)
    await store.put(keys.ack(1, Phase.DRAINING, void.member), void)
    async with Members(store, keys, job, buffer) as members, start_master(store, keys, job, buffer) as master:
        final = await asyncio.wait_for(master.driver.run(), 30)
    assert final.phase == Phase.DONE
    assert members.loaded[0] == 0
    assert members.trained[0] == [1, 2, 3]


async def test_the_deadline_names_the_rank_that_is_missing(store: Store, keys: JobKeys, buffer: ReplayBuffer) -> None:
    job = build_job("spec.deadlines.training=0.5")
    silent = {("trainer-1", Phase.TRAINING)}
    async with Members(store, keys, job, buffer, silent=silent), start_master(store, keys, job, buffer) as master:
        record = await asyncio.wait_for(master.driver.run(), 30)
    assert record.phase == Phase.FAILED
    assert "trainer-1" in record.reason
    assert "trainer-0" not in record.reason
    assert (await summary_of(store, keys)).message == record.reason


async def test_members_that_never_come_are_named(store: Store, keys: JobKeys, buffer: ReplayBuffer) -> None:
    job = build_job("spec.deadlines.startup=0.3")
    async with start_master(store, keys, job, buffer) as master:
        record = await asyncio.wait_for(master.driver.run(), 30)
    assert record.phase == Phase.FAILED
    assert "trainer-0, trainer-1, sidecar-sums-hybrid-0, sidecar-sums-hybrid-1" in record.reason


@pytest.mark.parametrize("come", [True, False])
async def test_no_deadline_runs_while_pods_wait_for_a_place(
    store: Store, keys: JobKeys, buffer: ReplayBuffer, come: bool
) -> None:
    job = build_job("spec.deadlines.startup=0.5")
    await store.put(keys.control, Control(pods_wait=True))
    async with start_master(store, keys, job, buffer) as master, AsyncExitStack() as stack:
        running = asyncio.create_task(master.driver.run())
        await asyncio.sleep(2)
        assert not running.done()
        if come:
            await stack.enter_async_context(Members(store, keys, job, buffer))
        await store.put(keys.control, Control())
        record = await asyncio.wait_for(running, 30)
    assert record.phase == (Phase.DONE if come else Phase.FAILED)


async def test_a_member_that_fails_ends_the_job_with_its_reason(
    store: Store, keys: JobKeys, buffer: ReplayBuffer
) -> None:
    job = build_job()
    failing = {("trainer-1", Phase.PUBLISHING): "/dev/shm is full"}
    async with Members(store, keys, job, buffer, failing=failing), start_master(store, keys, job, buffer) as master:
        record = await asyncio.wait_for(master.driver.run(), 30)
    assert record.phase == Phase.FAILED
    assert "/dev/shm is full" in record.reason
    assert await store.get(keys.newest_commit, Commit) is None


async def test_loading_goes_on_without_a_straggler(store: Store, keys: JobKeys, buffer: ReplayBuffer) -> None:
    job = build_job("spec.deadlines.loading=0.3")
    silent = {("sidecar-sums-hybrid-1", Phase.LOADING)}
    async with Members(store, keys, job, buffer, silent=silent), start_master(store, keys, job, buffer) as master:
        record = await asyncio.wait_for(master.driver.run(), 30)
    assert record.phase == Phase.DONE


async def test_a_version_that_no_engine_can_load_is_published_again(
    store: Store, keys: JobKeys, buffer: ReplayBuffer
) -> None:
    job = build_job()
    async with (
        Members(store, keys, job, buffer, damaged={2: 2}) as members,
        start_master(store, keys, job, buffer) as master,
    ):
        record = await asyncio.wait_for(master.driver.run(), 30)
    assert (record.phase, record.iteration) == (Phase.DONE, 3)
    assert [each for each in members.phases if each[1] == 2 and each[0] in (Phase.PUBLISHING, Phase.LOADING)] == [
        *[(Phase.PUBLISHING, 2), (Phase.LOADING, 2)] * 3
    ]
    assert members.trained == {0: [1, 2, 3], 1: [1, 2, 3]}
    assert [set(each.phase_seconds) for each in (await buffer.iterations())[1:]] == [set(ITERATION)] * 3


async def test_a_version_that_stays_damaged_ends_the_job(store: Store, keys: JobKeys, buffer: ReplayBuffer) -> None:
    job = build_job()
    members = Members(store, keys, job, buffer, damaged={0: 100})
    async with members, start_master(store, keys, job, buffer) as master:
        record = await asyncio.wait_for(master.driver.run(), 30)
    assert record.phase == Phase.FAILED
    assert "a wrong byte" in record.reason


async def test_parts_of_two_starts_of_the_trainer_are_not_committed(
    store: Store, keys: JobKeys, buffer: ReplayBuffer
) -> None:
    job = build_job("spec.iterations=1")
    members = Members(store, keys, job, buffer, incarnations={1: "second"})
    async with members, start_master(store, keys, job, buffer) as master:
        running = asyncio.create_task(master.driver.run())
        async with Mirror(store, keys.acks(0, Phase.PUBLISHING), Ack) as acks:
            await acks.wait_for(lambda values: len(values) == 2, 10)
        done, _ = await asyncio.wait([running], timeout=0.3)
        assert not done
        assert await store.get(keys.newest_commit, Commit) is None
        members.incarnations.clear()
        await store.put(keys.manifest_part(0, 1), build_part(0, 1, 2))
        record = await asyncio.wait_for(running, 30)
    assert record.phase == Phase.DONE


async def test_a_deposed_master_writes_nothing(store: Store, keys: JobKeys, buffer: ReplayBuffer) -> None:
    job, hold = build_job(), asyncio.Event()
    async with Members(store, keys, job, buffer), start_master(store, keys, job, buffer, hold) as old:
        running = asyncio.create_task(old.driver.run())
        async with Mirror(store, keys.phase, PhaseRecord) as mirror:
            await mirror.wait_for(lambda values: "" in values and values[""].phase == Phase.ROLLOUT, 20)
        async with Leadership(store, keys, "sums-master-0") as new:
            hold.set()
            with pytest.raises(LeadershipLost):
                await asyncio.wait_for(running, 20)
            record = await store.get(keys.phase, PhaseRecord)
            assert record is not None
            assert (record.phase, record.token) == (Phase.ROLLOUT, old.leadership.token)
            assert new.token > old.leadership.token
