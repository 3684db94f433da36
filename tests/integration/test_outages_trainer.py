"""A trainer rank whose shared memory or disk is full, and whose newest checkpoint is damaged."""

import asyncio
import re
import signal
from pathlib import Path

import pytest
from tandem_core.coordination.keys import JobKeys
from tandem_core.coordination.membership import Membership, new_member
from tandem_core.coordination.mirror import Mirror
from tandem_core.coordination.records import Member, Role
from tandem_core.coordination.store import Store
from tandem_core.phases import Phase

from .trainer_rank import BatchServer, Master, RankBuilder

LITTLE = 1 << 16
"""Bytes: enough for logs, not for weights."""


async def problem(store: Store, keys: JobKeys, pattern: str) -> None:
    """Return when the rank says something like `pattern`; with an empty one, when it says nothing."""
    async with Mirror(store, keys.members, Member) as members:
        await members.wait_for(
            lambda values: "trainer/0" in values and re.fullmatch(pattern, values["trainer/0"].problem), 60
        )


@pytest.mark.slow
async def test_a_rank_goes_on_through_full_memory_a_full_disk_and_a_damaged_checkpoint(
    store: Store, keys: JobKeys, batch_server: BatchServer, ranks: RankBuilder
) -> None:
    rank = ranks(keys, every=1)
    master = Master(store, keys, rank)
    member = new_member(Role.MASTER, "sums-master-0", "sums-master-0", url=batch_server.url)
    async with Membership(store, keys, member):
        rank.start()
        await master.carry_out(Phase.WARMUP, 0)
        rank.limit_files(LITTLE)
        await master.begin(Phase.PUBLISHING, 0)
        await problem(store, keys, r"shared memory in .* is full: rank-0\.bin needs \d+ bytes more.*")
        rank.limit_files(-1)
        await master.acknowledged(Phase.PUBLISHING, 0)
        await problem(store, keys, "")
        await master.carry_out_until((Phase.PUBLISHING, 2), after=(Phase.PUBLISHING, 0))

        rank.limit_files(LITTLE)
        # After Publishing it begins the next checkpoint, for which it waits for the one before, however slow.
        await master.carry_out_until((Phase.LOADING, 4), after=(Phase.PUBLISHING, 2))
        await problem(store, keys, r"(?s)the checkpoint .* cannot be written .*Make room.*")
        await asyncio.to_thread(rank.end, signal.SIGKILL)

        kept = complete(rank.checkpoints)
        assert kept in ([0, 1], [1, 2])
        damage(newest(rank.checkpoints))
        batch_server.asked.clear()
        rank.start()
        await master.carry_out_until((Phase.DONE, 4), after=(Phase.TRAINING, 4))
        assert await asyncio.to_thread(rank.process.wait, 30) == 0, rank.log.read_text()
        assert "is damaged and not used" in rank.log.read_text()
        assert batch_server.asked == [f"/v1/batches/{n}" for n in range(kept[0] + 1, 5)]
        assert complete(rank.checkpoints)[-1] == 4


def complete(checkpoints: Path) -> list[int]:
    """Iterations of the complete checkpoints; there are no others, but for the newest."""
    directories = sorted((checkpoints / "state").iterdir())
    return [int(directory.name[:8]) - 1 for directory in directories if (directory / "complete.json").exists()]


def newest(checkpoints: Path) -> Path:
    return sorted((checkpoints / "state").glob("*/complete.json"))[-1].parent


def damage(checkpoint: Path) -> None:
    """Flip one bit: Megatron alone would load it."""
    file = next(checkpoint.glob("*.distcp"))
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
