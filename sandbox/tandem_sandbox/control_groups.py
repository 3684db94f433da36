"""Where the kernel's control groups lie, and those of a service: version 1 (hybrid too) and version 2."""

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tandem_core.errors import TandemError
from tandem_core.sandbox.messages import Holding, Limits

from tandem_sandbox.control_group import ControlGroup
from tandem_sandbox.kernel_groups import GroupV1, GroupV2
from tandem_sandbox.runtime import HOLDS_LESS, OWN_PROCESSES

_CONTROLLERS = ("memory", "pids", "cpu", "cpuacct")
_EMPTY_SECONDS = 10.0


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
