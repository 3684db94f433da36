"""What is reported back about an RLJob."""

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Literal

from pydantic import AfterValidator, AwareDatetime

from tandem_core.job.schema import SpecModel
from tandem_core.phases import Phase


class WaitingPhase(StrEnum):
    """What a job is doing while its pods are not."""

    PENDING = "Pending"
    SUSPENDED = "Suspended"


def _whole_second(time: datetime) -> datetime:
    return time.replace(microsecond=0)


Timestamp = Annotated[AwareDatetime, AfterValidator(_whole_second)]
"""A time as Kubernetes writes it, without fractions of a second."""


class StatusModel(SpecModel):
    """A part of the status. Fields of other versions are ignored, times and phases are written as text."""

    model_config = SpecModel.model_config | {"extra": "ignore", "strict": False}


class Condition(StatusModel):
    """One aspect of the job's state, as in all of Kubernetes; docs/troubleshooting.md lists types and reasons."""

    type: str
    """Accepted, Ready, Progressing, Degraded, Suspended, Complete or Failed."""
    status: Literal["True", "False", "Unknown"]
    """Whether it holds."""
    reason: str
    """Why, in one word."""
    message: str = ""
    """Why, for a person, and what to do."""
    last_transition_time: Timestamp
    """Since when `status` is what it is."""
    observed_generation: int = 0
    """The metadata.generation that this is about."""


class RLJobStatus(StatusModel):
    """What is going on; written by the operator."""

    phase: WaitingPhase | Phase | None = None
    """Pending until the master has begun, Suspended while it waits, else the phase of the job."""
    iteration: int | None = None
    """The iteration in progress; 0: warm-up."""
    weight_version: int | None = None
    """The newest committed weights."""
    samples: int | None = None
    """Answers trained on so far."""
    reward: float | None = None
    """Moving average of the mean reward."""
    accuracy: float | None = None
    """The newest held-out greedy accuracy."""
    tokens_per_second: float | None = None
    """Generated in the last rollout phase."""
    train_to_infer_seconds: float | None = None
    """From the end of the last iteration's training until all engines served its weights."""
    infer_to_train_seconds: float | None = None
    """From the end of the last iteration's rollout until training began."""
    hybrid_replicas: int | None = None
    """Hybrid pods that there are to be."""
    hybrid_ready: int | None = None
    """Hybrid pods that are ready."""
    hybrid: str | None = None
    """hybridReady/hybridReplicas, for people."""
    inference_replicas: int | None = None
    """Inference pods that there are."""
    inference_ready: int | None = None
    """Inference pods that are ready."""
    inference_selector: str | None = None
    """Labels of the inference pods, as the scale subresource wants them."""
    failures: int | None = None
    """Pods that were lost and replaced."""
    last_scale_time: Timestamp | None = None
    """When the number of inference pods was last changed."""
    start_time: Timestamp | None = None
    """When the job's pods were first asked for."""
    stop_requested_time: Timestamp | None = None
    """When the job was asked to save a checkpoint and stop, because spec.suspend is true."""
    completion_time: Timestamp | None = None
    """When the job was done, or had failed for good."""
    message: str | None = None
    """What is wrong, how far a phase has come that lasts, or why the job failed."""
    observed_generation: int | None = None
    """The metadata.generation that this status is about."""
    conditions: list[Condition] = []
    """The aspects of the job's state."""
