"""The RLJob: what a user writes, and what is reported back."""

from typing import Literal, Self

from pydantic import Field, model_validator

from tandem_core.job.algorithm import AlgorithmSpec, WarmupSpec
from tandem_core.job.data import DataSpec
from tandem_core.job.hybrid import ElasticSpec, HybridSpec
from tandem_core.job.model import ModelSpec
from tandem_core.job.operations import (
    CheckpointSpec,
    DeadlineSpec,
    EvaluationSpec,
    ImageSpec,
    PodOverlaySpec,
    SecuritySpec,
    StorageSpec,
)
from tandem_core.job.rewards import ReasoningGymReward, RewardSpec
from tandem_core.job.rollout import RolloutSpec
from tandem_core.job.scheduling import SchedulingSpec
from tandem_core.job.schema import Count, SpecModel
from tandem_core.job.status import RLJobStatus

API_GROUP = "tandem.dev"
API_VERSION = f"{API_GROUP}/v1alpha1"

CPU_HEAD_SIZES = (32, 64, 80, 96, 112, 128, 160, 192, 224, 256, 512)
"""Of vLLM's attention on CPUs (vllm/v1/attention/backends/cpu_attn.py); with any other its engine never starts."""


class RLJobSpec(SpecModel):
    """One reinforcement-learning run."""

    iterations: Count = Field(ge=1)
    """Iterations of rollout and training."""
    seed: Count = Field(default=0, ge=0)
    """Seed of model, prompts and sampling."""
    model: ModelSpec
    """The model to train."""
    data: DataSpec
    """Prompts."""
    rewards: RewardSpec
    """Scoring."""
    algorithm: AlgorithmSpec = Field(default_factory=AlgorithmSpec)
    """Loss and optimiser."""
    warmup: WarmupSpec = Field(default_factory=WarmupSpec)
    """Supervised fine-tuning first."""
    rollout: RolloutSpec = Field(default_factory=RolloutSpec)
    """Generation."""
    hybrid: HybridSpec = Field(default_factory=HybridSpec)
    """Pods with trainer and engine."""
    elastic: ElasticSpec = Field(default_factory=ElasticSpec)
    """Inference pods that come and go."""
    scheduling: SchedulingSpec = Field(default_factory=SchedulingSpec)
    """Gangs, queues and priorities."""
    checkpoint: CheckpointSpec = Field(default_factory=CheckpointSpec)
    """Saving."""
    evaluation: EvaluationSpec = Field(default_factory=EvaluationSpec)
    """Held-out accuracy."""
    deadlines: DeadlineSpec = Field(default_factory=DeadlineSpec)
    """Longest times."""
    storage: StorageSpec = Field(default_factory=StorageSpec)
    """Replay buffer."""
    security: SecuritySpec = Field(default_factory=SecuritySpec)
    """Encryption."""
    images: ImageSpec = Field(default_factory=ImageSpec)
    """Container images."""
    pods: PodOverlaySpec = Field(default_factory=PodOverlaySpec)
    """Changes to the pods' templates."""
    suspend: bool = False
    """Whether the job is to give back its devices and wait."""
    backoff_limit: Count = Field(default=6, ge=0)
    """Restarts of a container or pod before the job counts as failed."""
    ttl_seconds_after_finished: Count | None = Field(default=None, ge=0)
    """Seconds after which a finished job is deleted; left out: never."""

    @model_validator(mode="after")
    def _scratch_model_fits_its_pods(self) -> Self:
        scratch, hybrid, trainer = self.model.scratch, self.hybrid, self.hybrid.trainer
        if scratch is None:
            return self
        if scratch.attention_heads % trainer.tensor_parallel or scratch.key_value_heads % trainer.tensor_parallel:
            raise ValueError(
                f"hybrid.trainer.tensorParallel ({trainer.tensor_parallel}) must divide "
                f"model.scratch.attentionHeads ({scratch.attention_heads}) and "
                f"keyValueHeads ({scratch.key_value_heads}): lower it, or change the heads"
            )
        if scratch.layers % trainer.pipeline_parallel:
            raise ValueError(
                f"hybrid.trainer.pipelineParallel ({trainer.pipeline_parallel}) must divide "
                f"model.scratch.layers ({scratch.layers})"
            )
        if trainer.expert_parallel > 1 and (not scratch.experts or scratch.experts % trainer.expert_parallel):
            raise ValueError(
                f"hybrid.trainer.expertParallel ({trainer.expert_parallel}) must divide model.scratch.experts "
                f"({scratch.experts}); without experts leave it out"
            )
        if hybrid.device == "cpu" and scratch.head_size not in CPU_HEAD_SIZES:
            raise ValueError(
                f"model.scratch.headSize ({scratch.head_size}) is none that vLLM knows on cpu: "
                f"write one of {', '.join(map(str, CPU_HEAD_SIZES))}"
            )
        return self

    @model_validator(mode="after")
    def _answers_can_be_scored_and_compared(self) -> Self:
        rollout, loss = self.rollout, self.algorithm.loss
        if any(isinstance(scorer, ReasoningGymReward) for scorer in self.rewards.scorers) and (
            self.data.reasoning_gym is None
        ):
            raise ValueError("a reasoning-gym reward needs data.reasoningGym: use exact, math or regex for a dataset")
        if rollout.group_size == 1 and loss in ("omd", "grpo"):
            raise ValueError(
                f"rollout.groupSize must be at least 2 for algorithm.loss ({loss}): answers are compared "
                "within their group; a group of one teaches nothing"
            )
        if rollout.temperature == 0 and loss in ("omd", "grpo"):
            raise ValueError(
                f"rollout.temperature 0 (greedy) makes all answers of a group alike, and algorithm.loss "
                f"({loss}) learns from their differences: write loss: rest, or a temperature above 0"
            )
        if self.algorithm.updates_per_iteration > (rollout.complete_prompts or rollout.prompts):
            raise ValueError(
                f"algorithm.updatesPerIteration ({self.algorithm.updates_per_iteration}) must not exceed the prompts "
                f"of an iteration ({rollout.complete_prompts or rollout.prompts}): rollout.completePrompts or "
                "rollout.prompts"
            )
        return self


class ObjectMeta(SpecModel):
    """The metadata Tandem reads; Kubernetes keeps more."""

    model_config = SpecModel.model_config | {"extra": "ignore"}

    name: str = Field(pattern=r"^[a-z]([-a-z0-9]{0,40}[a-z0-9])?$")
    """Name, a DNS label of at most 42 characters that begins with a letter: pod and service names are made from it."""
    namespace: str = "default"
    """Namespace."""
    uid: str = ""
    """The API server's identifier; `tandem run` makes one."""
    generation: int = 0
    """Counts changes of the spec."""
    labels: dict[str, str] = {}
    """Labels."""
    annotations: dict[str, str] = {}
    """Annotations."""


class RLJob(SpecModel):
    """A reinforcement-learning job: a Megatron trainer and vLLM engines that share GPUs and take turns."""

    api_version: Literal["tandem.dev/v1alpha1"]
    """tandem.dev/v1alpha1"""
    kind: Literal["RLJob"]
    """RLJob"""
    metadata: ObjectMeta
    """Name and namespace."""
    spec: RLJobSpec
    """What to do."""
    status: RLJobStatus | None = None
    """What is going on; written by the operator."""
