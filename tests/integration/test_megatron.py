"""The Megatron trainer against transformers, and each parallel layout against one rank."""

from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file

from tests.integration.megatron_reference import (
    ALGORITHMS,
    TEMPERATURES,
    logprobs_by_transformers,
    make_batch,
    make_reference,
)
from tests.integration.megatron_runs import CASES, LAYOUTS, RESUME_FROM, Runs, assert_equal


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
            for timed in ("train_seconds", "model_flops_utilisation"):
                del found[timed], wanted[timed]
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
