"""What bench/handoff.py hands over: random Qwen3-shaped models, and the pod and engine that take them."""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from tandem_core.coordination.records import Role
from tandem_core.environment import PodEnvironment
from tandem_core.job import RLJob, parse_job
from tandem_core.model_files import prepare_model
from tandem_core.weights.manifest import Commit, ManifestPart
from tandem_sidecar.engine import Engine, EngineSettings
from tandem_sidecar.engine_arguments import build_engine_command
from tandem_trainer.architecture import Architecture, load_architecture
from tandem_trainer.layout import Layout
from tandem_trainer.naming import OwnedSlice, name_parameters, own_slices
from tandem_trainer.publish import Publication, Publisher, choose_threads
from tandem_trainer.shard_layout import Box, plan_layout

MIB = 1 << 20
TOKEN = "handoff"  # noqa: S105 - guards nothing
ADDRESS, OTHER_ADDRESS = "127.91.0.2", "127.91.0.3"
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
HIDDEN, UNIT_LAYERS, UNIT_VOCABULARY, UNIT_PARAMETERS = 1024, 4, 16384, 66_600_000
"""Larger models are multiples of one with this many layers and tokens."""


@dataclass(frozen=True)
class Model:
    """Weights of about `size_mib` in one number format; 0: the size of the demo's model."""

    directory: Path
    """In shared memory."""
    precision: str
    size_mib: int

    @cached_property
    def parameters(self) -> list[tuple[str, torch.Tensor]]:
        """Random values under Megatron's names."""
        torch.manual_seed(0)
        shapes = parameter_shapes(load_architecture(self.path))
        return [(name, torch.randn(shape).mul_(0.02).to(DTYPES[self.precision])) for name, shape in shapes]

    @cached_property
    def path(self) -> Path:
        """The Hugging Face directory, without weights."""
        path = prepare_model(self.job().spec.model, self.directory / "model")
        if self.size_mib:
            config = json.loads((path / "config.json").read_text()) | {"vocab_size": UNIT_VOCABULARY * self._units}
            (path / "config.json").write_text(json.dumps(config))
        return path

    def job(self, *extra_arguments: str) -> RLJob:
        """An RLJob whose engine serves the model."""
        scratch: dict[str, object] = {"tokenizer": {"tokens": ["0", "1", "2", "3"]}}
        if self.size_mib:
            scratch |= {"layers": UNIT_LAYERS * self._units, "hiddenSize": HIDDEN, "intermediateSize": 3 * HIDDEN}
            scratch |= {"attentionHeads": 16, "keyValueHeads": 8, "headSize": 64}
        inference = {"release": "none", "kvCacheBytes": 64 * MIB, "maxLength": 256, "extraArguments": extra_arguments}
        hybrid = {"device": "cpu", "trainer": {"precision": self.precision}, "inference": inference}
        data, rewards = {"reasoningGym": {"task": "chain_sum"}}, {"scorers": [{"type": "exact"}]}
        spec = {"iterations": 1, "model": {"scratch": scratch}, "data": data, "rewards": rewards, "hybrid": hybrid}
        head = {"apiVersion": "tandem.dev/v1alpha1", "kind": "RLJob", "metadata": {"name": "handoff"}}
        return parse_job(json.dumps(head | {"spec": spec}))

    @property
    def _units(self) -> int:
        return max(1, round(self.size_mib * MIB / DTYPES[self.precision].itemsize / UNIT_PARAMETERS))

    def slices(self) -> Iterator[OwnedSlice]:
        """What the only rank publishes."""
        pieces = name_parameters(self.parameters, 0, load_architecture(self.path), Layout())
        return own_slices(pieces, Layout())

    @property
    def size_bytes(self) -> int:
        """Of what is published."""
        return sum(Box.of(owned).size_bytes for owned in self.slices())

    def publisher(self, pod: str, url: str) -> Publisher:
        """The only rank's."""
        publication = Publication(0, 1, "bench", pod, url, self.directory)
        return Publisher(publication, plan_layout(map(Box.of, self.slices())), choose_threads(1))

    def engine(self, *extra_arguments: str) -> Engine:
        """The engine that the checkpoint engine would run."""
        token_file = self.directory / "token"
        token_file.write_text(TOKEN)
        pod = PodEnvironment(
            job_file=self.directory / "job.yaml",
            job_uid=f"handoff-{os.getpid()}",
            pod_name="pod-0",
            pod_ip=ADDRESS,
            etcd_endpoints="",
            token_file=token_file,
            shm_dir=self.directory,
            model_dir=self.directory / "model",
            checkpoint_dir=self.directory,
            data_dir=self.directory,
        )
        settings = EngineSettings(
            command=build_engine_command(self.job(*extra_arguments), pod, self.path, Role.SIDECAR),
            token=TOKEN,
            release="none",
            record_file=self.directory / "engine.json",
            start_timeout_seconds=600,
            max_concurrent_sequences=256,
        )
        return Engine(settings)


def parameter_shapes(architecture: Architecture) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes of Megatron's parameters of a Qwen3 model with tied embeddings."""
    hidden, inner, head = architecture.hidden_size, architecture.intermediate_size, architecture.head_size
    queries, keys = architecture.heads * head, architecture.key_value_heads * head
    yield "embedding.word_embeddings.weight", (architecture.vocabulary_size, hidden)
    for layer in range(architecture.layers):
        prefix = f"decoder.layers.{layer}"
        yield f"{prefix}.input_layernorm.weight", (hidden,)
        yield f"{prefix}.self_attention.linear_qkv.weight", (queries + 2 * keys, hidden)
        yield f"{prefix}.self_attention.q_layernorm.weight", (head,)
        yield f"{prefix}.self_attention.k_layernorm.weight", (head,)
        yield f"{prefix}.self_attention.linear_proj.weight", (hidden, queries)
        yield f"{prefix}.pre_mlp_layernorm.weight", (hidden,)
        yield f"{prefix}.mlp.linear_fc1.weight", (2 * inner, hidden)
        yield f"{prefix}.mlp.linear_fc2.weight", (hidden, inner)
    yield "decoder.final_layernorm.weight", (hidden,)


def build_commit(part: ManifestPart) -> Commit:
    """The commit of a version that one rank published."""
    return Commit(
        version=part.version,
        world_size=1,
        incarnation=part.incarnation,
        token=1,
        size_bytes=sum(piece.size_bytes for piece in part.slices),
        committed_at=0.0,
    )
