"""Checkpoints, evaluation, deadlines and what else keeps a job going."""

from typing import Literal, Self

from pydantic import Field, JsonValue, model_validator

from tandem_core.job.schema import Count, ObjectName, Quantity, SpecModel, Text


class CheckpointSpec(SpecModel):
    """Where and how often training state is saved."""

    every: Count = Field(default=20, ge=1)
    """Iterations between checkpoints; the last iteration is always saved. What was trained since is replayed from
    the recorded batches after a crash, so nothing is lost or trained twice."""
    keep: Count = Field(default=2, ge=1)
    """How many checkpoints are kept."""
    claim: ObjectName | None = None
    """Name of a PersistentVolumeClaim (ReadWriteMany if there are several hybrid pods) for checkpoints and the
    trained model. Left out on a cluster: the job makes one of size `size`, which is deleted with the job: copy the
    model first."""
    size: Quantity = "100Gi"
    """Size of the claim the job makes."""
    storage_class: ObjectName | None = None
    """Storage class of the claim the job makes; left out: the cluster's default."""


class EvaluationSpec(SpecModel):
    """Greedy answers to held-out prompts."""

    every: Count = Field(default=50, ge=0)
    """Iterations between evaluations; 0: only before the first and after the last one."""
    prompts: Count = Field(default=256, ge=1)
    """Most held-out prompts in one evaluation."""


class DeadlineSpec(SpecModel):
    """Longest time of each phase in seconds; what is missing then is named in the error. None runs while pods wait for
    devices, a queue or a quota; and restarted ranks that train again since the checkpoint have the time for each batch.
    """

    startup: float = Field(default=600, gt=0)
    """From the start of the master until all members are there."""
    warmup: float = Field(default=7200, gt=0)
    """Warm-up, or loading a checkpoint and catching up with it."""
    rollout: float = Field(default=7200, gt=0)
    """Rollout; what is unfinished is carried over."""
    draining: float = Field(default=60, gt=0)
    """Draining."""
    training: float = Field(default=7200, gt=0)
    """Training."""
    publishing: float = Field(default=600, gt=0)
    """Publishing."""
    loading: float = Field(default=600, gt=0)
    """Loading; stragglers are left out and join when they are ready."""


class StorageSpec(SpecModel):
    """Where the rollout master keeps the replay buffer."""

    kind: Literal["sqlite", "postgresql"] = "sqlite"
    """sqlite: a file on a volume of the master's own; postgresql: a server that you name."""
    url_secret: ObjectName | None = None
    """For postgresql: name of the Secret whose key `url` holds the address (postgresql://user:password@host/db)."""
    size: Quantity = "20Gi"
    """For sqlite: size of the volume."""
    storage_class: ObjectName | None = None
    """For sqlite: storage class of the volume; left out: the cluster's default."""

    @model_validator(mode="after")
    def _postgresql_needs_an_address(self) -> Self:
        if (self.kind == "postgresql") != (self.url_secret is not None):
            raise ValueError(
                "storage.urlSecret goes with storage.kind: postgresql: it names the Secret whose key `url` holds the "
                "address; set both, or neither"
            )
        return self


class SecuritySpec(SpecModel):
    """Protection of what the job's parts say to each other."""

    tls: bool = False
    """Whether all HTTP between the job's parts is encrypted: batches, prompts, answers, and weights between pods. The
    job gets a certificate of its own; nothing has to be installed for it. Not encrypted are collectives between trainer
    ranks (NCCL, gloo), which know no TLS."""


class ImageSpec(SpecModel):
    """Container images; the operator's own defaults where left out."""

    trainer: Text | None = None
    """Image of the trainer."""
    sidecar: Text | None = None
    """Image of the checkpoint engine with vLLM."""
    rollout: Text | None = None
    """Image of the rollout master."""
    pull_policy: Literal["Always", "IfNotPresent", "Never"] = "IfNotPresent"
    """When images are pulled."""


class PodOverlaySpec(SpecModel):
    """Changes to the pods' templates, merged as kubectl's strategic merge patch does."""

    hybrid: dict[str, JsonValue] = {}
    """Patch of the hybrid pods' PodTemplateSpec."""
    master: dict[str, JsonValue] = {}
    """Patch of the master's PodTemplateSpec."""
    inference: dict[str, JsonValue] = {}
    """Patch of the inference pods' PodTemplateSpec."""
