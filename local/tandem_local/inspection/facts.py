"""What is known of a job: plain values, read on one machine or on a cluster."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from tandem_core.coordination.records import Summary
from tandem_core.coordination.snapshot import JobSnapshot
from tandem_core.job import RLJob, RLJobStatus
from tandem_rollout.storage.history import IterationRecord


@dataclass(frozen=True, slots=True)
class ContainerFacts:
    """A container of a pod."""

    name: str
    state: str
    """running, or why it is not."""
    ready: bool
    restarts: int
    last_end: str = ""
    """How it last ended, if that was in an error."""


@dataclass(frozen=True, slots=True)
class PodFacts:
    """A pod."""

    name: str
    """As members call it, the same after a replacement: job-hybrid-0."""
    object_name: str
    """As `kubectl` and log files call it."""
    component: str
    """hybrid, master or inference."""
    state: str
    """Pending, Running, Succeeded, Failed, or Terminating."""
    ready: bool
    node: str = ""
    """Or the pod's address on one machine."""
    containers: tuple[ContainerFacts, ...] = ()
    troubles: tuple[str, ...] = ()
    """What is wrong with it now, in Kubernetes' words."""

    @property
    def restarts(self) -> int:
        """Of all its containers."""
        return sum(container.restarts for container in self.containers)

    @property
    def ended(self) -> bool:
        """Whether its containers have ended for good."""
        return self.state in ("Succeeded", "Failed")


@dataclass(frozen=True, slots=True)
class EventFacts:
    """An Event of the job or of one of its objects."""

    at: float
    """Unix time in seconds of the newest one."""
    warning: bool
    about: str
    """Such as pod/addition-master-0-x7k2p."""
    reason: str
    message: str
    count: int = 1


@dataclass(frozen=True, slots=True)
class JobFacts:
    """All that is known of a job at one time."""

    name: str
    place: str
    """Such as: namespace team-a; this machine."""
    status: RLJobStatus
    generation: int = 1
    """metadata.generation: grows with each edit."""
    created_at: float = 0.0
    """Unix time in seconds."""
    deleting: bool = False
    job: RLJob | None = None
    """None: the specification is of another version of Tandem."""
    pods: tuple[PodFacts, ...] = ()
    events: tuple[EventFacts, ...] = ()
    iterations: tuple[IterationRecord, ...] = ()
    """The newest ones of the replay buffer, in order."""
    snapshot: JobSnapshot | None = None
    """None: etcd could not be asked."""
    problems: tuple[str, ...] = ()
    """What could not be read, and why."""
    logs: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """The last lines by pod/container; empty where nobody asked for them."""

    @property
    def summary(self) -> Summary | None:
        """What the master says."""
        return self.snapshot.summary if self.snapshot is not None else None

    @property
    def finished(self) -> bool:
        """Whether it has ended for good."""
        return any(
            condition.status == "True" and condition.type in ("Complete", "Failed")
            for condition in self.status.conditions
        )
