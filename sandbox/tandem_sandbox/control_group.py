"""What the sandbox needs of a control group, whatever holds its limits."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from tandem_core.sandbox.messages import Holding, Limits


@dataclass(frozen=True, slots=True)
class Usage:
    """What the processes of a group used since it was last cleaned."""

    cpu_seconds: float
    memory_bytes: int
    """Most at a time, page cache included."""
    out_of_memory: int
    """How often the kernel ended a process because the group was full."""


class ControlGroup(Protocol):
    """The group of one container at a time. Methods raise OSError."""

    watched: bool
    """Whether only looks hold some of the limits, and not the kernel."""

    def apply_limits(self, limits: Limits) -> None:
        """Set limits for the run that comes. Swap is off."""
        ...

    def add(self, process: int) -> None:
        """Move a process, as numbered here, into the group."""
        ...

    def observe_usage(self) -> Usage:
        """What was used."""
        ...

    def observe_cpu_seconds(self) -> float:
        """Processor time used."""
        ...

    def observe_held_bytes(self) -> int:
        """Memory in use now that cannot be had back: page cache is left out, files in memory are not."""
        ...

    def clean(self) -> None:
        """Wait until the group is empty, and forget usage. Raises TandemError if processes stay."""
        ...

    def remove(self) -> None:
        """Remove the group."""
        ...


class Groups(Protocol):
    """All groups of a service."""

    holds: Mapping[str, Holding]
    """How each of a run's limits is held."""

    def prepare(self) -> None:
        """Before the first is made. Raises OSError, TandemError."""
        ...

    def create(self, name: str) -> ControlGroup:
        """A new group. Raises OSError."""
        ...

    def remove_all(self) -> int:
        """Remove what a former service of the same name left; returns how many. Their processes are ended."""
        ...
