"""A trainer rank as a process, and in the master's place what it talks to: phases in etcd, batches over HTTP."""

import os
import re
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Protocol

import numpy as np
from tandem_core.batches import TrainingBatch
from tandem_core.coordination.barrier import wait_for_acks
from tandem_core.coordination.keys import JobKeys
from tandem_core.coordination.mirror import Mirror
from tandem_core.coordination.records import Ack, PhaseRecord
from tandem_core.coordination.store import Store
from tandem_core.phases import Phase, next_phase
from tandem_core.weights.manifest import ManifestPart

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
  checkpoint: {every: EVERY}
  deadlines: {startup: 60, training: 60}
"""
SCRATCH = 'scratch: {hiddenSize: 64, intermediateSize: 128, layers: 2, tokenizer: {tokens: ["0", "1", "2", "3", "+"]}}'


def build_training_batch(iteration: int) -> TrainingBatch:
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
        return 200, build_training_batch(int(match[2]) if match[1] == "batches" else 1000 + int(match[2])).encode()

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()


class Rank:
    """One pod with one trainer rank, which saves `every` so many iterations; its processes come and go."""

    def __init__(self, directory: Path, shm_dir: Path, endpoint: str, keys: JobKeys, model: str, every: int) -> None:
        directory.mkdir()
        (directory / "job.yaml").write_text(JOB.replace("MODEL", model).replace("EVERY", str(every)))
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

    def limit_files(self, size_bytes: int) -> None:
        """From now on no file may grow beyond so many bytes: what a full disk does, to this process alone."""
        _, hard = resource.prlimit(self.process.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(self.process.pid, resource.RLIMIT_FSIZE, (size_bytes, hard))

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


class RankBuilder(Protocol):
    """The fixture `ranks`."""

    def __call__(self, keys: JobKeys, model: str = SCRATCH, every: int = 10) -> Rank: ...
