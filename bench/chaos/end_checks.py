"""What must hold after a job, whatever happened to it. Each check returns what is wrong, one line each."""

import json
import sqlite3
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from tandem_core.batches import TrainingBatch
from tandem_core.job import RLJob
from tandem_core.phases import Phase
from tandem_local.run_state import RunState, RunStatus

from bench.chaos.job_process import JobProcess

_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108
_SEGMENTS = """
select g.trained_iteration, t.id, hex(s.tokens) from trajectories t join groups g on g.id = t.group_id
left join segments s on s.trajectory_id = t.id order by t.id, s.position
"""


def check_end(process: JobProcess, job: RLJob) -> list[str]:
    """All checks of a job whose process has ended."""
    state = process.directory.read_state()
    if process.exit_code != 0 or state is None or state.status is not RunStatus.SUCCEEDED:
        reason = state.reason if state is not None else "it has no state"
        return [f"`tandem run` ended with {process.exit_code}: {reason}"]
    return [
        *_check_summary(state, job),
        *check_samples(next(process.directory.path.rglob("replay.sqlite")), job),
        *_check_training(process, job),
        *check_leftovers(state, process),
    ]


def check_leftovers(state: RunState, process: JobProcess) -> list[str]:
    """Processes, listeners, shared memory, temporary files and mounts of a run that has ended."""
    run, home = state.run_id, str(process.home / "runs" / process.name)
    found = []
    for other in psutil.process_iter():
        try:
            words = other.cmdline()
            if other.environ().get("TANDEM_RUN_ID") == run or any(home in word for word in words):
                found.append(f"left over: process {other.pid} {' '.join(words)[:100]}")
        except psutil.Error:
            continue
    prefix = state.address_block.rpartition(".")[0] + "."
    for connection in psutil.net_connections(kind="inet"):
        if connection.status == psutil.CONN_LISTEN and connection.laddr and connection.laddr.ip.startswith(prefix):
            found.append(f"left over: a listener at {connection.laddr}")
    for place in (_SHARED_MEMORY / f"tandem-{run}", Path(tempfile.gettempdir()) / f"tandem-{run}"):
        found += [f"left over: {place}"] if place.exists() else []
    mounts = Path("/proc/self/mounts").read_text()
    return found + ([f"left over: a mount below {home}"] if home in mounts else [])


def _check_summary(state: RunState, job: RLJob) -> Iterator[str]:
    summary, wanted = state.summary, job.spec.iterations
    if summary is None or (summary.phase, summary.iteration) != (Phase.DONE, wanted):
        yield f"the job ended with {summary}, not with Done of iteration {wanted}"


def check_samples(file: Path, job: RLJob) -> Iterator[str]:
    """Every group in one batch, every answer of a batch recorded with the very tokens that were trained on."""
    size, wanted = job.spec.rollout.group_size, list(range(1, job.spec.iterations + 1))
    with sqlite3.connect(f"file:{file}?mode=ro", uri=True) as database:
        batches = database.execute("select iteration, trained_at, data from batches order by 1").fetchall()
        answers: dict[int, dict[int, str]] = defaultdict(lambda: defaultdict(str))
        for iteration, answer, tokens in database.execute(_SEGMENTS):
            answers[iteration][answer] += tokens
        untrained = database.execute("select count(*) from groups where trained_iteration is null").fetchone()[0]
        sizes = database.execute("select group_id, count(*) from trajectories group by 1").fetchall()
        states = Counter(row[0] for row in database.execute("select state from trajectories"))
        trained_samples = {
            iteration: json.loads(metrics).get("trained_samples")
            for iteration, metrics in database.execute("select iteration, metrics from iterations")
        }
    if [row[0] for row in batches] != wanted:
        yield f"batches of iterations {[row[0] for row in batches]}, expected 1 to {wanted[-1]}"
    if unmarked := [row[0] for row in batches if row[1] is None]:
        yield f"iterations {unmarked} were not trained"
    if untrained:
        yield f"{untrained} groups are in no batch"
    if wrong := [group for group, count in sizes if count != size]:
        yield f"groups {wrong} have not {size} answers"
    if set(states) != {"scored"}:
        yield f"answers are {dict(states)}, expected all scored"
    for iteration, _, data in batches:
        own = answers[iteration]
        if trained_samples.get(iteration) != len(own):
            yield f"iteration {iteration}: trained on {trained_samples.get(iteration)} of {len(own)} answers"
        if data is not None and _answers_in(data) != Counter(own.values()):
            yield f"iteration {iteration}: the batch holds other tokens than the recorded answers"


def _answers_in(data: bytes) -> "Counter[str]":
    """The batch's answers as hexadecimal int32."""
    batch = TrainingBatch.decode(data)
    ends = np.cumsum(batch.lengths)
    return Counter(
        batch.tokens[end - length : end][batch.loss_mask[end - length : end]].astype("<i4").tobytes().hex().upper()
        for end, length in zip(ends, batch.lengths, strict=True)
    )


def _check_training(process: JobProcess, job: RLJob) -> Iterator[str]:
    """What each rank says it did: from its start or a checkpoint on, one iteration after the other, to the last."""
    trained: dict[str, int] = {}
    for line in _trainer_log(process):
        rank, event = line.get("rank", "?"), line.get("event", "")
        if event == "loaded checkpoint":
            trained[rank] = line["trained"]
        elif event == "done" and line.get("step") == "warm_up":
            trained[rank] = 0
        elif event == "done" and line.get("step") == "train":
            if line["iteration"] != trained.get(rank, -1) + 1:
                yield f"rank {rank} trained iteration {line['iteration']} after {trained.get(rank, -1)}"
            trained[rank] = line["iteration"]
        elif "other weights than before" in event:
            yield f"rank {rank}: {event}"
    if not trained or set(trained.values()) != {job.spec.iterations}:
        yield f"the ranks ended at iterations {trained}, expected {job.spec.iterations}"


def _trainer_log(process: JobProcess) -> Iterator[dict[str, Any]]:
    for file in sorted(process.directory.logs.glob("*-hybrid-*/trainer.log*")):
        for line in file.read_text(errors="replace").splitlines():
            if line.startswith("{"):
                try:
                    yield json.loads(line)
                except ValueError:  # a rank was killed in the middle of a line
                    continue
