"""What bench/gpu.py measures with: models of Qwen3's shapes in a GPU's memory, and a trainer of one."""

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tandem_core.batches import TrainingBatch
from tandem_core.job import RLJob, parse_job
from tandem_trainer.architecture import Architecture
from tandem_trainer.layout import Layout
from tandem_trainer.naming import OwnedSlice, name_parameters, own_slices
from tandem_trainer.publish import Publication, Publisher, choose_threads
from tandem_trainer.shard_layout import Box, plan_layout
from tandem_trainer.trainer import Trainer

from bench.handoff_model import parameter_shapes
from tools.free_ports import find_free_port

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
SHAPES: dict[str, dict[str, Any]] = {
    "tiny": {"hidden_size": 64, "intermediate_size": 192, "num_hidden_layers": 2, "vocab_size": 512},
    "0.6b": {"hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 28, "vocab_size": 151_936},
    "4b": {"hidden_size": 2560, "intermediate_size": 9728, "num_hidden_layers": 36, "vocab_size": 151_936},
}
HEADS = {"tiny": 4, "0.6b": 16, "4b": 32}
SEQUENCES, LENGTH = 8, 512


def config(name: str) -> dict[str, Any]:
    """config.json of the Qwen3 model of that size."""
    return SHAPES[name] | {
        "model_type": "qwen3",
        "architectures": ["Qwen3ForCausalLM"],
        "num_attention_heads": HEADS[name],
        "num_key_value_heads": min(8, HEADS[name]),
        "head_dim": 128,
        "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1_000_000.0,
        "tie_word_embeddings": True,
    }


@dataclass(frozen=True)
class HandedOver:
    """Random bf16 weights under Megatron's names on the device."""

    directory: Path
    """In shared memory."""
    name: str

    @cached_property
    def architecture(self) -> Architecture:
        """Of the model."""
        return Architecture.from_config(config(self.name))

    @cached_property
    def parameters(self) -> list[tuple[str, torch.Tensor]]:
        """Names and values."""
        torch.manual_seed(0)
        shapes = parameter_shapes(self.architecture)
        return [(name, torch.randn(shape, dtype=torch.bfloat16, device=DEVICE)) for name, shape in shapes]

    def slices(self) -> Iterator[OwnedSlice]:
        """What the only rank publishes."""
        return own_slices(name_parameters(self.parameters, 0, self.architecture, Layout()), Layout())

    @property
    def size_bytes(self) -> int:
        """Of what is published."""
        return sum(Box.of(owned).size_bytes for owned in self.slices())

    def publisher(self) -> Publisher:
        """The only rank's."""
        publication = Publication(0, 1, "bench", "pod-0", "", self.directory)
        return Publisher(publication, plan_layout(map(Box.of, self.slices())), choose_threads(1))


@dataclass
class TrainingRun:
    """A trainer, and a batch for each of its steps."""

    trainer: Trainer
    vocabulary_size: int

    def step(self) -> dict[str, float]:
        """One iteration."""
        return self.trainer.train(_make_batch(self.trainer.trained + 1, self.vocabulary_size))

    def kept_bytes(self) -> int:
        """What offload moves: weights and optimiser state."""
        tensors = self.trainer._offload._tensors()
        storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}
        return sum(storages.values())


@contextmanager
def training(name: str, precision: str) -> Iterator[TrainingRun]:
    """A trainer of one rank with random weights that is past its warm-up, on the device."""
    with tempfile.TemporaryDirectory() as temporary:
        directory = Path(temporary)
        (directory / "config.json").write_text(json.dumps(config(name)))
        os.environ |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1"}
        os.environ["MASTER_PORT"] = str(find_free_port())
        trainer = Trainer(_job(directory, precision), directory, directory / "checkpoints")
        trainer.trained = 0
        try:
            yield TrainingRun(trainer, SHAPES[name]["vocab_size"])
        finally:
            trainer.close()


def used_device_bytes() -> int:
    """Of the whole GPU, as it sees it; 0 without one."""
    if DEVICE.type == "cpu":
        return 0
    free, total = torch.cuda.mem_get_info()
    return int(total - free)


def synchronize() -> None:
    """Wait for the GPU, if there is one."""
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()


def _job(model_dir: Path, precision: str) -> RLJob:
    device = "gpu" if DEVICE.type == "cuda" else "cpu"
    inference = {"release": "none", "kvCacheBytes": 1 << 26} if device == "cpu" else {"release": "sleep"}
    hybrid = {"device": device, "trainer": {"precision": precision}, "inference": inference}
    data, rewards = {"dataset": {"path": "unused.jsonl"}}, {"scorers": [{"type": "exact"}]}
    spec = {"iterations": 1, "model": {"path": str(model_dir)}, "data": data, "rewards": rewards, "hybrid": hybrid}
    head = {"apiVersion": "tandem.dev/v1alpha1", "kind": "RLJob", "metadata": {"name": "gpu"}}
    return parse_job(json.dumps(head | {"spec": spec}))


def _make_batch(iteration: int, vocabulary_size: int) -> TrainingBatch:
    generator, tokens = np.random.default_rng(iteration), SEQUENCES * LENGTH
    return TrainingBatch(
        iteration=iteration,
        tokens=generator.integers(0, vocabulary_size, tokens).astype(np.int32),
        lengths=np.full(SEQUENCES, LENGTH, np.int32),
        loss_mask=np.arange(tokens) % LENGTH > 0,
        behaviour_logprobs=np.zeros(tokens, np.float32),
        versions=np.zeros(tokens, np.int32),
        advantages=generator.normal(size=SEQUENCES).astype(np.float32),
        rewards=np.zeros(SEQUENCES, np.float32),
        groups=np.arange(SEQUENCES, dtype=np.int32) // 4,
    )
