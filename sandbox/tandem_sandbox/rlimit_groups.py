"""Limits of containers without control groups: the kernel's for each process, and looks at all of them together.

A container's processes are those below the program that made it. Time is known in steps of 10 ms.
"""

import math
import os
import resource
from collections.abc import Mapping
from pathlib import Path

from tandem_core.sandbox.messages import Holding, Limits

from tandem_sandbox.control_group import ControlGroup, Usage
from tandem_sandbox.processes import PROC, descend
from tandem_sandbox.runtime import OWN_PROCESSES

_TICKS = os.sysconf("SC_CLK_TCK")
_SPARE_SECONDS = 2
_AT_ONCE = 2  # times its memory that one process may ask for before a look finds it


class RlimitGroups:
    """Groups that are nothing but processes: nothing is to be prepared, nothing stays."""

    holds: Mapping[str, Holding] = {
        "cpu_seconds": Holding.WATCHED,
        "wall_seconds": Holding.EXACT,
        "memory_bytes": Holding.WATCHED,
        "processes": Holding.EXACT,
        "cpus": Holding.NOT,
        "output_bytes": Holding.EXACT,
        "disk_bytes": Holding.EXACT,
        "files": Holding.EXACT,
    }

    def prepare(self) -> None:
        """Nothing to do."""

    def create(self, name: str) -> ControlGroup:
        """A group; the name is for nobody."""
        return RlimitGroup()

    def remove_all(self) -> int:
        """Nothing stays: the kernel ends all processes with the service's own namespace."""
        return 0


class RlimitGroup:
    """The processes of one container."""

    watched = True

    def __init__(self) -> None:
        self._first = self._runtime = 0
        self._memory_bytes = 0
        self._spent_before = 0.0
        self._cpu_seconds = 0.0
        self._most_bytes = 0

    def add(self, process: int) -> None:
        """Look after it, and all that is below its parent, which waits for it and then knows its time."""
        self._first = process
        self._runtime = int(_read_stat(process)[1])

    def apply_limits(self, limits: Limits) -> None:
        """To the first process, which hands them on; those of memory and time are there in case that nobody looks.

        The kernel counts processes in the container's own user namespace: all of them together, and no others.
        """
        self._memory_bytes = limits.memory_bytes
        self._spent_before = self._observe_spent()
        for kind, value in (
            (resource.RLIMIT_NPROC, limits.processes + OWN_PROCESSES["crun"]),
            (resource.RLIMIT_DATA, _AT_ONCE * limits.memory_bytes),
            (resource.RLIMIT_CPU, math.ceil(limits.cpu_seconds) + _SPARE_SECONDS),
        ):
            resource.prlimit(self._first, kind, (value, value))

    def observe_cpu_seconds(self) -> float:
        """Of processes that are there or were waited for; the last number once all have ended."""
        self._cpu_seconds = max(self._cpu_seconds, self._observe_spent() - self._spent_before)
        return self._cpu_seconds

    def observe_held_bytes(self) -> int:
        """Of all processes; pages that they share are counted once if it is much."""
        processes = [PROC / str(process) for process in descend(self._runtime)]
        held = sum(_read_bytes(process / "status", ("RssAnon", "RssShmem")) for process in processes)
        if held > self._memory_bytes:
            names = ("Pss_Anon", "Pss_Shmem")
            held = sum(_read_bytes(process / "smaps_rollup", names) for process in processes)
        self._most_bytes = max(self._most_bytes, held)
        return held

    def observe_usage(self) -> Usage:
        """What was seen at the looks."""
        return Usage(self._cpu_seconds, self._most_bytes, 0)

    def clean(self) -> None:
        """Forget the last container."""
        self._cpu_seconds, self._most_bytes = 0.0, 0

    def remove(self) -> None:
        """Nothing to do."""

    def _observe_spent(self) -> float:
        """Seconds in user and system mode, of processes and of the children that they waited for."""
        ticks = 0
        for process in descend(self._runtime):
            try:
                ticks += sum(int(field) for field in _read_stat(process)[11:15])
            except (FileNotFoundError, ProcessLookupError):
                continue
        return ticks / _TICKS


def _read_stat(process: int) -> list[str]:
    """Fields of /proc/PID/stat from the third one on: before it stands a name, which may hold anything."""
    return (PROC / str(process) / "stat").read_text().rpartition(")")[2].split()


def _read_bytes(file: Path, names: tuple[str, ...]) -> int:
    """The sum of these fields, which are in kilobytes; 0 for a process that has ended."""
    try:
        lines = file.read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    fields = (line.split(":", 1) for line in lines if ":" in line)
    return sum(int(value.split()[0]) << 10 for name, value in fields if name in names)
