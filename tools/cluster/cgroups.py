"""The control groups of a cluster: one of its own in each hierarchy, and one below it for each node.

With version 1 (or both versions mounted, as older systems have it) it lies below the caller's own group, with version 2
at the root: there a group with processes cannot give controllers to others.
"""

import os
import time
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
_INIT = "init"
"""Version 2 wants processes in leaves only: those of a cluster or node itself are in this one."""
_CONTROLLERS = "+cpu +memory +pids +cpuset"


def is_version_2() -> bool:
    return (ROOT / "cgroup.controllers").exists()


def make_cluster_groups(name: str) -> list[Path]:
    """New groups for a cluster, one a hierarchy. The caller is not moved."""
    if is_version_2():
        _write(ROOT / "cgroup.subtree_control", _CONTROLLERS)
        group = ROOT / name
        group.mkdir()
        _write(group / "cgroup.subtree_control", _CONTROLLERS)
        (group / _INIT).mkdir()
        return [group]
    return [_make_child(own, name) for own in _own_groups()]


def enter(groups: list[Path]) -> None:
    """Move this process, and those that it will start, into the groups."""
    for group in groups:
        leaf = group / _INIT if is_version_2() else group
        _write(leaf / "cgroup.procs", str(os.getpid()))


def enter_node_group(groups: list[Path], node: str) -> None:
    """Move this process into a group of the node's, which it then sees as the root of all groups."""
    for group in groups:
        own = _make_child(group, node)
        _write(own / "cgroup.procs", str(os.getpid()))
    os.unshare(os.CLONE_NEWCGROUP)
    if is_version_2():
        (own / _INIT).mkdir(exist_ok=True)
        _write(own / _INIT / "cgroup.procs", str(os.getpid()))
        _write(own / "cgroup.subtree_control", _CONTROLLERS)


def list_hierarchies() -> list[str]:
    """Folders of the version 1 hierarchies below ROOT; the one of version 2 beside them has no controllers."""
    return [each.name for each in sorted(ROOT.iterdir()) if (each / "cgroup.procs").exists() and each.name != "unified"]


def remove(groups: list[Path], timeout_seconds: float = 20.0) -> list[Path]:
    """Remove groups whose processes have ended; returns what is left after the timeout."""
    deadline = time.monotonic() + timeout_seconds
    left = [group for group in groups if group.exists()]
    while left and time.monotonic() < deadline:
        for group in left:
            for folder, _, _ in os.walk(group, topdown=False):
                try:
                    os.rmdir(folder)
                except OSError:  # the kernel has not taken the last process out yet
                    time.sleep(0.02)
        left = [group for group in left if group.exists()]
    return left


def _own_groups() -> list[Path]:
    groups = []
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        group = ROOT / (controllers.removeprefix("name=") or "unified") / path.lstrip("/")
        if (group / "cgroup.procs").exists():
            groups.append(group)
    return groups


def _make_child(parent: Path, name: str) -> Path:
    child = parent / name
    child.mkdir(exist_ok=True)
    for file in ("cpuset.cpus", "cpuset.mems"):
        if (parent / file).exists() and not is_version_2():  # a new cpuset is empty and takes no process
            _write(child / file, (parent / file).read_text())
    return child


def _write(file: Path, text: str) -> None:
    file.write_text(text)
