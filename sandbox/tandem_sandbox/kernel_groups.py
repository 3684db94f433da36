"""One control group of the kernel, of version 1 or 2: made once, limited and cleaned for each use."""

import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from tandem_core.errors import TandemError
from tandem_core.sandbox.messages import Limits

from tandem_sandbox.control_group import Usage

_PERIOD_MICROSECONDS = 100_000
_WORTH_RECLAIMING_BYTES = 1 << 20
_EMPTY_SECONDS = 10.0
_MOST_BYTES = 1 << 16


def _wait_empty(folder: str, is_empty: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _EMPTY_SECONDS
    while not is_empty():
        if time.monotonic() > deadline:
            raise TandemError(f"processes stay in {folder} although their container has ended")
        time.sleep(0.002)


class GroupV1:
    """A group in each of the hierarchies memory, pids, cpu and cpuacct."""

    watched = False

    def __init__(self, folders: Mapping[str, Path], own_processes: int) -> None:
        self._own_processes = own_processes
        self._folders: Sequence[Path] = list(dict.fromkeys(folders.values()))
        self._memory, self._pids, self._cpu = (str(folders[name]) for name in ("memory", "pids", "cpu"))
        self._usage = f"{folders['cpuacct']}/cpuacct.usage"
        for folder in self._folders:
            folder.mkdir()
        self._has_swap = os.path.exists(f"{self._memory}/memory.memsw.limit_in_bytes")
        self._limits: Limits | None = None
        self._started_at = 0
        self._killed_before = 0

    def apply_limits(self, limits: Limits) -> None:
        """They stay until others come.

        Memory together with swap can never be less than memory alone, so it is set last, and lifted first.
        """
        if limits == self._limits:
            return
        self._limits = None
        if self._has_swap:
            _write(f"{self._memory}/memory.memsw.limit_in_bytes", -1)
        _write(f"{self._memory}/memory.limit_in_bytes", limits.memory_bytes)
        if self._has_swap:
            _write(f"{self._memory}/memory.memsw.limit_in_bytes", limits.memory_bytes)
        _write(f"{self._pids}/pids.max", limits.processes + self._own_processes)
        _write(f"{self._cpu}/cpu.cfs_quota_us", int(limits.cpus * _PERIOD_MICROSECONDS))
        self._limits = limits

    def add(self, process: int) -> None:
        """Into all hierarchies."""
        for folder in self._folders:
            _write(f"{folder}/cgroup.procs", process)

    def observe_cpu_seconds(self) -> float:
        """Of all processes since the last cleaning."""
        return (int(_read(self._usage)) - self._started_at) / 1e9

    def observe_usage(self) -> Usage:
        """Since the last cleaning."""
        peak = int(_read(f"{self._memory}/memory.max_usage_in_bytes"))
        return Usage(self.observe_cpu_seconds(), peak, self._killed() - self._killed_before)

    def observe_held_bytes(self) -> int:
        """Of all processes."""
        stat = f"{self._memory}/memory.stat"
        return _read_field(stat, "rss") + _read_field(stat, "shmem")

    def clean(self) -> None:
        """Page cache that the last container was charged for goes too, or it would count as the next one's."""
        _wait_empty(self._memory, lambda: not _read(f"{self._memory}/cgroup.procs"))
        if int(_read(f"{self._memory}/memory.usage_in_bytes")) > _WORTH_RECLAIMING_BYTES:
            _write(f"{self._memory}/memory.force_empty", 0)
        _write(f"{self._memory}/memory.max_usage_in_bytes", 0)
        self._started_at = int(_read(self._usage))
        self._killed_before = self._killed()

    def remove(self) -> None:
        """From all hierarchies."""
        for folder in self._folders:
            folder.rmdir()

    def _killed(self) -> int:
        return _read_field(f"{self._memory}/memory.oom_control", "oom_kill")


class GroupV2:
    """A group of the one hierarchy. It is made anew for each use: not every kernel lets memory.peak be reset."""

    watched = False

    def __init__(self, folder: Path, own_processes: int) -> None:
        self._own_processes = own_processes
        self._folder = str(folder)
        folder.mkdir()

    def apply_limits(self, limits: Limits) -> None:
        """Swap is off where the kernel has it."""
        _write(f"{self._folder}/memory.max", limits.memory_bytes)
        if os.path.exists(f"{self._folder}/memory.swap.max"):
            _write(f"{self._folder}/memory.swap.max", 0)
        _write(f"{self._folder}/pids.max", limits.processes + self._own_processes)
        _write(f"{self._folder}/cpu.max", f"{int(limits.cpus * _PERIOD_MICROSECONDS)} {_PERIOD_MICROSECONDS}")

    def add(self, process: int) -> None:
        """Into the group."""
        _write(f"{self._folder}/cgroup.procs", process)

    def observe_cpu_seconds(self) -> float:
        """Of all processes."""
        return _read_field(f"{self._folder}/cpu.stat", "usage_usec") / 1e6

    def observe_usage(self) -> Usage:
        """Since the group was made."""
        killed = _read_field(f"{self._folder}/memory.events", "oom_kill")
        return Usage(self.observe_cpu_seconds(), int(_read(f"{self._folder}/memory.peak")), killed)

    def observe_held_bytes(self) -> int:
        """Of all processes."""
        stat = f"{self._folder}/memory.stat"
        return _read_field(stat, "anon") + _read_field(stat, "shmem")

    def clean(self) -> None:
        """Make it anew. A process that has ended is no longer in cgroup.procs, but keeps the group for a moment."""
        _wait_empty(self._folder, lambda: _read_field(f"{self._folder}/cgroup.events", "populated") == 0)
        os.rmdir(self._folder)
        os.mkdir(self._folder)

    def remove(self) -> None:
        """From the hierarchy."""
        os.rmdir(self._folder)


def _read(path: str) -> bytes:
    # Some ten of these files are read or written for each run: the layers of `open` would take longer than the kernel.
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(file, _MOST_BYTES).strip()
    finally:
        os.close(file)


def _write(path: str, value: int | str) -> None:
    file = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(file, str(value).encode())
    finally:
        os.close(file)


def _read_field(path: str, name: str) -> int:
    """The number behind `name` in a file of lines "name number"."""
    for line in _read(path).decode().splitlines():
        field, _, value = line.partition(" ")
        if field == name:
            return int(value)
    raise TandemError(f"{path} has no field {name}: this kernel is too old for the sandbox (4.13 or newer)")
