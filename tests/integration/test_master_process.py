"""`python -m tandem_rollout` as a process: its API, its exit codes, and being killed."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest
from tandem_core.batches import TrainingBatch
from tandem_core.coordination.keys import JobKeys
from tandem_core.coordination.mirror import Mirror
from tandem_core.coordination.records import Control, Member, PhaseRecord, Role, Summary
from tandem_core.coordination.store import Store
from tandem_core.environment import MASTER_PORT
from tandem_core.job import RLJob, dump_job
from tandem_core.phases import Phase
from tandem_rollout.storage.address import REPLAY_FILE
from tandem_rollout.storage.replay_buffer import ReplayBuffer, sqlite_url

from .phase_members import Members, build_job
from .scripted_engine import ScriptedEngine

TOKEN = "a-token"
SECONDS = 60


@dataclass
class MasterProcess:
    """The container `master`, with the environment that the operator gives it."""

    directory: Path
    job: RLJob
    endpoint: str
    uid: str
    address: str
    processes: list["subprocess.Popen[bytes]"] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://{self.address}:{MASTER_PORT}"

    @property
    def replay_file(self) -> Path:
        return self.directory / "data" / REPLAY_FILE

    def start(self) -> "subprocess.Popen[bytes]":
        (self.directory / "job.yaml").write_text(dump_job(self.job))
        (self.directory / "token").write_text(TOKEN)
        values = {
            "JOB_FILE": self.directory / "job.yaml",
            "JOB_UID": self.uid,
            "POD_NAME": "sums-master-0",
            "POD_IP": self.address,
            "ETCD_ENDPOINTS": self.endpoint,
            "TOKEN_FILE": self.directory / "token",
            "SHM_DIR": self.directory / "shm",
            "MODEL_DIR": self.directory / "model",
            "CHECKPOINT_DIR": self.directory / "checkpoints",
            "DATA_DIR": self.directory / "data",
        }
        environment = os.environ | {f"TANDEM_{name}": str(value) for name, value in values.items()}
        with (self.directory / "master.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "tandem_rollout"], env=environment, stdout=log, stderr=log
            )
        self.processes.append(process)
        return process

    async def exit_code(self, process: "subprocess.Popen[bytes]") -> int:
        return await asyncio.to_thread(process.wait, SECONDS)

    def log(self) -> str:
        return (self.directory / "master.log").read_text()


@pytest.fixture
def job(tmp_path: Path) -> RLJob:
    rows = [{"prompt": f"{a}+{b}=", "answer": str(a + b)} for a in range(8) for b in range(8)]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return build_job(f"spec.data.dataset.path={tmp_path}/prompts.jsonl", "spec.hybrid.replicas=1")


@pytest.fixture
def master(tmp_path: Path, job: RLJob, etcd_endpoint: str, keys: JobKeys) -> Iterator[MasterProcess]:
    # An address of its own in 127.0.0.0/8: ports are fixed.
    number = os.getpid() % 50_000
    master = MasterProcess(tmp_path, job, etcd_endpoint, keys.job_uid, f"127.88.{number // 250}.{number % 250 + 1}")
    yield master
    for process in master.processes:
        process.kill()
        process.wait(10)


async def history_reaches(buffer: ReplayBuffer, iteration: int) -> None:
    """What is only for reports is written behind the job's back."""
    async with asyncio.timeout(SECONDS):
        while iteration not in [each.iteration for each in await buffer.iterations()]:  # noqa: ASYNC110 - nothing tells
            await asyncio.sleep(0.05)


async def phase_reached(store: Store, keys: JobKeys, phase: Phase, iteration: int) -> PhaseRecord:
    async with Mirror(store, keys.phase, PhaseRecord) as mirror:
        return await mirror.wait_for(
            lambda values: next(
                (each for each in values.values() if (each.phase, each.iteration) == (phase, iteration)), None
            ),
            SECONDS,
        )


async def test_a_master_that_is_killed_loses_nothing(
    store: Store, keys: JobKeys, master: MasterProcess, job: RLJob
) -> None:
    """Killed with -9 in the middle of a rollout and started again, it goes on to the end."""
    first = master.start()
    async with ScriptedEngine() as engine:
        await phase_reached(store, keys, Phase.WARMUP, 0)
        async with ReplayBuffer(sqlite_url(master.replay_file), keys.job_uid) as buffer:
            async with Members(store, keys, job, buffer, engine_url=engine.url) as members:
                members.stop_at(Phase.TRAINING, 1)
                await phase_reached(store, keys, Phase.TRAINING, 1)
                engine.held = True
                members.go_on()
                await members.acknowledge_again()
                await phase_reached(store, keys, Phase.ROLLOUT, 2)
                before = await buffer.batch(1)
                await history_reaches(buffer, 0)
                first.send_signal(signal.SIGKILL)
                first.wait(10)
                engine.release()
                second = master.start()
                await phase_reached(store, keys, Phase.DONE, 3)
                assert await master.exit_code(second) == 0, master.log()[-3000:]
            assert members.trained[0] == [1, 2, 3]
            assert await buffer.batch(1) == before
            assert [each.iteration for each in await buffer.iterations()] == [0, 1, 2, 3]
            assert [each.iteration for each in await buffer.evaluations()] == [0, 3]
            assert await buffer.open_groups() == []
            groups = {sample.group_id for iteration in (1, 2, 3) for sample in await buffer.samples(iteration)}
            assert len(groups) == 12
    summary = await store.get(keys.summary, Summary)
    assert summary is not None
    assert (summary.phase, summary.iteration, summary.samples) == (Phase.DONE, 3, 24)


async def test_the_api_gives_batches_to_who_has_the_token(
    store: Store, keys: JobKeys, master: MasterProcess, job: RLJob
) -> None:
    process = master.start()
    async with ScriptedEngine() as engine, httpx.AsyncClient(base_url=master.url, timeout=30) as stranger:
        await phase_reached(store, keys, Phase.WARMUP, 0)
        async with Mirror(store, f"{keys.members}{Role.MASTER}/", Member) as mirror:
            seen = await mirror.wait_for(lambda values: values.get("sums-master-0"), SECONDS)
        assert seen.url == master.url
        assert (await stranger.get("/healthz")).status_code == 200
        assert (await stranger.get("/readyz")).status_code == 200
        for path in ("/v1/batches/1", "/v1/warmup/0", "/metrics"):
            assert (await stranger.get(path)).status_code == 401
        wrong = {"Authorization": "Bearer wrong"}
        assert (await stranger.get("/v1/batches/1", headers=wrong)).status_code == 401
        trainer = httpx.AsyncClient(base_url=master.url, headers={"Authorization": f"Bearer {TOKEN}"}, timeout=30)
        async with trainer, ReplayBuffer(sqlite_url(master.replay_file), keys.job_uid) as buffer:
            missing = await trainer.get("/v1/batches/1")
            assert (missing.status_code, missing.headers["content-type"]) == (404, "application/json")
            warmup = TrainingBatch.decode((await trainer.get("/v1/warmup/0")).content)
            assert len(warmup.lengths) == job.spec.warmup.batch_size
            assert (await trainer.get("/v1/warmup/0")).content == (await trainer.get("/v1/warmup/0")).content
            async with Members(store, keys, job, buffer, engine_url=engine.url) as members:
                members.stop_at(Phase.TRAINING, 1)
                await phase_reached(store, keys, Phase.TRAINING, 1)
                batch = TrainingBatch.decode((await trainer.get("/v1/batches/1")).content)
                assert (batch.iteration, len(batch.lengths)) == (1, 8)
                metrics = (await trainer.get("/metrics")).text
                assert "tandem_generated_tokens_total" in metrics
                assert "tandem_iteration 1.0" in metrics
                process.terminate()
                assert await master.exit_code(process) == 128 + signal.SIGTERM, master.log()[-3000:]
                record = await store.get(keys.phase, PhaseRecord)
                assert record is not None
                assert record.phase == Phase.TRAINING


async def test_a_job_that_is_told_to_stop_ends_after_the_iteration(
    store: Store, keys: JobKeys, master: MasterProcess, job: RLJob
) -> None:
    process = master.start()
    async with ScriptedEngine() as engine:
        await phase_reached(store, keys, Phase.WARMUP, 0)
        async with (
            ReplayBuffer(sqlite_url(master.replay_file), keys.job_uid) as buffer,
            Members(store, keys, job, buffer, engine_url=engine.url) as members,
        ):
            members.stop_at(Phase.TRAINING, 1)
            await phase_reached(store, keys, Phase.TRAINING, 1)
            await store.put(keys.control, Control(stop=True, reason="suspended"))
            members.go_on()
            await members.acknowledge_again()
            record = await phase_reached(store, keys, Phase.DONE, 1)
            assert record.reason == "stopped: suspended"
            assert await master.exit_code(process) == 0, master.log()[-3000:]


async def test_a_job_that_cannot_begin_says_why_and_is_not_started_again(
    store: Store, keys: JobKeys, master: MasterProcess
) -> None:
    (master.directory / "prompts.jsonl").write_text('{"question": "1+1="}\n')
    assert await master.exit_code(master.start()) == 3
    record = await store.get(keys.phase, PhaseRecord)
    assert record is not None
    assert record.phase == Phase.FAILED
    assert "has no column 'prompt'" in record.reason
