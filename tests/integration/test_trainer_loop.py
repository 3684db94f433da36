"""A real trainer rank (Megatron, hidden size 64) against a real etcd and a small master in the test."""

import asyncio
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
import xxhash
from tandem_core.coordination.barrier import AckError
from tandem_core.coordination.keys import JobKeys
from tandem_core.coordination.membership import Membership, new_member
from tandem_core.coordination.records import Role
from tandem_core.coordination.store import Store
from tandem_core.phases import Phase
from tandem_core.weights.manifest import ManifestPart
from tandem_trainer.batch_client import BatchClient, BatchUnavailable

from .trainer_rank import ITERATIONS, TOKEN, BatchServer, Master, Rank, RankBuilder, build_training_batch


@pytest.mark.slow
async def test_a_killed_rank_replays_and_ends_with_the_same_weights(
    store: Store, batch_server: BatchServer, ranks: RankBuilder
) -> None:
    parts, models = [], []
    for uid, run in (("straight", run_straight), ("interrupted", run_with_interruptions)):
        keys = JobKeys(uid)
        async with Membership(
            store, keys, new_member(Role.MASTER, "sums-master-0", "sums-master-0", url=batch_server.url)
        ):
            rank = ranks(keys)
            master = Master(store, keys, rank)
            await run(master, rank, batch_server)
            print(uid, {name: round(1e3 * seconds, 1) for name, seconds in master.seconds.items()}, "ms")
        parts.append(await master.part(ITERATIONS))
        models.append((rank.checkpoints / "model" / "model.safetensors").read_bytes())
    assert parts[0].slices == parts[1].slices
    assert models[0] == models[1]


async def run_straight(master: Master, rank: Rank, server: BatchServer) -> None:
    server.away = 2
    rank.start()
    await master.carry_out_until((Phase.DONE, ITERATIONS))
    assert await asyncio.to_thread(rank.process.wait, 30) == 0, rank.log.read_text()
    assert [path for path in server.asked if "batches" in path] == [f"/v1/batches/{n}" for n in (1, 2, 3, 4)]

    training = await master.acknowledged(Phase.TRAINING, 2)
    assert {"loss", "gradient_norm", "train_seconds"} <= training.measurements.keys()
    assert [activity.name for activity in training.activities] == ["train"]
    publishing = await master.acknowledged(Phase.PUBLISHING, 2)
    assert [activity.name for activity in publishing.activities] == ["publish"]
    part = await master.part(2)
    assert publishing.measurements["published_bytes"] == sum(piece.size_bytes for piece in part.slices)
    assert (part.file, part.pod) == ("weights/0/rank-0.bin", "sums-hybrid-0")
    assert (await master.acknowledged(Phase.TRAINING, 4)).measurements["oldest_checkpoint"] == 0
    assert {piece.checksum for piece in part.slices} != {piece.checksum for piece in (await master.part(3)).slices}


async def run_with_interruptions(master: Master, rank: Rank, server: BatchServer) -> None:
    """Killed in the middle of iteration 2, when 1 has no checkpoint yet; asked to end in Rollout of 4."""
    rank.start()
    await master.carry_out_until((Phase.DRAINING, 2))
    asked = threading.Event()
    server.on_request = lambda path: asked.set() if path == "/v1/batches/2" else None
    await master.begin(Phase.TRAINING, 2)
    assert await asyncio.to_thread(asked.wait, 30)
    await asyncio.to_thread(rank.end, signal.SIGKILL)
    server.on_request = lambda path: None
    (rank.shm_dir / "weights/1/rank-0.bin").unlink()

    rank.start()
    await master.acknowledged(Phase.TRAINING, 2)
    await master.carry_out_until((Phase.ROLLOUT, 4), after=(Phase.TRAINING, 2))
    before = await master.part(3)
    assert await asyncio.to_thread(rank.end, signal.SIGTERM) == 128 + signal.SIGTERM
    (rank.shm_dir / before.file).unlink()  # as if the pod had been lost with its memory

    asked_before = len(server.asked)
    rank.start()
    await wait_for(lambda: holds(rank.shm_dir, before), "the committed version's return to shared memory")
    assert await master.part(3) == before
    await master.carry_out_until((Phase.DONE, ITERATIONS), after=(Phase.ROLLOUT, 4))
    assert await asyncio.to_thread(rank.process.wait, 30) == 0, rank.log.read_text()
    assert server.asked[asked_before:] == ["/v1/batches/4"]


def holds(shm_dir: Path, part: ManifestPart) -> bool:
    path = shm_dir / part.file
    content = path.read_bytes() if path.exists() else b""
    return len(content) == part.file_bytes and all(
        xxhash.xxh3_64_hexdigest(content[piece.offset : piece.offset + piece.size_bytes]) == piece.checksum
        for piece in part.slices
    )


async def wait_for(condition: Callable[[], bool], what: str, timeout_seconds: float = 60) -> None:
    deadline = time.monotonic() + timeout_seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not happen"
        await asyncio.sleep(0.05)


async def test_an_error_for_the_user_is_acknowledged(store: Store, keys: JobKeys, ranks: RankBuilder) -> None:
    rank = ranks(keys, "path: /absent")
    master = Master(store, keys, rank)
    rank.start()
    await master.begin(Phase.WARMUP, 0)
    with pytest.raises(AckError, match="/absent: it does not exist"):
        await master.acknowledged(Phase.WARMUP, 0)
    assert await asyncio.to_thread(rank.process.wait, 30) == 3


def test_batches_are_asked_for_again_while_the_master_starts(batch_server: BatchServer) -> None:
    batch_server.away = 3
    with BatchClient(lambda: batch_server.url, TOKEN) as batches:
        batch = batches.fetch_batch(2, 10)
    assert batch.encode() == build_training_batch(2).encode()
    assert len(batch_server.asked) == 4


@pytest.mark.parametrize(
    ("token", "iteration", "expected"),
    [(TOKEN, 5, "has no /v1/batches/5: not recorded"), ("wrong", 1, "with 401: no")],
)
def test_a_batch_that_will_not_come_is_an_error_at_once(
    batch_server: BatchServer, token: str, iteration: int, expected: str
) -> None:
    with BatchClient(lambda: batch_server.url, token) as batches, pytest.raises(BatchUnavailable, match=expected):
        batches.fetch_batch(iteration, 10)
    assert len(batch_server.asked) == 1


def test_a_master_that_stays_away_is_named(batch_server: BatchServer) -> None:
    batch_server.close()
    with (
        BatchClient(lambda: batch_server.url, TOKEN) as batches,
        pytest.raises(BatchUnavailable, match="did not answer") as caught,
    ):
        batches.fetch_batch(1, 0.2)
    assert isinstance(caught.value.__cause__, httpx.TransportError)
