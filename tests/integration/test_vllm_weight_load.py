"""A vLLM engine that takes its weights from shared memory computes what transformers computes with them."""

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

WORKER = Path(__file__).with_name("weight_load_worker.py")
pytestmark = pytest.mark.slow
MODELS = ("qwen3-tied", "qwen3-untied", "llama-untied", "qwen3-moe")


@pytest.fixture(scope="module")
def results() -> dict[str, Any]:
    return run_worker(1, *MODELS)


def run_worker(tensor_parallel: int, *models: str) -> dict[str, Any]:
    directory = tempfile.mkdtemp(prefix="tandem-weights-", dir="/dev/shm")
    try:
        worker = subprocess.run(
            [sys.executable, str(WORKER), directory, str(tensor_parallel), *models],
            capture_output=True,
            text=True,
            timeout=280,
            check=False,
        )
        assert worker.returncode == 0, worker.stderr[-6000:]
        return json.loads(worker.stdout.splitlines()[-1])
    finally:
        shutil.rmtree(directory)


@pytest.mark.parametrize("model", MODELS)
def test_after_each_of_three_updates_the_engine_agrees_with_transformers(results: dict[str, Any], model: str) -> None:
    assert_agrees(results[model]["versions"])


def assert_agrees(versions: list[dict[str, Any]]) -> None:
    assert len(versions) == 3
    for version in versions:
        assert version["same_tokens"]
        assert version["worst_difference"] < 1e-4


def test_tensor_parallel_workers_put_their_parts_together_from_other_cuts() -> None:
    # Two workers take from one, two and four ranks; the padded vocabulary is cut at 256, the ranks' slices at 250.
    assert_agrees(run_worker(2, "qwen3-tied")["qwen3-tied"]["versions"])


@pytest.mark.parametrize("model", MODELS)
def test_a_version_without_all_weights_is_refused_instead_of_keeping_old_ones(
    results: dict[str, Any], model: str
) -> None:
    errors = results[model]["incomplete"]
    assert "model.norm.weight" in errors["model.norm.weight"]
    assert "layers.1.self_attn.qkv_proj" in errors["model.layers.1.self_attn.k_proj.weight"]
