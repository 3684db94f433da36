"""Whether a job fits on a machine, and who gets which GPU. Pure, but for the sizes of a model's files."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tandem_core.errors import TandemError
from tandem_core.job import RLJob
from tandem_core.job.model import ModelSpec, ScratchModel

from tandem_local.machine import Machine
from tandem_local.pods import LocalPod

GIBIBYTE = 2**30

# Resident memory of each program with a tiny model, measured on CPU with torch 2.13, vLLM 0.32 and Megatron-core 0.19.
_TRAINER_RANK_BYTES = int(1.2e9)
_ENGINE_BYTES = int(2.2e9)
_MASTER_BYTES = int(0.5e9)
_TRAINING_BYTES_PER_PARAMETER = 16  # fp32 weight and gradient, and Adam's two moments
_SHARED_VERSIONS = 3  # two published versions alternate, and the engine's full tensors


class DoesNotFit(TandemError):
    """The job needs more than the machine has."""


@dataclass(frozen=True)
class Need:
    """Sizes in bytes."""

    hybrid_pod_bytes: int
    """Of one hybrid pod, its shared memory included."""
    total_bytes: int
    shared_memory_bytes: int
    """Of all pods; a part of total_bytes."""


def count_parameters(model: ScratchModel) -> int:
    """Parameters of a model made from scratch; without norms, which are few."""
    vocabulary = len(model.tokenizer.tokens) + 2
    attention = 2 * model.hidden_size * model.head_size * (model.attention_heads + model.key_value_heads)
    feed_forward = 3 * model.hidden_size * model.intermediate_size * max(1, model.experts)
    embeddings = vocabulary * model.hidden_size * (1 if model.tie_embeddings else 2)
    return embeddings + model.layers * (attention + feed_forward)


def estimate_parameters(model: ModelSpec) -> int:
    """Parameters of the model; from the size of its files for a path, 0 for a model still to be downloaded."""
    if model.scratch is not None:
        return count_parameters(model.scratch)
    if model.path is not None:
        return sum(file.stat().st_size for file in Path(model.path).glob("*.safetensors")) // 2
    return 0


def estimate_need(job: RLJob, parameters: int) -> Need:
    """Memory that the job's pods need on a CPU; on GPUs the host memory, which is about the same."""
    hybrid = job.spec.hybrid
    weight_bytes = parameters * (4 if hybrid.trainer.precision == "fp32" else 2)
    cut = hybrid.trainer.tensor_parallel * hybrid.trainer.pipeline_parallel
    on_cpu = hybrid.device == "cpu"
    training = parameters * _TRAINING_BYTES_PER_PARAMETER // cut
    shared = _SHARED_VERSIONS * weight_bytes
    engine = _ENGINE_BYTES + (weight_bytes + (hybrid.inference.kv_cache_bytes or 0) if on_cpu else 0)
    pod = hybrid.ranks_per_replica * (_TRAINER_RANK_BYTES + training) + engine + shared
    inference_pods = job.spec.elastic.min
    return Need(
        hybrid_pod_bytes=pod,
        total_bytes=hybrid.replicas * pod + inference_pods * (engine + shared) + _MASTER_BYTES,
        shared_memory_bytes=(hybrid.replicas + inference_pods) * shared,
    )


def check_fit(job: RLJob, need: Need, pods: Sequence[LocalPod], machine: Machine) -> None:
    """Raises DoesNotFit with what is missing and what to do about it."""
    gpus = sum(pod.devices for pod in pods)
    if gpus > len(machine.gpus):
        raise DoesNotFit(
            f"{job.metadata.name} needs {gpus} GPUs, {len(machine.gpus)} are there: lower spec.hybrid.replicas or "
            "spec.hybrid.ranksPerReplica, or write spec.hybrid.device: cpu (with inference.release: none and "
            "inference.kvCacheBytes: 67108864)"
        )
    if need.total_bytes > machine.available_bytes:
        smaller = "end other programs"
        if job.spec.hybrid.replicas > 1:
            smaller += f", lower spec.hybrid.replicas (each pod needs about {_gib(need.hybrid_pod_bytes)})"
        raise DoesNotFit(
            f"{job.metadata.name} needs about {_gib(need.total_bytes)} of memory, {_gib(machine.available_bytes)} of "
            f"this machine's {_gib(machine.memory_bytes)} are available: {smaller}, or take a smaller model. "
            "--force starts it anyway"
        )
    if need.shared_memory_bytes > machine.shared_memory_free_bytes:
        raise DoesNotFit(
            f"{job.metadata.name} needs about {_gib(need.shared_memory_bytes)} in /dev/shm, "
            f"{_gib(machine.shared_memory_free_bytes)} are free: enlarge it (mount -o remount,size=... /dev/shm; in a "
            "container --shm-size), or take a smaller model. --force starts it anyway"
        )


def assign_devices(pods: Sequence[LocalPod], gpus: Sequence[str]) -> dict[str, str]:
    """CUDA_VISIBLE_DEVICES of each pod: GPUs of its own, or none. Left-over pods of a too small machine share them."""
    assigned: dict[str, str] = {}
    used = 0
    for pod in pods:
        mine = [gpus[(used + number) % len(gpus)] for number in range(pod.devices)] if gpus else []
        assigned[pod.name] = ",".join(mine)
        used += pod.devices
    return assigned


def _gib(size_bytes: int) -> str:
    return f"{size_bytes / GIBIBYTE:.1f} GiB"
