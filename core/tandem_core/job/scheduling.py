"""Who decides when and where a job's pods start."""

from typing import Literal, Self

from pydantic import Field, model_validator

from tandem_core.job.schema import SpecModel


class SchedulingSpec(SpecModel):
    """How all pods of a job come to start together, and before whose."""

    gang: Literal["none", "kueue", "volcano", "coscheduling"] = "none"
    """Who sees to it that hybrid and master pods start together or not at all. none: Kubernetes starts each as it can;
    kueue: Kueue holds the job back until its queue has room; volcano: Volcano's scheduler, with a PodGroup;
    coscheduling: the coscheduling plugin of scheduler-plugins, with a PodGroup."""
    queue: str | None = Field(default=None, pattern=r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$")
    """kueue: the LocalQueue, in the job's namespace; volcano: the Queue, its default one if left out."""
    priority_class: str | None = Field(default=None, pattern=r"^[a-z0-9]([-.a-z0-9]{0,251}[a-z0-9])?$")
    """PriorityClass of the job's pods; left out: the cluster's default."""

    @model_validator(mode="after")
    def _queues_are_for_who_has_them(self) -> Self:
        if self.gang == "kueue" and self.queue is None:
            raise ValueError("scheduling.gang: kueue needs scheduling.queue: write the name of a LocalQueue")
        if self.queue is not None and self.gang not in ("kueue", "volcano"):
            raise ValueError("scheduling.queue needs scheduling.gang: kueue or volcano: set gang, or remove queue")
        return self
