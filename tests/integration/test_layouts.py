"""Megatron ranks in every layout publish, vLLM engines of one and two workers serve: with the trainer's probabilities.

Two ranks, one engine of each size and the pods' servers live through all layouts; each version is trained, published,
fetched over HTTP where it has to be, verified, loaded and asked.
"""

import asyncio
import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file
from tandem_core.weights.manifest import ManifestPart
from tandem_core.weights.merge import merge_parts
from tandem_rollout.publication import build_commit
from tandem_sidecar.receive import ReceivedVersion, receive_version

from tests.integration.line_worker import Worker
from tests.integration.megatron_reference import VOCABULARY
from tests.integration.weight_pods import WeightPod, serving
from tools.free_ports import find_free_port

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

TOKEN = "a-token"
VERSIONS = 3
PROMPTS = [[5, 7, 9, 12, 36], [30, 2, 2, 17], [3, 0, 25]]
HIDDEN, LAYERS, EXPERTS = 64, 2, 4


@dataclass(frozen=True)
class Case:
    """How the two trainer ranks cut which model, and how many pods they are in."""

    trainer: dict[str, Any]
    pods: int = 1
    model: str = "dense"


CASES = {
    "tp2": Case({"tensorParallel": 2}),
    "pp2": Case({"pipelineParallel": 2}),
    "dp2": Case({}),
    "tp2-sequence-parallel": Case({"tensorParallel": 2, "sequenceParallel": True}),
    "tp2-across-pods": Case({"tensorParallel": 2}, pods=2),
    "pp2-across-pods": Case({"pipelineParallel": 2}, pods=2),
    "dp2-across-pods": Case({}, pods=2),
    "ep2": Case({"expertParallel": 2}, model="experts"),
    "ep2-across-pods": Case({"expertParallel": 2}, pods=2, model="experts"),
}

REPRESENTATIVE = ("tp2-sequence-parallel", "pp2-across-pods", "ep2-across-pods")
"""Together they have every kind of cut, and whole copies, within a pod and across pods; the others are `long`."""


def held_bytes(layout: str, pod: int, name: str, shape: torch.Size) -> int:
    """What the ranks of a pod publish of a tensor when each rank has a pod of its own."""
    layer = int(name.split(".")[2]) if ".layers." in name else None
    rows, size = shape[0], 4 * prod(shape)
    match layout.removesuffix("-across-pods"):
        case "dp2":
            return size
        case "pp2":  # the embedding is on the first stage, the last norm on the last
            return size * (pod == (layer if layer is not None else int("norm" in name)))
        case "ep2" if ".experts." in name:
            return size * (pod == int(name.split(".experts.")[1].split(".")[0]) // (EXPERTS // 2))
        case "ep2":  # all but the experts is replicated
            return size
        case "tp2" if len(shape) == 1:
            return size * (pod == 0)
        case "tp2" if "embed" in name:  # padded to 40 rows, of which the first rank has 20
            return size // rows * (20 if pod == 0 else rows - 20)
        case "tp2":
            return size // 2
    raise AssertionError(layout)


@dataclass
class Laboratory:
    """The processes, which live through all layouts of a model."""

    root: Path
    ranks: list[Worker]
    engines: dict[int, Worker]
    """By the number of their workers."""

    def run(self, layout: str) -> None:
        """Train, publish, receive, load and ask: VERSIONS times, and check it all."""
        case = CASES[layout]
        directory = self.root / layout
        pods = [WeightPod(f"pod-{index}", directory / f"shm-{index}") for index in range(case.pods)]
        with ExitStack() as stack:
            for index, pod in enumerate(pods):
                stack.enter_context(serving(pod, TOKEN, f"127.0.0.{2 + index}"))
            self._start_ranks(layout, pods)
            receivers = [*pods, WeightPod("inference-0", directory / "inference")]
            previous: dict[int, Any] = {}
            for version in range(VERSIONS):
                exported = directory / f"exported-{version}"
                parts = self._ask_ranks(do="publish", export=str(exported))
                received = receive_everywhere([ManifestPart.model_validate(part) for part in parts], receivers)
                check_bytes(layout, pods, received, load_file(exported / "model.safetensors"))
                for size, engine in self.engines.items():
                    # Every kind of pod has its turn with every engine.
                    load = received[(version + size) % len(received)].load_file
                    answers = engine.ask(load_file=str(load), prompts=PROMPTS)
                    check_answers(exported, answers, previous.get(size))
                    previous[size] = answers
                self._ask_ranks(do="train")
            self._ask_ranks(do="close")

    def _start_ranks(self, layout: str, pods: list[WeightPod]) -> None:
        case = CASES[layout]
        model = self.root / case.model
        self._ask_ranks(
            do="start",
            job=build_job(case, model),
            model=str(model),
            checkpoints=str(self.root / layout / "checkpoints"),
            port=find_free_port(),
            ranks_per_pod=2 // case.pods,
            urls=[pod.url for pod in pods],
            shm_dirs=[str(pod.shm_dir) for pod in pods],
        )

    def _ask_ranks(self, **request: Any) -> list[Any]:
        for rank in self.ranks:
            rank.send(**request)
        return [rank.answer() for rank in self.ranks]


def build_job(case: Case, model: Path) -> str:
    job = {
        "apiVersion": "tandem.dev/v1alpha1",
        "kind": "RLJob",
        "metadata": {"name": "layouts"},
        "spec": {
            "iterations": VERSIONS + 1,
            "model": {"path": str(model)},
            "data": {"dataset": {"path": "unused.jsonl"}},
            "rewards": {"scorers": [{"type": "exact"}]},
            "rollout": {"prompts": 6, "groupSize": 4},
            "algorithm": {"loss": "omd", "learningRate": 0.01},
            "hybrid": {
                "device": "cpu",
                "replicas": case.pods,
                "ranksPerReplica": 2 // case.pods,
                "trainer": {"precision": "fp32", "threads": 1, **case.trainer},
                "inference": {"release": "none", "kvCacheBytes": 1 << 26},
            },
        },
    }
    return json.dumps(job)


def receive_everywhere(parts: list[ManifestPart], receivers: list[WeightPod]) -> list[ReceivedVersion]:
    """Commit as the master does, and let each pod's checkpoint engine take the version."""
    commit = build_commit(merge_parts(parts), token=1)

    async def receive() -> list[ReceivedVersion]:
        return [await receive_version(parts, commit, pod.name, pod.shm_dir, TOKEN) for pod in receivers]

    return asyncio.run(receive())


def check_bytes(
    layout: str, pods: list[WeightPod], received: list[ReceivedVersion], model: dict[str, torch.Tensor]
) -> None:
    """Hybrid pods have fetched exactly what their own ranks do not hold, inference pods exactly one model."""
    size = sum(tensor.nbytes for tensor in model.values())
    held = [size]
    if len(pods) > 1:
        held = [sum(held_bytes(layout, pod, name, x.shape) for name, x in model.items()) for pod in range(len(pods))]
    assert [each.local_bytes for each in received] == [*held, 0]
    assert [each.fetched_bytes for each in received] == [*(size - own for own in held), size]
    assert sum(pod.served_bytes for pod in pods) == sum(each.fetched_bytes for each in received)
    for pod in pods:
        pod.served_bytes = 0


def check_answers(exported: Path, answers: list[dict[str, Any]], previous: list[dict[str, Any]] | None) -> None:
    """Tokens and log-probabilities are those of transformers on the trainer's model, and not of the version before."""
    model = transformers.AutoModelForCausalLM.from_pretrained(exported).eval()
    for prompt, answer in zip(PROMPTS, answers, strict=True):
        with torch.no_grad():
            logits = model(torch.tensor([[*prompt, *answer["tokens"]]])).logits[0, len(prompt) - 1 : -1]
        expected = logits.log_softmax(-1).max(-1)
        assert answer["tokens"] == expected.indices.tolist()
        assert (torch.tensor(answer["logprobs"]) - expected.values).abs().max() < 1e-4
    if previous is not None:
        pairs = zip(answers, previous, strict=True)
        changes = [abs(answer["logprobs"][0] - before["logprobs"][0]) for answer, before in pairs]
        assert max(changes) > 1e-2, "the test could not tell this version from the one before"


def save_model(directory: Path, *, experts: bool) -> None:
    """Weights large enough for attention to matter; norms are not constant, which would hide a mistake."""
    sizes: dict[str, Any] = {
        "vocab_size": VOCABULARY,
        "hidden_size": HIDDEN,
        "intermediate_size": 128,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 32,
        "max_position_embeddings": 256,
        "initializer_range": 0.15,
        "tie_word_embeddings": not experts,
    }
    extra = {"num_experts": EXPERTS, "num_experts_per_tok": 2, "moe_intermediate_size": 64, "norm_topk_prob": True}
    torch.manual_seed(0)
    config = transformers.Qwen3MoeConfig(**sizes, **extra) if experts else transformers.Qwen3Config(**sizes)
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(directory)


@pytest.fixture(scope="module")
def root() -> Iterator[Path]:
    root = Path(tempfile.mkdtemp(prefix="tandem-layouts-", dir="/dev/shm"))
    save_model(root / "dense", experts=False)
    save_model(root / "experts", experts=True)
    yield root
    shutil.rmtree(root)


@pytest.fixture(scope="module")
def ranks(root: Path) -> Iterator[list[Worker]]:
    common = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "PYTHONWARNINGS": "ignore", "OMP_NUM_THREADS": "1"}
    with ExitStack() as stack:
        yield [
            stack.enter_context(
                Worker("layout_rank", log=root / f"rank-{rank}.log", RANK=str(rank), LOCAL_RANK=str(rank), **common)
            )
            for rank in range(2)
        ]


@pytest.fixture(scope="module")
def laboratory(request: pytest.FixtureRequest, root: Path, ranks: list[Worker]) -> Iterator[Laboratory]:
    """The engines of one model."""
    model = request.param
    with ExitStack() as stack:
        engines = {
            size: stack.enter_context(
                Worker(
                    *("layout_engine", str(root / model), str(size)),
                    log=root / f"{model}-{size}.log",
                )
            )
            for size in (1, 2)
        }
        yield Laboratory(root, ranks, engines)


@pytest.mark.parametrize(
    ("laboratory", "layout"),
    [
        pytest.param(case.model, name, marks=[] if name in REPRESENTATIVE else pytest.mark.long)
        for name, case in CASES.items()
    ],
    indirect=["laboratory"],
)
def test_the_served_weights_are_the_trainers_for_three_updates_in_a_row(laboratory: Laboratory, layout: str) -> None:
    laboratory.run(layout)
