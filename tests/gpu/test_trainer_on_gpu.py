"""Megatron on GPUs against transformers and against itself on CPUs. Run with `make test-gpu`."""

import pytest
import torch

from tests.integration.megatron_reference import ALGORITHMS, make_reference
from tests.integration.megatron_runs import CASES, LAYOUTS, Runs, assert_equal

RANKS = {layout: 1 if layout == "one" else 2 for layout in LAYOUTS}
RUNS = [
    pytest.param(
        layout,
        case,
        marks=pytest.mark.skipif(torch.cuda.device_count() < RANKS[layout], reason=f"needs {RANKS[layout]} GPUs"),
    )
    for layout in LAYOUTS
    for case in CASES[layout]
]
each = pytest.mark.parametrize(("layout", "case"), RUNS)
one = pytest.mark.parametrize("case", CASES["one"])
needs_gpu = pytest.mark.skipif(torch.cuda.device_count() == 0, reason="no GPU on this machine")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Runs]:
    """By precision on the GPU, and fp32 on the CPU."""
    root = tmp_path_factory.mktemp("gpu")
    references = {name: make_reference(name, root / "models") for name in ALGORITHMS}
    kinds = {"fp32": ("gpu", "fp32"), "bf16": ("gpu", "bf16"), "cpu": ("cpu", "fp32")}
    for kind in kinds:
        (root / kind).mkdir()
    return {kind: Runs(root / kind, references, device, precision) for kind, (device, precision) in kinds.items()}  # type: ignore[arg-type]


@each
def test_logprobs_loss_and_gradient_norm_are_those_of_transformers(
    runs: dict[str, Runs], layout: str, case: str
) -> None:
    reference = runs["fp32"].references[case]
    for rank in runs["fp32"].results(layout):
        if case == "qwen3-tied":
            continue  # two steps: metrics are of both; its weights are compared below
        metrics = rank[case]["first"]
        print(case, metrics, reference.loss, reference.gradient_norm)
        assert metrics["logprob_difference_max"] <= 1e-4
        assert metrics["loss"] == pytest.approx(reference.loss, rel=1e-4, abs=1e-5)
        assert metrics["gradient_norm"] == pytest.approx(reference.gradient_norm, rel=1e-4)


@each
def test_a_gpu_trains_as_a_cpu_does(runs: dict[str, Runs], layout: str, case: str) -> None:
    runs["fp32"].results(layout)
    expected = runs["cpu"].results("one")[0][case]
    found = runs["fp32"].results(layout)[0][case]
    for iteration in ("first", "second"):
        speeds = {"train_seconds": 0.0, "model_flops_utilisation": 0.0}
        metrics, wanted = (result[iteration] | speeds for result in (found, expected))
        assert metrics == pytest.approx(wanted, rel=2e-3, abs=1e-4)
    weights = [runs[kind].tensors(name, case, "trained-2") for kind, name in (("fp32", layout), ("cpu", "one"))]
    assert_equal(*weights, 2e-4)


@needs_gpu
@one
def test_bf16_is_near_to_fp32(runs: dict[str, Runs], case: str) -> None:
    exact, found = (runs[kind].results("one")[0][case]["first"] for kind in ("fp32", "bf16"))
    print(case, exact, found)
    assert found["logprob_difference_mean"] <= exact["logprob_difference_mean"] + 0.1
    assert found["loss"] == pytest.approx(exact["loss"], rel=0.1, abs=0.05)
    assert found["gradient_norm"] == pytest.approx(exact["gradient_norm"], rel=0.1)


@needs_gpu
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@one
def test_a_checkpoint_and_an_offload_change_no_bit_of_the_next_step(
    runs: dict[str, Runs], precision: str, case: str
) -> None:
    resumed = runs[precision].results("one")[0][case]["damaged"]
    assert (resumed["started_at"], resumed["bytes_while_offloaded"]) == (1, 0)
    for found, expected in (("resumed-1", "trained-1"), ("resumed-2", "trained-2")):
        assert_equal(*(runs[precision].tensors("one", case, which) for which in (found, expected)))


@needs_gpu
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_offload_gives_back_what_training_held(precision: str) -> None:
    from bench.gpu import measure_offload  # imports Megatron: seconds, also where there is no GPU

    _, memory = measure_offload("0.6b", precision)
    print(memory)
    gradients = memory.kept * 4 // {"fp32": 12, "bf16": 14}[precision]
    assert memory.held - memory.left >= 0.99 * (memory.kept + gradients)
