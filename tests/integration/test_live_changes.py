"""What may change while a job runs, and what is told of it, with a real etcd and replay buffer."""

import asyncio

import pytest
from tandem_core.coordination.keys import JobKeys
from tandem_core.coordination.mirror import Mirror
from tandem_core.coordination.records import Control, PhaseRecord
from tandem_core.coordination.store import Store
from tandem_core.phases import Phase
from tandem_rollout.storage.replay_buffer import ReplayBuffer

from .phase_members import Members, build_job
from .test_phase_driver import buffer, is_at, start_master, summary_of

__all__ = ["buffer"]  # a fixture


@pytest.mark.parametrize(
    ("asked", "last"),
    [pytest.param(5, 5, id="more"), pytest.param(2, 2, id="fewer"), pytest.param(1, 2, id="fewer than are behind it")],
)
async def test_the_number_of_iterations_changes_while_the_job_runs(
    store: Store, keys: JobKeys, buffer: ReplayBuffer, asked: int, last: int
) -> None:
    job, hold = build_job("spec.evaluation.every=0"), asyncio.Event()
    hold.set()
    async with Members(store, keys, job, buffer) as members, start_master(store, keys, job, buffer, hold) as master:
        members.stop_at(Phase.TRAINING, 2)
        running = asyncio.create_task(master.driver.run())
        async with Mirror(store, keys.phase, PhaseRecord) as mirror:
            await mirror.wait_for(is_at(Phase.TRAINING, 2), 20)
        deadlines = job.spec.deadlines.model_copy(update={"rollout": 7.0})
        await store.put(keys.control, Control(iterations=asked, deadlines=deadlines))
        await master.control.wait_for(lambda values: bool(values), 10)
        members.go_on()
        await members.acknowledge_again()
        record = await asyncio.wait_for(running, 30)
    assert (record.phase, record.iteration, record.stopped, record.reason) == (Phase.DONE, last, False, "")
    assert members.trained[0] == list(range(1, last + 1))
    assert master.evaluation.iterations == [0, last]
    assert master.rollouts.deadlines == [20.0] * 2 + [7.0] * (last - 2)
    assert (await summary_of(store, keys)).iterations == asked


async def test_a_job_that_was_done_is_not_begun_again_by_more_iterations(
    store: Store, keys: JobKeys, buffer: ReplayBuffer
) -> None:
    """Its pods have gone: nobody would come."""
    job = build_job("spec.iterations=1")
    async with Members(store, keys, job, buffer), start_master(store, keys, job, buffer) as first:
        await asyncio.wait_for(first.driver.run(), 30)
        await store.put(keys.control, Control(iterations=3))
        async with start_master(store, keys, job, buffer) as second:
            record = await asyncio.wait_for(second.driver.run(), 30)
    assert (record.phase, record.iteration) == (Phase.DONE, 1)


async def test_the_summary_says_what_the_switches_took(store: Store, keys: JobKeys, buffer: ReplayBuffer) -> None:
    job = build_job("spec.iterations=1")
    async with Members(store, keys, job, buffer), start_master(store, keys, job, buffer) as master:
        await asyncio.wait_for(master.driver.run(), 30)
    summary, (_, seconds) = await summary_of(store, keys), [each.phase_seconds for each in await buffer.iterations()]
    assert summary.infer_to_train_seconds == pytest.approx(seconds[Phase.DRAINING])
    assert summary.train_to_infer_seconds == pytest.approx(seconds[Phase.PUBLISHING] + seconds[Phase.LOADING])
