"""What a runner tells the world about its run, in state.json."""

from enum import StrEnum
from pathlib import Path

from pydantic import BaseModel, ConfigDict
from tandem_core.coordination.records import Summary

from tandem_local.restart_policy import ContainerKind


class StateModel(BaseModel):
    """A part of state.json; a newer version of Tandem may have written fields that this one does not know."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class Condition(StrEnum):
    """What a container or pod is doing."""

    WAITING = "waiting"
    """For containers before it."""
    STARTING = "starting"
    """Its process runs, its start-up probe has not passed."""
    RUNNING = "running"
    BACK_OFF = "waiting to restart"
    COMPLETED = "completed"
    FAILED = "failed"
    STOPPED = "stopped"


class ContainerState(StateModel):
    """A container."""

    name: str
    kind: ContainerKind
    condition: Condition = Condition.WAITING
    ready: bool = False
    restarts: int = 0
    pid: int | None = None
    exit_code: int | None = None
    """Of its last end."""
    message: str = ""
    """Why it was restarted or failed last."""


class PodState(StateModel):
    """A pod."""

    name: str
    workload: str
    address: str
    condition: Condition = Condition.WAITING
    replaced: int = 0
    """How often a failed pod was replaced by a new one of the same name."""
    containers: tuple[ContainerState, ...] = ()


class RunStatus(StrEnum):
    """What a run is doing."""

    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    STOPPED = "stopped"
    """By the user; it can be resumed."""

    @property
    def final(self) -> bool:
        """Whether nothing of it runs any more."""
        return self in (RunStatus.SUCCEEDED, RunStatus.FAILED, RunStatus.STOPPED)


class ProcessIdentity(StateModel):
    """A process that is not mistaken for a later one with the same id."""

    pid: int
    started_ticks: int
    """Clock ticks between the machine's start and the process's."""


class RunState(StateModel):
    """A run."""

    job: str
    uid: str
    run_id: str
    status: RunStatus = RunStatus.STARTING
    reason: str = ""
    """Why it failed or was stopped."""
    runner: ProcessIdentity | None = None
    working_directory: Path
    address_block: str
    etcd_endpoint: str = ""
    started_at: float
    """Unix time in seconds, as ended_at."""
    ended_at: float | None = None
    summary: Summary | None = None
    pods: tuple[PodState, ...] = ()
