"""What puts the deadline of a phase off."""

import asyncio
from pathlib import Path

import httpx
import pytest
from tandem_core.coordination.barrier import BarrierTimeout
from tandem_core.coordination.keys import JobKeys
from tandem_core.coordination.mirror import Mirror
from tandem_core.coordination.records import Member
from tandem_core.coordination.store import Store
from tandem_core.phases import Phase
from tandem_rollout.api import Presence, build_api
from tandem_rollout.phase_barriers import PhaseBarriers
from tandem_rollout.storage.replay_buffer import ReplayBuffer, sqlite_url

from .phase_members import build_job

BATCHES = 20


async def test_ranks_that_catch_up_batch_by_batch_have_the_time_for_each(
    store: Store, keys: JobKeys, tmp_path: Path
) -> None:
    job, header = build_job("spec.deadlines.publishing=2"), {"Authorization": "Bearer token"}
    async with (
        ReplayBuffer(sqlite_url(tmp_path / "replay.db"), "job") as buffer,
        Mirror(store, keys.members, Member) as members,
    ):
        for iteration in range(1, BATCHES + 1):
            await buffer.record_batch(iteration, b"a batch", [])
        presence = Presence("token", buffer=buffer)
        api = httpx.ASGITransport(build_api(presence))
        async with (
            PhaseBarriers(job, store, keys, members, batches_asked=lambda: presence.batches_asked) as barriers,
            httpx.AsyncClient(transport=api, base_url="http://master", headers=header) as rank,
        ):
            waiting = asyncio.create_task(barriers.wait_for_trainers(Phase.PUBLISHING, BATCHES))
            for iteration in range(1, BATCHES + 1):
                assert (await rank.get(f"/v1/batches/{iteration}")).content == b"a batch"
                await asyncio.sleep(0.25)
            assert not waiting.done()
            with pytest.raises(BarrierTimeout, match="trainer-0"):
                await asyncio.wait_for(waiting, 30)
