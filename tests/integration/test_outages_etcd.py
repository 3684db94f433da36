"""etcd is stopped for longer than any lease lasts, or killed: who led, leads, and nobody starts anew."""

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio
from tandem_core.coordination.keys import JobKeys
from tandem_core.coordination.leadership import Leadership, LeadershipLost
from tandem_core.coordination.membership import Membership, new_member
from tandem_core.coordination.mirror import Mirror
from tandem_core.coordination.records import Control, EngineState, EngineStatus, Member, Role
from tandem_core.coordination.store import Store

from .conftest import EtcdServer

TTL_SECONDS = 1


@pytest.fixture
def own_etcd(tmp_path: Path) -> Iterator[EtcdServer]:
    """An etcd that only this test stops."""
    server = EtcdServer(tmp_path / "etcd")
    server.start()
    yield server
    server.kill()


@pytest_asyncio.fixture
async def own_store(own_etcd: EtcdServer) -> AsyncIterator[Store]:
    async with Store(own_etcd.endpoint) as store:
        await store.wait_until_reachable(30)
        yield store


@contextlib.asynccontextmanager
async def stopped(server: EtcdServer, seconds: float) -> AsyncIterator[None]:
    """etcd answers nobody for so long; the block runs meanwhile."""
    assert server.process is not None
    server.process.send_signal(signal.SIGSTOP)
    try:
        yield
        await asyncio.sleep(seconds)  # the outage itself
    finally:
        server.process.send_signal(signal.SIGCONT)


async def test_a_leader_whose_lease_ran_out_goes_on_under_its_token(
    own_etcd: EtcdServer, own_store: Store, keys: JobKeys
) -> None:
    async with (
        Leadership(own_store, keys, "master", ttl_seconds=TTL_SECONDS) as leader,
        Mirror(own_store, keys.leader, Control) as lease,
    ):
        token = leader.token
        async with stopped(own_etcd, 6 * TTL_SECONDS):
            write = asyncio.create_task(leader.put(keys.control, Control(reason="during")))
        await asyncio.wait_for(write, 30)
        await leader.put(keys.control, Control(reason="after"))
        await lease.wait_for(lambda values: bool(values), 30)
        assert (leader.token, leader.lost.is_set()) == (token, False)
        other = asyncio.create_task(Leadership(own_store, keys, "another master").__aenter__())
        done, _ = await asyncio.wait([other], timeout=2 * TTL_SECONDS)
        assert not done
        other.cancel()


async def test_a_leader_that_was_followed_while_its_lease_had_run_out_is_deposed(store: Store, keys: JobKeys) -> None:
    async with Leadership(store, keys, "master-0", ttl_seconds=TTL_SECONDS) as old:
        assert store.client.lease is not None
        await store.client.lease.revoke(old._lease)
        async with Leadership(store, keys, "master-1") as new:
            assert new.token > old.token
            await asyncio.wait_for(old.lost.wait(), 30)
            with pytest.raises(LeadershipLost):
                await old.put(keys.control, Control(stop=True))
            await new.put(keys.control, Control(reason="mine"))


async def test_members_are_back_after_an_outage_as_who_they_were(
    own_etcd: EtcdServer, own_store: Store, keys: JobKeys
) -> None:
    member = new_member(Role.SIDECAR, "pod-0", "pod-0")
    serving = EngineStatus(url="http://x", state=EngineState.SERVING, version=3)
    async with (
        Mirror(own_store, keys.members, Member) as members,
        Membership(own_store, keys, member, ttl_seconds=TTL_SECONDS) as membership,
    ):
        async with stopped(own_etcd, 6 * TTL_SECONDS):
            update = asyncio.create_task(membership.update(engine=serving))
        await asyncio.wait_for(update, 30)
        back = await members.wait_for(
            lambda values: values.get("sidecar/pod-0") if membership._lease else None, timeout_seconds=30
        )
        assert (back.incarnation, back.engine) == (member.incarnation, serving)
