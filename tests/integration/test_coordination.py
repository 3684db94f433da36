"""Coordination against a real etcd, which is also killed and compacted."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
from tandem_core.coordination.barrier import AckError, BarrierTimeout, wait_for_acks
from tandem_core.coordination.keys import JobKeys
from tandem_core.coordination.leadership import Leadership, LeadershipLost
from tandem_core.coordination.membership import Membership, new_member
from tandem_core.coordination.mirror import Mirror
from tandem_core.coordination.records import Ack, Control, EngineState, EngineStatus, Member, PhaseRecord, Role
from tandem_core.coordination.store import EtcdUnreachable, Store
from tandem_core.phases import Phase

from tools.free_ports import find_free_port

from .conftest import EtcdServer


def phase_record(iteration: int, token: int = 0) -> PhaseRecord:
    return PhaseRecord(iteration=iteration, phase=Phase.ROLLOUT, version=0, token=token, started_at=0.0)


def at(iteration: int) -> Callable[[Mapping[str, PhaseRecord]], bool]:
    """Whether the mirrored phase has come to `iteration`."""
    return lambda values: "" in values and values[""].iteration == iteration


def ack(rank: int, error: str = "") -> Ack:
    return Ack(member=f"trainer-{rank}", iteration=1, phase=Phase.TRAINING, error=error)


async def test_a_record_comes_back_as_it_was_put(store: Store, keys: JobKeys) -> None:
    assert await store.get(keys.control, Control) is None
    await store.put(keys.control, Control(stop=True, reason="because"))
    assert await store.get(keys.control, Control) == Control(stop=True, reason="because")
    await store.delete_prefix(keys.prefix)
    assert await store.list_prefix(keys.prefix, Control) == {}


async def test_an_absent_etcd_is_named_after_the_deadline() -> None:
    endpoint = f"127.0.0.1:{find_free_port()}"
    async with Store(endpoint) as store:
        with pytest.raises(EtcdUnreachable, match=endpoint):
            await store.wait_until_reachable(0.5)


async def test_a_mirror_sees_puts_and_deletes(store: Store, keys: JobKeys) -> None:
    await store.put(keys.ack(1, Phase.TRAINING, "trainer-0"), ack(0))
    async with Mirror(store, keys.acks(1, Phase.TRAINING), Ack) as mirror:
        assert set(mirror.values) == {"trainer-0"}
        await store.put(keys.ack(1, Phase.TRAINING, "trainer-1"), ack(1))
        await mirror.wait_for(lambda values: len(values) == 2, 5)
        await store.delete(keys.ack(1, Phase.TRAINING, "trainer-0"))
        await mirror.wait_for(lambda values: set(values) == {"trainer-1"}, 5)
        with pytest.raises(TimeoutError):
            await mirror.next_change(0.05)


async def test_a_mirror_lists_again_after_compaction(store: Store, keys: JobKeys) -> None:
    async with Mirror(store, keys.phase, PhaseRecord) as mirror:
        for iteration in range(20):
            await store.put(keys.phase, phase_record(iteration))
        _, revision = await store.snapshot(keys.phase, PhaseRecord)
        await store.kv.compact(revision)
        restarted = asyncio.create_task(mirror._watch(1))  # a watch that asks for compacted revisions ends
        await asyncio.wait_for(restarted, 5)
        await store.put(keys.phase, phase_record(99))
        await mirror.wait_for(at(99), 5)


async def test_everything_goes_on_after_etcd_was_killed(tmp_path: Path, keys: JobKeys) -> None:
    server = EtcdServer(tmp_path / "etcd")
    server.start()
    try:
        async with Store(server.endpoint) as store:
            await store.wait_until_reachable(30)
            member = new_member(Role.TRAINER, "0", "pod")
            async with (
                Membership(store, keys, member, ttl_seconds=2),
                Leadership(store, keys, "master") as leader,
                Mirror(store, keys.phase, PhaseRecord) as phase,
                Mirror(store, keys.members, Member) as members,
            ):
                await leader.put(keys.phase, phase_record(1))
                server.kill()
                write = asyncio.create_task(leader.put(keys.phase, phase_record(2)))
                await asyncio.sleep(1)  # the outage itself
                server.start()
                await asyncio.wait_for(write, 30)
                await phase.wait_for(at(2), 30)
                await members.wait_for(lambda values: "trainer/0" in values, 30)
    finally:
        server.kill()


async def test_a_watch_that_breaks_as_it_is_asked_for_is_asked_for_again(
    store: Store, keys: JobKeys, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert store.client.watch is not None
    watch = store.client.watch.watch
    broken = grpc.aio.AioRpcError(grpc.StatusCode.INTERNAL, grpc.aio.Metadata(), grpc.aio.Metadata())

    async def watch_once_broken(*arguments: Any, **options: Any) -> AsyncIterator[Any]:
        monkeypatch.undo()
        await store.put(keys.phase, phase_record(2))  # missed by the watch that is about to break
        raise broken
        yield

    monkeypatch.setattr(store.client.watch, "watch", watch_once_broken)
    async with Mirror(store, keys.phase, PhaseRecord) as phase:
        await phase.wait_for(at(2), 10)
        assert store.client.watch.watch == watch
        await store.put(keys.phase, phase_record(3))
        await phase.wait_for(at(3), 10)


async def test_a_member_goes_when_its_process_stops_renewing(store: Store, keys: JobKeys) -> None:
    async with Mirror(store, keys.members, Member) as members:
        membership = Membership(store, keys, new_member(Role.INFERENCE, "pod-0", "pod-0"), ttl_seconds=1)
        await membership.__aenter__()
        await membership.update(engine=EngineStatus(url="http://x", state=EngineState.SERVING, version=3))
        seen = await members.wait_for(lambda values: values.get("inference/pod-0"), 5)
        await members.wait_for(lambda values: "inference/pod-0" in values and bool(values["inference/pod-0"].engine), 5)
        assert seen.incarnation
        assert membership._task is not None
        membership._task.cancel()  # as if the process were killed
        await members.wait_for(lambda values: not values, 10)


async def test_a_member_registers_again_when_its_lease_was_lost(store: Store, keys: JobKeys) -> None:
    async with (
        Mirror(store, keys.members, Member) as members,
        Membership(store, keys, new_member(Role.TRAINER, "0", "pod"), ttl_seconds=1) as membership,
    ):
        assert store.client.lease is not None
        await store.client.lease.revoke(membership._lease)
        await members.wait_for(lambda values: not values, 5)
        await members.wait_for(lambda values: "trainer/0" in values, 10)


async def test_a_deposed_leader_cannot_write(store: Store, keys: JobKeys) -> None:
    async with Leadership(store, keys, "master-0") as old, Leadership(store, keys, "master-0") as new:
        assert new.token > old.token
        await new.put(keys.phase, phase_record(1))
        with pytest.raises(LeadershipLost, match="master-0"):
            await old.put(keys.phase, phase_record(2))
        record = await store.get(keys.phase, PhaseRecord)
        assert record is not None
        assert record.iteration == 1


async def test_another_leader_waits_for_the_lease_to_end(store: Store, keys: JobKeys) -> None:
    other = Leadership(store, keys, "master-1")
    async with Leadership(store, keys, "master-0"):
        waiting = asyncio.create_task(other.__aenter__())
        done, _ = await asyncio.wait([waiting], timeout=0.3)
        assert not done
    await asyncio.wait_for(waiting, 5)
    await other.__aexit__(None, None, None)


async def test_a_barrier_names_who_is_missing(store: Store, keys: JobKeys) -> None:
    async with Mirror(store, keys.acks(1, Phase.TRAINING), Ack) as acks:
        await store.put(keys.ack(1, Phase.TRAINING, "trainer-0"), ack(0))
        with pytest.raises(BarrierTimeout, match="trainer-1") as caught:
            await wait_for_acks(acks, ["trainer-0", "trainer-1"], 0.2)
        assert caught.value.missing == ("trainer-1",)
        await store.put(keys.ack(1, Phase.TRAINING, "trainer-1"), ack(1))
        assert set(await wait_for_acks(acks, ["trainer-0", "trainer-1"], 5)) == {"trainer-0", "trainer-1"}


async def test_a_barrier_ends_at_once_when_a_member_failed(store: Store, keys: JobKeys) -> None:
    async with Mirror(store, keys.acks(1, Phase.TRAINING), Ack) as acks:
        await store.put(keys.ack(1, Phase.TRAINING, "trainer-0"), ack(0, error="disk full"))
        with pytest.raises(AckError, match="disk full"):
            await wait_for_acks(acks, ["trainer-0", "trainer-1"], 30)
