"""What only a GPU shows: that memory is really given back and forth. Run with `make test-gpu`."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


def _gpus() -> int:
    import torch

    return int(torch.cuda.device_count())


needs_gpu = pytest.mark.skipif(_gpus() == 0, reason="no GPU on this machine")


@needs_gpu
@pytest.mark.parametrize("release", ["sleep", "restart"])
def test_a_job_trains_with_the_engine_giving_up_its_memory(tmp_path: Path, release: str) -> None:
    command = [
        *(sys.executable, "-m", "tandem_local", "run", str(EXAMPLES / "addition.yaml"), "--name", f"gpu-{release}"),
        *("--set", "spec.hybrid.device=gpu", "--set", f"spec.hybrid.inference.release={release}"),
        *("--set", "spec.hybrid.inference.kvCacheBytes=null", "--set", "spec.hybrid.inference.gpuMemoryShare=0.5"),
        *("--set", "spec.iterations=5", "--set", "spec.warmup.steps=20"),
    ]
    environment = os.environ | {"TANDEM_HOME": str(tmp_path)}
    done = subprocess.run(command, env=environment, timeout=1200, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    state = json.loads((tmp_path / "runs" / f"gpu-{release}" / "state.json").read_text())
    assert state["summary"]["iteration"] == 5
