"""Runs the trainer's layouts in processes of their own, for the tests that compare them."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from safetensors.torch import load_file
from tandem_core.job.model import ScratchModel, ScratchTokenizer
from tandem_core.model_files import write_scratch_model

from tests.integration.megatron_reference import ALGORITHMS, TEMPERATURES, Reference, make_batch
from tools.free_ports import find_free_ports

LAYOUTS = {
    "one": {},
    "tp2": {"tensorParallel": 2},
    "pp2": {"pipelineParallel": 2},
    "dp2": {},
    "tp2sp": {"tensorParallel": 2, "sequenceParallel": True},
    "ep2": {"expertParallel": 2},
}
RESUME_FROM = {"tp2": "one", "pp2": "tp2", "dp2": "pp2", "tp2sp": "dp2", "ep2": "one"}
"""Whose checkpoint each layout goes on from."""
DENSE = ["qwen3-tied", "qwen3", "llama", "qwen2"]
CASES = {layout: [*DENSE, "qwen3_moe"] for layout in LAYOUTS} | {"ep2": ["qwen3_moe"], "tp2sp": ["qwen3", "qwen3_moe"]}


@dataclass
class Runs:
    """Runs a layout when it is first asked for."""

    root: Path
    references: dict[str, Reference]
    device: Literal["cpu", "gpu"] = "cpu"
    precision: Literal["fp32", "bf16"] = "fp32"
    _done: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    def results(self, layout: str) -> list[dict[str, Any]]:
        """What each rank reported."""
        if layout not in self._done:
            if layout in RESUME_FROM:
                self.results(RESUME_FROM[layout])
            self._done[layout] = self._run(layout)
        return self._done[layout]

    def tensors(self, layout: str, case: str, which: str) -> dict[str, torch.Tensor]:
        """The weights that the layout exported."""
        return load_file(self.root / layout / case / which / "model.safetensors")

    def _run(self, layout: str) -> list[dict[str, Any]]:
        directory = self.root / layout
        if directory.exists():
            pytest.fail(f"the run of {layout} failed: see the first test that needed it")
        directory.mkdir()
        ranks = 1 if layout == "one" else 2
        cases = {name: self._case(layout, name, ranks) for name in CASES[layout]}
        if layout != "tp2sp":
            cases["scratch"] = self._scratch_case(layout, ranks)
        if layout == "one":
            job = self._job(layout, "qwen3", ranks, {"path": str(self.references["qwen3"].directory)}, "warmup")
            cases["warmup"] = cases["qwen3"] | {"job": str(job), "output": str(directory / "warmup"), "warmup": True}
        (directory / "plan.json").write_text(json.dumps({"cases": cases, "ports": find_free_ports(3 * len(cases))}))
        worker = Path(__file__).with_name("megatron_worker.py")
        processes = []
        for rank in range(ranks):
            environment = os.environ | {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(ranks)}
            environment |= {"MASTER_ADDR": "127.0.0.1", "PYTHONWARNINGS": "ignore"}
            environment["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"  # without it cuBLAS is not deterministic
            if self.device == "cpu":
                environment["CUDA_VISIBLE_DEVICES"] = ""
            log = (directory / f"log-{rank}").open("wb")
            command = [sys.executable, str(worker), str(directory / "plan.json")]
            processes.append(subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT))
        try:
            codes = [process.wait(timeout=240) for process in processes]
        finally:
            for process in processes:
                process.kill()
        logs = "\n".join((directory / f"log-{rank}").read_text()[-4000:] for rank in range(ranks))
        assert codes == [0] * ranks, logs
        return [json.loads((directory / f"result-{rank}.json").read_text()) for rank in range(ranks)]

    def _case(self, layout: str, name: str, ranks: int) -> dict[str, Any]:
        reference, output = self.references[name], self.root / layout / name
        second = make_batch(2)
        paths = [self.root / layout / f"{name}-{index}" for index in (1, 2)]
        for path, batch in zip(paths, (reference.batch, second), strict=True):
            path.write_bytes(batch.encode())
        case = {
            "job": str(self._job(layout, name, ranks, {"path": str(reference.directory)})),
            "model": str(reference.directory),
            "output": str(output),
            "batches": [str(path) for path in paths],
        }
        if layout in RESUME_FROM and name in CASES[RESUME_FROM[layout]]:
            case["resume"] = str(self.root / RESUME_FROM[layout] / name / "checkpoints")
        damage = layout == "one" and (name == "qwen3" or self.device == "gpu")
        return case | {"damage": damage, "full_disk": name == "qwen3"}

    def _scratch_case(self, layout: str, ranks: int) -> dict[str, Any]:
        directory = self.root / "scratch"
        tokens = ScratchTokenizer(tokens=list("0123456789"))
        write_scratch_model(
            ScratchModel(architecture="qwen3_moe", experts=4, hidden_size=32, tokenizer=tokens), directory
        )
        paths = [str(self.root / layout / f"qwen3_moe-{index}") for index in (1, 2)]
        job = self._job(layout, "qwen3_moe", ranks, {"path": str(directory)}, "scratch")
        output = str(self.root / layout / "scratch")
        return {"job": str(job), "model": str(directory), "output": output, "batches": paths, "initial_only": True}

    def _job(self, layout: str, name: str, ranks: int, model: dict[str, Any], file: str = "") -> Path:
        trainer = {"precision": self.precision, "threads": 1, "tokensPerMicrobatch": 64, **LAYOUTS[layout]}
        job = {
            "apiVersion": "tandem.dev/v1alpha1",
            "kind": "RLJob",
            "metadata": {"name": "test"},
            "spec": {
                "iterations": 2,
                "model": model,
                "data": {"dataset": {"path": "unused.jsonl"}},
                "rewards": {"scorers": [{"type": "exact"}]},
                "rollout": {"prompts": 6, "groupSize": 4, "temperature": TEMPERATURES.get(name, 1.0)},
                "algorithm": {"learningRate": 1e-3, **ALGORITHMS[name]},
                "warmup": {"steps": 40, "stopLoss": 0.6, "learningRate": 1e-2} if file == "warmup" else {},
                "hybrid": {
                    "device": self.device,
                    "ranksPerReplica": ranks,
                    "trainer": trainer,
                    "inference": {"release": "none", "kvCacheBytes": 1 << 26},
                },
            },
        }
        path = self.root / layout / f"{file or name}.job"
        path.write_text(json.dumps(job))
        return path


def assert_equal(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], tolerance: float = 0.0) -> None:
    assert set(found) == set(expected)
    for name, tensor in expected.items():
        difference = (found[name] - tensor).abs().max().item()
        assert difference <= tolerance, f"{name} differs by {difference}"
