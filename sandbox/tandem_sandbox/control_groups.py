"""Control groups of containers: made once, limited and cleaned for each use. Version 1 (hybrid too) and version 2."""

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from tandem_core.errors import TandemError
from tandem_core.sandbox.messages import Holding, Limits

from tandem_sandbox.runtime import HOLDS_LESS, OWN_PROCESSES

_PERIOD_MICROSECONDS = 100_000
_CONTROLLERS = ("memory", "pids", "cpu", "cpuacct")
_WORTH_RECLAIMING_BYTES = 1 << 20
_EMPTY_SECONDS = 10.0


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


@dataclass(frozen=True, slots=True)
class Hierarchies:
    """Where groups are made."""

    controllers: Mapping[str, Path]
    """Version 1: controller -> the folder of our own group. Empty: version 2."""
    unified: Path | None
    """Version 2: the topmost group that we see."""
    tops: tuple[Path, ...] = ()
    """The topmost groups that we see of all hierarchies: there runtimes make groups of their own."""

    def group_paths(self, name: str) -> list[Path]:
        """The folders of a group of ours."""
        parents = [self.unified] if self.unified is not None else list(dict.fromkeys(self.controllers.values()))
        return [parent / name for parent in parents]


def observe_hierarchies(mounts: str, own_groups: str) -> Hierarchies:
    """From /proc/self/mountinfo and /proc/self/cgroup. Raises TandemError if controllers are missing."""
    own = {
        controller: group
        for _, controllers, group in (line.split(":", 2) for line in own_groups.splitlines())
        for controller in controllers.split(",")
    }
    found: dict[str, Path] = {}
    unified: Path | None = None
    tops: list[Path] = []
    for line in mounts.splitlines():
        fields = line.split()
        root, place, kind, options = fields[3], Path(fields[4]), fields[fields.index("-") + 1], fields[-1].split(",")
        if kind in ("cgroup", "cgroup2"):
            tops.append(place)
        if kind == "cgroup2":
            unified = place
        for controller in _CONTROLLERS if kind == "cgroup" else ():
            if controller in options:
                below = os.path.relpath(own.get(controller, "/"), root)
                found[controller] = place if below.startswith("..") else place / below
    if len(found) == len(_CONTROLLERS):
        return Hierarchies(found, None, tuple(tops))
    if found or unified is None:
        missing = ", ".join(each for each in _CONTROLLERS if each not in found)
        raise TandemError(
            f"control groups of version 1 without {missing}: mount them below /sys/fs/cgroup, or boot with version 2 "
            "alone (systemd.unified_cgroup_hierarchy=1)"
        )
    return Hierarchies({}, unified, tuple(tops))


class ControlGroups:
    """All groups of a service, below one parent group of its own."""

    def __init__(self, hierarchies: Hierarchies, name: str, runtime_name: str = "", runtime: str = "crun") -> None:
        self._hierarchies = hierarchies
        self._name = name
        self._runtime_name = runtime_name
        self._own_processes = OWN_PROCESSES[runtime]
        exact: Mapping[str, Holding] = dict.fromkeys(Limits.model_fields, Holding.EXACT)
        self.holds: Mapping[str, Holding] = {**exact, **HOLDS_LESS.get(runtime, {})}

    def remove_all(self) -> int:
        """Remove what a former service of the same name left; returns how many groups. Their processes are ended."""
        removed = 0
        parents = self._hierarchies.group_paths(self._name)
        parents += [top / self._runtime_name for top in self._hierarchies.tops if self._runtime_name]
        for parent in parents:
            for folder in [*sorted(parent.glob("*/")), parent] if parent.is_dir() else []:
                _end_processes(folder)
                folder.rmdir()
                removed += 1
        return removed

    def prepare(self) -> None:
        """Make the parent groups. Raises OSError, TandemError."""
        if self._hierarchies.unified is not None:
            _delegate_controllers(self._hierarchies.unified, self._name)
        for parent in self._hierarchies.group_paths(self._name):
            parent.mkdir(exist_ok=True)
        if self._hierarchies.unified is not None:
            (self._hierarchies.unified / self._name / "cgroup.subtree_control").write_text("+memory +pids +cpu")

    def create(self, name: str) -> ControlGroup:
        """A new group. Raises OSError."""
        if self._hierarchies.unified is not None:
            return GroupV2(self._hierarchies.unified / self._name / name, self._own_processes)
        folders = {key: path / self._name / name for key, path in self._hierarchies.controllers.items()}
        return GroupV1(folders, self._own_processes)


def _delegate_controllers(top: Path, name: str) -> None:
    """Let groups below `top` have controllers: for that, `top` itself must hold no processes, unless it is the root."""
    try:
        (top / "cgroup.subtree_control").write_text("+memory +pids +cpu")
    except OSError as first:
        service = top / f"{name}-service"
        service.mkdir(exist_ok=True)
        for process in (top / "cgroup.procs").read_text().split():
            (service / "cgroup.procs").write_text(process)
        try:
            (top / "cgroup.subtree_control").write_text("+memory +pids +cpu")
        except OSError as error:
            raise TandemError(
                f"the controllers memory, pids and cpu cannot be used below {top}: {first.strerror}, then "
                f"{error.strerror}; delegate them to this service (systemd: Delegate=yes; Kubernetes: privileged)"
            ) from error


def _end_processes(folder: Path) -> None:
    deadline = time.monotonic() + _EMPTY_SECONDS
    while processes := (folder / "cgroup.procs").read_text().split():
        if time.monotonic() > deadline:
            raise TandemError(f"processes {' '.join(processes[:8])} in {folder} do not end although they were killed")
        for process in processes:
            if int(process) > 0:  # 0: of a namespace that we do not see
                os.kill(int(process), 9)
        time.sleep(0.01)


def _wait_empty(folder: Path) -> None:
    deadline = time.monotonic() + _EMPTY_SECONDS
    while _read(folder / "cgroup.procs"):
        if time.monotonic() > deadline:
            raise TandemError(f"processes stay in {folder} although their container has ended")
        time.sleep(0.002)


class GroupV1:
    """A group in each of the hierarchies memory, pids, cpu and cpuacct."""

    watched = False

    def __init__(self, folders: Mapping[str, Path], own_processes: int) -> None:
        self._own_processes = own_processes
        self._folders: Sequence[Path] = list(dict.fromkeys(folders.values()))
        self._memory, self._pids, self._cpu = folders["memory"], folders["pids"], folders["cpu"]
        self._usage = folders["cpuacct"] / "cpuacct.usage"
        for folder in self._folders:
            folder.mkdir()
        self._has_swap = (self._memory / "memory.memsw.limit_in_bytes").exists()
        self._started_at = 0
        self._killed_before = 0

    def apply_limits(self, limits: Limits) -> None:
        """Memory together with swap can never be less than memory alone, so it is set last, and lifted first."""
        if self._has_swap:
            _write(self._memory / "memory.memsw.limit_in_bytes", -1)
        _write(self._memory / "memory.limit_in_bytes", limits.memory_bytes)
        if self._has_swap:
            _write(self._memory / "memory.memsw.limit_in_bytes", limits.memory_bytes)
        _write(self._pids / "pids.max", limits.processes + self._own_processes)
        _write(self._cpu / "cpu.cfs_quota_us", int(limits.cpus * _PERIOD_MICROSECONDS))

    def add(self, process: int) -> None:
        """Into all hierarchies."""
        for folder in self._folders:
            _write(folder / "cgroup.procs", process)

    def observe_cpu_seconds(self) -> float:
        """Of all processes since the last cleaning."""
        return (int(_read(self._usage)) - self._started_at) / 1e9

    def observe_usage(self) -> Usage:
        """Since the last cleaning."""
        peak = int(_read(self._memory / "memory.max_usage_in_bytes"))
        return Usage(self.observe_cpu_seconds(), peak, self._killed() - self._killed_before)

    def observe_held_bytes(self) -> int:
        """Of all processes."""
        stat = self._memory / "memory.stat"
        return _read_field(stat, "rss") + _read_field(stat, "shmem")

    def clean(self) -> None:
        """Page cache that the last container was charged for goes too, or it would count as the next one's."""
        _wait_empty(self._memory)
        if int(_read(self._memory / "memory.usage_in_bytes")) > _WORTH_RECLAIMING_BYTES:
            _write(self._memory / "memory.force_empty", 0)
        _write(self._memory / "memory.max_usage_in_bytes", 0)
        self._started_at = int(_read(self._usage))
        self._killed_before = self._killed()

    def remove(self) -> None:
        """From all hierarchies."""
        for folder in self._folders:
            folder.rmdir()

    def _killed(self) -> int:
        return _read_field(self._memory / "memory.oom_control", "oom_kill")


class GroupV2:
    """A group of the one hierarchy. It is made anew for each use: not every kernel lets memory.peak be reset."""

    watched = False

    def __init__(self, folder: Path, own_processes: int) -> None:
        self._own_processes = own_processes
        self._folder = folder
        folder.mkdir()

    def apply_limits(self, limits: Limits) -> None:
        """Swap is off where the kernel has it."""
        _write(self._folder / "memory.max", limits.memory_bytes)
        if (self._folder / "memory.swap.max").exists():
            _write(self._folder / "memory.swap.max", 0)
        _write(self._folder / "pids.max", limits.processes + self._own_processes)
        (self._folder / "cpu.max").write_text(f"{int(limits.cpus * _PERIOD_MICROSECONDS)} {_PERIOD_MICROSECONDS}")

    def add(self, process: int) -> None:
        """Into the group."""
        _write(self._folder / "cgroup.procs", process)

    def observe_cpu_seconds(self) -> float:
        """Of all processes."""
        return _read_field(self._folder / "cpu.stat", "usage_usec") / 1e6

    def observe_usage(self) -> Usage:
        """Since the group was made."""
        killed = _read_field(self._folder / "memory.events", "oom_kill")
        return Usage(self.observe_cpu_seconds(), int(_read(self._folder / "memory.peak")), killed)

    def observe_held_bytes(self) -> int:
        """Of all processes."""
        stat = self._folder / "memory.stat"
        return _read_field(stat, "anon") + _read_field(stat, "shmem")

    def clean(self) -> None:
        """Make it anew."""
        _wait_empty(self._folder)
        self._folder.rmdir()
        self._folder.mkdir()

    def remove(self) -> None:
        """From the hierarchy."""
        self._folder.rmdir()


def _read(path: Path) -> str:
    return path.read_text().strip()


def _write(path: Path, value: int) -> None:
    path.write_text(str(value))


def _read_field(path: Path, name: str) -> int:
    """The number behind `name` in a file of lines "name number"."""
    for line in path.read_text().splitlines():
        field, _, value = line.partition(" ")
        if field == name:
            return int(value)
    raise TandemError(f"{path} has no field {name}: this kernel is too old for the sandbox (4.13 or newer)")
