"""The Megatron trainer against transformers, and each parallel layout against one rank."""

import json
import os
import random
import socket
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file
from tandem_core.job.model import ScratchModel, ScratchTokenizer
from tandem_core.model_files import write_scratch_model

from tests.integration.megatron_reference import (
    ALGORITHMS,
    TEMPERATURES,
    Reference,
    logprobs_by_transformers,
    make_batch,
    make_reference,
)

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
        (directory / "plan.json").write_text(json.dumps({"cases": cases, "ports": _free_ports(3 * len(cases))}))
        worker = Path(__file__).with_name("megatron_worker.py")
        processes = []
        for rank in range(ranks):
            environment = os.environ | {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(ranks)}
            environment |= {"MASTER_ADDR": "127.0.0.1", "PYTHONWARNINGS": "ignore"}
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
        return case | {"damage": layout == "one" and name == "qwen3", "full_disk": name == "qwen3"}

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
        trainer = {"precision": "fp32", "threads": 1, "tokensPerMicrobatch": 64, **LAYOUTS[layout]}
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
                    "device": "cpu",
                    "ranksPerReplica": ranks,
                    "trainer": trainer,
                    "inference": {"release": "none", "kvCacheBytes": 1 << 26},
                },
            },
        }
        path = self.root / layout / f"{file or name}.job"
        path.write_text(json.dumps(job))
        return path


def _free_ports(count: int) -> list[int]:
    """Below the range from which the system takes ports for connections: they are used only some seconds later."""
    ports: list[int] = []
    for port in random.sample(range(12_000, 32_000), 2_000):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) != 0:
                ports.append(port)
        if len(ports) == count:
            return ports
    raise AssertionError("no free ports")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    root = tmp_path_factory.mktemp("megatron")
    torch.set_num_threads(1)
    references = {name: make_reference(name, root / "models") for name in ALGORITHMS}
    return Runs(root, references)


def each(*layouts: str) -> Any:
    """Parametrises by layout and the models it runs; two-rank layouts are slow."""
    return pytest.mark.parametrize(
        ("layout", "case"),
        [
            pytest.param(layout, case, marks=[] if layout == "one" else pytest.mark.slow)
            for layout in layouts
            for case in CASES[layout]
        ],
    )


def assert_equal(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], tolerance: float = 0.0) -> None:
    assert set(found) == set(expected)
    for name, tensor in expected.items():
        difference = (found[name] - tensor).abs().max().item()
        assert difference <= tolerance, f"{name} differs by {difference}"


@each(*LAYOUTS)
def test_weights_go_to_megatron_and_back_unchanged(runs: Runs, layout: str, case: str) -> None:
    runs.results(layout)
    original = load_file(runs.references[case].directory / "model.safetensors")
    assert_equal(runs.tensors(layout, case, "initial"), original)


@each(*LAYOUTS)
def test_slices_of_replica_0_make_up_the_model_exactly_once(runs: Runs, layout: str, case: str) -> None:
    ranks = len(runs.results(layout))
    original = load_file(runs.references[case].directory / "model.safetensors")
    seen = {name: torch.zeros(tensor.shape, dtype=torch.int) for name, tensor in original.items()}
    for rank in range(ranks):
        for piece in torch.load(runs.root / layout / case / f"slices-{rank}.pt"):
            box = tuple(slice(a, a + n) for a, n in zip(piece["start"], piece["tensor"].shape, strict=True))
            assert piece["global_shape"] == tuple(original[piece["name"]].shape)
            assert torch.equal(piece["tensor"], original[piece["name"]][box])
            seen[piece["name"]][box] += piece["replica"] == 0
    assert all((counts == 1).all() for counts in seen.values())


@each(*LAYOUTS)
def test_logprobs_loss_and_gradient_norm_are_those_of_transformers(runs: Runs, layout: str, case: str) -> None:
    reference = runs.references[case]
    for rank in runs.results(layout):
        metrics = rank[case]["first"]
        assert metrics["tokens"] == reference.batch.loss_mask.sum()
        if case == "qwen3-tied":
            continue  # two steps: metrics are of both; its weights are compared below
        assert metrics["logprob_difference_max"] <= 1e-4
        assert metrics["loss"] == pytest.approx(reference.loss, rel=1e-4, abs=1e-5)
        assert metrics["gradient_norm"] == pytest.approx(reference.gradient_norm, rel=1e-4)


@each(*(layout for layout in LAYOUTS if layout != "one"))
def test_each_layout_trains_as_one_rank_does(runs: Runs, layout: str, case: str) -> None:
    expected = runs.results("one")[0][case]
    for rank in runs.results(layout):
        for iteration in ("first", "second"):
            found, wanted = dict(rank[case][iteration]), dict(expected[iteration])
            del found["train_seconds"], wanted["train_seconds"]
            assert found == pytest.approx(wanted, rel=2e-3, abs=1e-4)
    assert_equal(runs.tensors(layout, case, "trained-2"), runs.tensors("one", case, "trained-2"), 2e-4)


@each(*RESUME_FROM)
def test_a_checkpoint_of_another_layout_goes_on_as_if_never_interrupted(runs: Runs, layout: str, case: str) -> None:
    results, source = runs.results(layout), RESUME_FROM[layout]
    if case not in CASES[source]:
        pytest.skip(f"{source} did not train {case}")
    assert [rank[case]["resumed"]["started_at"] for rank in results] == [1] * len(results)
    assert_equal(runs.tensors(layout, case, "resumed-1"), runs.tensors(source, case, "trained-1"))
    assert_equal(runs.tensors(layout, case, "resumed-2"), runs.tensors(source, case, "trained-2"), 2e-4)


def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(runs: Runs) -> None:
    resumed = runs.results("one")[0]["qwen3"]["damaged"]
    assert resumed["started_at"] == 1
    assert_equal(runs.tensors("one", "qwen3", "resumed-1"), runs.tensors("one", "qwen3", "trained-1"))


@pytest.mark.parametrize("layout", ["one", "tp2"])
def test_a_full_disk_is_named_by_all_ranks_and_training_goes_on(runs: Runs, layout: str) -> None:
    for rank in runs.results(layout):
        checkpoint, model = rank["qwen3"]["disk_full"]
        assert "Make room" in checkpoint
        assert str(runs.root / layout / "qwen3" / "checkpoints") in checkpoint
        assert ("trained model cannot be written" in model) == (layout == "one")
    resumed = runs.results("one")[0]["qwen3"]["damaged"]
    assert resumed["started_at"] == 1  # the state written once there was room again


def test_offloading_frees_the_buffers_and_changes_nothing(runs: Runs) -> None:
    resumed = runs.results("one")[0]["qwen3"]["damaged"]
    assert resumed["bytes_while_offloaded"] == 0
    assert_equal(runs.tensors("one", "qwen3", "resumed-2"), runs.tensors("one", "qwen3", "trained-2"))


def test_a_warmup_stops_at_its_loss_and_goes_on_after_a_restart(runs: Runs) -> None:
    whole, resumed = (runs.results("one")[0]["warmup"][run] for run in ("whole", "resumed"))
    losses = list(whole["losses"].values())
    means = [sum(losses[end - 10 : end]) / 10 for end in range(10, len(losses) + 1)]
    assert 12 < len(losses) < 40
    assert means[-1] <= 0.6 < min(means[:-1])
    assert whole["metrics"]["loss"] == pytest.approx(means[-1])
    assert (whole["trained"], resumed["trained"], resumed["first_step"]) == (0, 0, 12)
    assert list(resumed["losses"].values()) == losses[12:]
    assert_equal(runs.tensors("one", "warmup", "resumed"), runs.tensors("one", "warmup", "whole"))


@pytest.mark.parametrize(
    "layout", ["one", *(pytest.param(name, marks=pytest.mark.slow) for name in ("tp2", "pp2", "dp2", "ep2"))]
)
def test_a_model_from_scratch_is_the_same_in_each_layout_and_loads_in_transformers(runs: Runs, layout: str) -> None:
    runs.results(layout)
    torch.manual_seed(0)
    config = transformers.AutoConfig.from_pretrained(runs.root / "scratch")
    expected = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    directory = runs.root / layout / "scratch" / "initial"
    loaded, report = transformers.AutoModelForCausalLM.from_pretrained(directory, output_loading_info=True)
    assert not any(report[problem] for problem in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert_equal(dict(loaded.state_dict()), dict(expected.state_dict()))
    assert transformers.AutoTokenizer.from_pretrained(directory).encode("42") == [6, 4]


@pytest.mark.parametrize("case", list(ALGORITHMS))
def test_a_trained_model_gives_transformers_the_probabilities_the_trainer_had(runs: Runs, case: str) -> None:
    runs.results("one")
    model = transformers.AutoModelForCausalLM.from_pretrained(runs.root / "one" / case / "trained-1").eval()
    second = make_batch(2)
    with torch.no_grad():
        logprobs = logprobs_by_transformers(model, second, TEMPERATURES.get(case, 1.0))
    flat = torch.cat([torch.cat([torch.zeros(1), values]) for values in logprobs]).numpy()
    size = np.abs(flat[second.loss_mask]).mean()  # the batch's own log-probabilities are 0
    assert runs.results("one")[0][case]["second"]["logprob_difference_mean"] == pytest.approx(size, abs=1e-4)
