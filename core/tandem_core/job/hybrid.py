"""The pods in which trainer and engine take turns, and the inference pods beside them."""

import re
from typing import Literal, Self

from pydantic import Field, model_validator

from tandem_core.job.schema import Count, Quantity, SpecModel, Text

EXPERT_PARALLEL = re.compile(r"^(--enable[-_]expert|-ep$)")
"""The ways in which vLLM's argument can be written."""


class TrainerSpec(SpecModel):
    """How Megatron cuts the model over all ranks; data parallelism is what remains."""

    tensor_parallel: Count = Field(default=1, ge=1)
    """Ranks that share each layer's matrices."""
    pipeline_parallel: Count = Field(default=1, ge=1)
    """Ranks that share the layers."""
    expert_parallel: Count = Field(default=1, ge=1)
    """Ranks that share the experts of a mixture-of-experts model."""
    sequence_parallel: bool = False
    """Whether tensor-parallel ranks also split the sequence outside the matrices (needs tensorParallel above 1)."""
    precision: Literal["fp32", "bf16"] = "bf16"
    """Number format of weights and activations."""
    tokens_per_microbatch: Count = Field(default=16_384, ge=1)
    """Most tokens, padding included, in one forward pass of a rank; larger batches are accumulated."""
    recompute: bool = False
    """Whether activations are computed again in the backward pass, to save memory."""
    threads: Count | None = Field(default=None, ge=1)
    """CPU threads of a rank; left out: chosen by PyTorch."""

    @model_validator(mode="after")
    def _sequence_parallel_needs_tensor_parallel(self) -> Self:
        if self.sequence_parallel and self.tensor_parallel == 1:
            raise ValueError("sequenceParallel needs tensorParallel above 1: set tensorParallel, or leave it out")
        return self


class InferenceSpec(SpecModel):
    """The vLLM engine of a pod."""

    tensor_parallel: Count = Field(default=1, ge=1)
    """Ranks that share each layer's matrices in one engine; must divide ranksPerReplica on GPUs."""
    release: Literal["sleep", "restart", "none"] = "sleep"
    """How the engine gives up its memory for training: sleep (vLLM's sleep mode), restart (the process ends and a
    new one starts: gives back everything, CUDA graphs and driver state included), none (it stays; for CPUs and
    models that fit twice)."""
    precision: Literal["fp32", "bf16", "auto"] = "auto"
    """Number format of the engine; auto takes the trainer's."""
    max_concurrent_sequences: Count = Field(default=256, ge=1)
    """Answers that one engine generates at a time."""
    gpu_memory_share: float = Field(default=0.85, gt=0, le=1)
    """Share of each GPU's memory that vLLM may take."""
    kv_cache_bytes: int | None = Field(default=None, ge=1_048_576, le=2**53)
    """Size of the key-value cache; needed on CPUs, on GPUs derived from gpuMemoryShare."""
    max_length: Count | None = Field(default=None, ge=8)
    """Longest sequence in tokens, prompt included; left out: the model's own limit."""
    extra_arguments: list[Text] = Field(default=[], max_length=128)
    """More arguments for vLLM's server, as they are."""


class HybridSpec(SpecModel):
    """Pods in which a trainer and an engine share the same devices."""

    replicas: Count = Field(default=1, ge=1)
    """Number of hybrid pods."""
    device: Literal["gpu", "cpu"] = "gpu"
    """What the pods compute on."""
    device_allocation: Literal["claim", "wholeNode"] = "claim"
    """How trainer and engine of a pod come to share its GPUs. claim: one ResourceClaim (dynamic resource allocation,
    Kubernetes 1.34) named by both; wholeNode: for clusters without that, the trainer asks the device plugin for
    ranksPerReplica GPUs, which must be all of a node, and the engine sees every GPU of the node
    without Kubernetes knowing."""
    ranks_per_replica: Count = Field(default=1, ge=1)
    """Trainer processes in each pod: its GPUs, or on cpu just processes."""
    trainer: TrainerSpec = Field(default_factory=TrainerSpec)
    """The trainer."""
    inference: InferenceSpec = Field(default_factory=InferenceSpec)
    """The engine."""
    shared_memory: Quantity = "64Gi"
    """Size of /dev/shm in each pod; holds two versions of the weights."""

    @property
    def world_size(self) -> int:
        """All trainer ranks of the job."""
        return self.replicas * self.ranks_per_replica

    @property
    def data_parallel(self) -> int:
        """Trainer replicas: the ranks divided by tensor and pipeline parallelism."""
        return self.world_size // (self.trainer.tensor_parallel * self.trainer.pipeline_parallel)

    @model_validator(mode="after")
    def _parallelism_divides_ranks(self) -> Self:
        trainer = self.trainer
        cut = trainer.tensor_parallel * trainer.pipeline_parallel
        if self.world_size % cut:
            raise ValueError(
                f"tensorParallel x pipelineParallel ({trainer.tensor_parallel} x {trainer.pipeline_parallel}) does not "
                f"divide the ranks, replicas x ranksPerReplica ({self.replicas} x {self.ranks_per_replica}): make the "
                f"product one of {_divisors(self.world_size)}, or change the ranks"
            )
        if (self.world_size // trainer.pipeline_parallel) % trainer.expert_parallel:
            raise ValueError(
                f"expertParallel ({trainer.expert_parallel}) does not divide the ranks of a pipeline stage "
                f"({self.world_size // trainer.pipeline_parallel}): make it one of "
                f"{_divisors(self.world_size // trainer.pipeline_parallel)}"
            )
        if self.device == "gpu" and self.ranks_per_replica % self.inference.tensor_parallel:
            raise ValueError(
                f"inference.tensorParallel ({self.inference.tensor_parallel}) does not divide ranksPerReplica "
                f"({self.ranks_per_replica}): make it one of {_divisors(self.ranks_per_replica)}"
            )
        return self

    @model_validator(mode="after")
    def _device_can_do_it(self) -> Self:
        if self.device == "gpu":
            return self
        if self.inference.release == "sleep":
            raise ValueError(
                "inference.release: sleep needs GPUs (vLLM's sleep does nothing on cpu): write restart or none"
            )
        if self.device_allocation == "wholeNode":
            raise ValueError("hybrid.deviceAllocation: wholeNode needs hybrid.device: gpu: set device, or leave it out")
        if self.inference.kv_cache_bytes is None:
            raise ValueError(
                "on cpu inference.kvCacheBytes must be set, or vLLM takes nearly all memory: for a small model "
                "write 67108864 (64 MiB)"
            )
        if any(EXPERT_PARALLEL.match(argument) for argument in self.inference.extra_arguments):
            raise ValueError(
                "inference.extraArguments: --enable-expert-parallel needs GPUs (on cpu it ends vLLM): remove it"
            )
        return self


def _divisors(number: int) -> list[int]:
    """Those that somebody could mean."""
    return [divisor for divisor in range(1, min(number, 1024) + 1) if number % divisor == 0]


class ElasticSpec(SpecModel):
    """Standalone inference pods that come while rollouts lag behind, and go."""

    min: Count = Field(default=0, ge=0)
    """Fewest inference pods."""
    max: Count = Field(default=0, ge=0)
    """Most inference pods."""
    scaler: Literal["tandem", "external"] = "tandem"
    """Who decides how many pods there are: tandem, by targetSeconds; or external: whoever writes `replicas`, such as a
    HorizontalPodAutoscaler, KEDA or `kubectl scale`, through the scale subresource."""
    replicas: Count | None = Field(default=None, ge=0)
    """For scaler: external: the inference pods wanted, kept within min and max. Left out: min."""
    target_seconds: float = Field(default=300.0, gt=0)
    """How long a rollout phase should take; decides how many pods are wanted."""
    max_staleness: Count = Field(default=1, ge=0)
    """How many versions older than the iteration's own an inference pod's weights may be. 1: it also works while others
    train. 0: it does not, and what it is at work on when a version is committed is begun anew."""

    @model_validator(mode="after")
    def _order(self) -> Self:
        if self.min > self.max:
            raise ValueError(f"elastic.min ({self.min}) must not exceed elastic.max ({self.max})")
        if self.replicas is not None and self.scaler != "external":
            raise ValueError("elastic.replicas needs elastic.scaler: external: set it, or remove replicas")
        return self
