"""A job gets over what `make chaos` does to it: here the faults that differ most, in one job."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FAULTS = (
    "kill -9 rank in Training",
    "kill -9 engine core in Loading",
    "kill -9 checkpoint engine in Rollout",
    "kill -9 master in Draining",
    "stop engine in Rollout",
    "damaged checkpoint, kill -9 rank in Rollout",
)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_job_loses_nothing_to_crashes_a_hang_and_a_damaged_checkpoint() -> None:
    only = "|".join(f"^{fault}$" for fault in FAULTS)
    done = subprocess.run(
        [sys.executable, "-m", "bench.chaos", "--only", only, "--iterations", "80", "--no-write"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for fault in FAULTS:
        assert f"{fault}: whole after" in done.stdout
