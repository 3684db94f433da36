"""A job whose processes hang: they are stopped (SIGSTOP) and nobody continues them, nor looks after the job."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from tandem_rollout.storage.history_file import open_history

EXAMPLE = Path(__file__).parents[2] / "examples" / "addition.yaml"
ITERATIONS = 8
SETTINGS = (
    f"iterations={ITERATIONS}",
    "warmup.steps=20",
    "evaluation.prompts=16",
    "checkpoint.every=2",
)
PROGRAMS = ("tandem_rollout", "tandem_sidecar", "torch.distributed.run")


def find_program(home: Path, module: str) -> psutil.Process:
    """The only process of the run below `home` that was started as `python -m module`."""
    (found,) = (
        process
        for process in psutil.process_iter()
        if _runs(process, module) and process.environ().get("TANDEM_JOB_FILE", "").startswith(str(home))
    )
    return found


def _runs(process: psutil.Process, module: str) -> bool:
    try:
        return ["-m", module] == process.cmdline()[1:3]
    except psutil.Error:
        return False


def test_a_job_outlives_a_hang_of_its_master_its_checkpoint_engine_and_torchrun_at_once(tmp_path: Path) -> None:
    settings = [part for setting in SETTINGS for part in ("--set", f"spec.{setting}")]
    with (tmp_path / "log").open("wb") as log:
        job = subprocess.Popen(
            [sys.executable, "-m", "tandem_local", "run", str(EXAMPLE), "--name", "hangs", *settings],
            env=os.environ | {"TANDEM_HOME": str(tmp_path)},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        state = tmp_path / "runs" / "hangs" / "state.json"
        wait_for(lambda: read_iteration(state) >= 3, job)
        stopped = [find_program(tmp_path, module) for module in PROGRAMS]
        for process in stopped:
            process.suspend()
        began = time.monotonic()
        wait_for(lambda: not any(process.is_running() for process in stopped), job)
        print(f"ended after {time.monotonic() - began:.1f} s")
        assert job.wait(240) == 0, (tmp_path / "log").read_text()[-3000:]
        print(f"the job after {time.monotonic() - began:.1f} s")
    finally:
        job.send_signal(signal.SIGINT)
        job.wait(60)
    with open_history(next((tmp_path / "runs" / "hangs").rglob("replay.sqlite"))) as reader:
        trained = [record.iteration for record in reader.iterations() if record.iteration]
    assert trained == list(range(1, ITERATIONS + 1))


def read_iteration(state: Path) -> int:
    summary = (json.loads(state.read_text()) if state.exists() else {}).get("summary") or {}
    return int(summary.get("iteration", 0))


def wait_for(condition: Callable[[], bool], job: "subprocess.Popen[bytes]", timeout_seconds: float = 240) -> None:
    deadline = time.monotonic() + timeout_seconds
    while not condition():
        assert job.poll() is None, "the job ended early"
        if time.monotonic() > deadline:
            pytest.fail("it took too long")
        time.sleep(0.1)
