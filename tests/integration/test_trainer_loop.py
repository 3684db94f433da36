"""A real trainer rank (Megatron, hidden size 64) against a real etcd and a small master in the test."""

import asyncio
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import numpy as np
import pytest
import xxhash
from tandem_core.batches import TrainingBatch
from tandem_core.coordination.barrier import AckError, wait_for_acks
from tandem_core.coordination.keys import JobKeys
from tandem_core.coordination.membership import Membership, new_member
from tandem_core.coordination.mirror import Mirror
from tandem_core.coordination.records import Ack, PhaseRecord, Role
from tandem_core.coordination.store import Store
from tandem_core.phases import Phase, next_phase
from tandem_core.weights.manifest import ManifestPart
from tandem_trainer.batch_client import BatchClient, BatchUnavailable

TOKEN = "secret"
ITERATIONS = 4
JOB = """
apiVersion: tandem.dev/v1alpha1
kind: RLJob
metadata: {name: sums}
spec:
  iterations: 4
  model:
    MODEL
  data:
    dataset: {path: unused.jsonl}
  rewards:
    scorers: [{type: exact}]
  warmup: {steps: 3, learningRate: 0.001}
  algorithm: {loss: omd, learningRate: 0.001}
  rollout: {prompts: 4, groupSize: 2, maxTokens: 8}
  hybrid:
    device: cpu
    trainer: {precision: fp32, threads: 1}
    inference: {release: none, kvCacheBytes: 67108864}
  checkpoint: {every: 10}
  deadlines: {startup: 60, training: 60}
"""
SCRATCH = 'scratch: {hiddenSize: 64, intermediateSize: 128, layers: 2, tokenizer: {tokens: ["0", "1", "2", "3", "+"]}}'


def build_batch(iteration: int) -> TrainingBatch:
    """The same for the same iteration."""
    random = np.random.default_rng(iteration + 100)
    lengths = random.integers(5, 9, 8).astype(np.int32)
    total = int(lengths.sum())
    mask = np.ones(total, dtype=np.bool_)
    mask[np.cumsum(lengths) - lengths] = False
    advantages = random.normal(size=8).astype(np.float32)
    return TrainingBatch(
        iteration=iteration,
        tokens=random.integers(2, 7, total).astype(np.int32),
        lengths=lengths,
        loss_mask=mask,
        behaviour_logprobs=np.where(mask, -1.5, 0.0).astype(np.float32),
        versions=np.where(mask, iteration - 1, -1).astype(np.int32),
        advantages=advantages,
        rewards=advantages,
        groups=np.repeat(np.arange(4, dtype=np.int32), 2),
    )


class BatchServer:
    """The master's HTTP API for trainers: every batch, asked for as often as one likes."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.away = 0
        """So many requests are answered as by a master that is starting."""
        self.on_request: Callable[[str], None] = lambda path: None
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                server.asked.append(self.path)
                server.on_request(self.path)
                status, content = server.answer(self.path, self.headers["Authorization"])
                with suppress(BrokenPipeError, ConnectionResetError):
                    self.send_response(status)
                    self.send_header("Content-Length", str(len(content)))
                    self.end_headers()
                    self.wfile.write(content)

            def log_message(self, *_: object) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._http.server_port}"
        threading.Thread(target=self._http.serve_forever, daemon=True).start()

    def answer(self, path: str, authorization: str | None) -> tuple[int, bytes]:
        if self.away > 0:
            self.away -= 1
            return 503, b"starting"
        if authorization != f"Bearer {TOKEN}":
            return 401, b"no"
        match = re.fullmatch(r"/v1/(batches|warmup)/(\d+)", path)
        if match is None or (match[1] == "batches" and int(match[2]) > ITERATIONS):
            return 404, b"not recorded"
        return 200, build_batch(int(match[2]) if match[1] == "batches" else 1000 + int(match[2])).encode()

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()


class Rank:
    """One pod with one trainer rank; its processes come and go."""

    def __init__(self, directory: Path, shm_dir: Path, endpoint: str, keys: JobKeys, model: str = SCRATCH) -> None:
        directory.mkdir()
        (directory / "job.yaml").write_text(JOB.replace("MODEL", model))
        (directory / "token").write_text(TOKEN)
        self.log = directory / "log"
        self.shm_dir = shm_dir
        self.checkpoints = directory / "checkpoints"
        self._environment = os.environ | {
            "TANDEM_JOB_FILE": str(directory / "job.yaml"),
            "TANDEM_JOB_UID": keys.job_uid,
            "TANDEM_POD_NAME": "sums-hybrid-0",
            "TANDEM_POD_IP": "127.0.0.1",
            "TANDEM_ETCD_ENDPOINTS": endpoint,
            "TANDEM_TOKEN_FILE": str(directory / "token"),
            "TANDEM_SHM_DIR": str(shm_dir),
            "TANDEM_MODEL_DIR": str(directory / "model"),
            "TANDEM_CHECKPOINT_DIR": str(self.checkpoints),
            "TANDEM_DATA_DIR": str(directory / "data"),
            **{"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"},
            "OMP_NUM_THREADS": "1",
        }
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def process(self) -> subprocess.Popen[bytes]:
        assert self._process is not None
        return self._process

    def start(self) -> None:
        with self.log.open("ab") as log:
            command = [sys.executable, "-m", "tandem_trainer"]
            self._process = subprocess.Popen(command, env=self._environment, stdout=log, stderr=log)

    def end(self, with_signal: signal.Signals) -> int:
        self.process.send_signal(with_signal)
        return self.process.wait(30)


class Master:
    """Writes phases and waits for the rank's acknowledgements."""

    def __init__(self, store: Store, keys: JobKeys, rank: Rank) -> None:
        self._store, self._keys, self._rank = store, keys, rank
        self.seconds: dict[str, float] = {}

    async def begin(self, phase: Phase, iteration: int) -> None:
        record = PhaseRecord(
            iteration=iteration, phase=phase, version=iteration, token=1, started_at=time.time(), reason=""
        )
        await self._store.put(self._keys.phase, record)

    async def acknowledged(self, phase: Phase, iteration: int) -> Ack:
        async with Mirror(self._store, self._keys.acks(iteration, phase), Ack) as acks:
            try:
                return (await wait_for_acks(acks, ["trainer-0"], 90))["trainer-0"]
            except Exception as error:
                error.add_note(self._rank.log.read_text()[-6000:])
                raise

    async def carry_out(self, phase: Phase, iteration: int) -> None:
        """One phase; those that wait for engines end at once."""
        started = time.perf_counter()
        await self.begin(phase, iteration)
        if phase not in (Phase.ROLLOUT, Phase.DRAINING, Phase.LOADING):
            await self.acknowledged(phase, iteration)
        self.seconds[f"{phase} {iteration}"] = time.perf_counter() - started

    async def carry_out_until(self, last: tuple[Phase, int], *, after: tuple[Phase, int] | None = None) -> None:
        """The phases that follow `after` (None: all from the start), up to and with `last`."""
        now = (Phase.WARMUP, 0) if after is None else next_phase(*after, ITERATIONS)
        while True:
            await self.carry_out(*now)
            if now == last:
                return
            now = next_phase(*now, ITERATIONS)

    async def part(self, version: int) -> ManifestPart:
        part = await self._store.get(self._keys.manifest_part(version, 0), ManifestPart)
        assert part is not None
        return part


@pytest.fixture
def server() -> Iterator[BatchServer]:
    server = BatchServer()
    yield server
    server.close()


@pytest.fixture
def shm_dir() -> Iterator[Path]:
    directory = Path("/dev/shm") / f"tandem-loop-{os.getpid()}"
    directory.mkdir()
    yield directory
    subprocess.run(["rm", "-r", str(directory)], check=True)


@pytest.fixture
def ranks(tmp_path: Path, shm_dir: Path, etcd_endpoint: str) -> Iterator[Callable[[JobKeys, str], Rank]]:
    started: list[Rank] = []

    def build(keys: JobKeys, model: str) -> Rank:
        started.append(Rank(tmp_path / keys.job_uid, shm_dir / keys.job_uid, etcd_endpoint, keys, model))
        return started[-1]

    yield build
    for rank in started:
        with suppress(AssertionError, ProcessLookupError):
            rank.end(signal.SIGKILL)


@pytest.mark.slow
async def test_a_killed_rank_replays_and_ends_with_the_same_weights(
    store: Store, server: BatchServer, ranks: Callable[[JobKeys, str], Rank]
) -> None:
    parts, models = [], []
    for uid, run in (("straight", run_straight), ("interrupted", run_with_interruptions)):
        keys = JobKeys(uid)
        async with Membership(store, keys, new_member(Role.MASTER, "sums-master-0", "sums-master-0", url=server.url)):
            rank = ranks(keys, SCRATCH)
            master = Master(store, keys, rank)
            await run(master, rank, server)
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
    assert (await master.acknowledged(Phase.TRAINING, 4)).measurements["checkpoint_iteration"] == 0
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


async def test_an_error_for_the_user_is_acknowledged(
    store: Store, keys: JobKeys, ranks: Callable[[JobKeys, str], Rank]
) -> None:
    rank = ranks(keys, "path: /absent")
    master = Master(store, keys, rank)
    rank.start()
    await master.begin(Phase.WARMUP, 0)
    with pytest.raises(AckError, match="/absent: it does not exist"):
        await master.acknowledged(Phase.WARMUP, 0)
    assert await asyncio.to_thread(rank.process.wait, 30) == 3


def test_batches_are_asked_for_again_while_the_master_starts(server: BatchServer) -> None:
    server.away = 3
    with BatchClient(lambda: server.url, TOKEN) as batches:
        batch = batches.fetch_batch(2, 10)
    assert batch.encode() == build_batch(2).encode()
    assert len(server.asked) == 4


@pytest.mark.parametrize(
    ("token", "iteration", "expected"),
    [(TOKEN, 5, "has no /v1/batches/5: not recorded"), ("wrong", 1, "with 401: no")],
)
def test_a_batch_that_will_not_come_is_an_error_at_once(
    server: BatchServer, token: str, iteration: int, expected: str
) -> None:
    with BatchClient(lambda: server.url, token) as batches, pytest.raises(BatchUnavailable, match=expected):
        batches.fetch_batch(iteration, 10)
    assert len(server.asked) == 1


def test_a_master_that_stays_away_is_named(server: BatchServer) -> None:
    server.close()
    with (
        BatchClient(lambda: server.url, TOKEN) as batches,
        pytest.raises(BatchUnavailable, match="did not answer") as caught,
    ):
        batches.fetch_batch(1, 0.2)
    assert isinstance(caught.value.__cause__, httpx.TransportError)
