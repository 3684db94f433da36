"""The OCI bundle of a container that waits for what it is to run. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from tandem_sandbox.images.image import Image
from tandem_sandbox.own_devices import DEVICES, OwnDevices

USER = 1000
"""User and group of the program in its container."""
WORK_FOLDER = "/work"
INPUT_FILE = "/.tandem/stdin"
"""In the container; only readable."""
_MAPPED = 65_536  # users of a container
_FIRST_HOST_USER = 0x40000000  # far above what machines give to people and services
_OPEN_FILES = 1024

_NAMESPACES = ("user", "pid", "mount", "ipc", "uts", "network", "cgroup")
HIDDEN_IN_PROC = (
    "acpi", "asound", "interrupts", "kcore", "keys", "kmsg", "kpagecount", "kpageflags", "latency_stats", 
    "sched_debug", "scsi", "slabinfo", "sysrq-trigger", "timer_list", "timer_stats", "vmallocinfo",
)  # fmt: skip
_READ_ONLY = ("bus", "fs", "irq", "sys")


@dataclass(frozen=True)
class LanePlaces:
    """Where the parts of one container lie on the machine."""

    number: int
    """Of the lane; gives its users."""
    folder: Path
    unprivileged: bool = False
    """Whether there is only one user to map: the service's own, which is root in its user namespace."""
    devices: OwnDevices | None = None
    """What is shown as /dev, and in place of what is hidden; None: the runtime makes it."""

    @cached_property
    def bundle(self) -> Path:
        """The OCI bundle."""
        return self.folder / "bundle"

    @cached_property
    def writable(self) -> Path:
        """A file system in memory for all that the container writes."""
        return self.folder / "writable"

    @cached_property
    def root(self) -> Path:
        """The container's root file system, as an overlay."""
        return self.folder / "root"

    @cached_property
    def process_file(self) -> Path:
        """Holds the number of the container's first process."""
        return self.folder / "pid"

    @property
    def host_user(self) -> int:
        """The user and group that `USER` is to the service."""
        return 0 if self.unprivileged else self._first_host_user + USER

    @property
    def users(self) -> dict[str, int]:
        """The map of users, and of groups: no two lanes share them, unless there is only one."""
        if self.unprivileged:
            return {"containerID": USER, "hostID": self.host_user, "size": 1}
        return {"containerID": 0, "hostID": self._first_host_user, "size": _MAPPED}

    @property
    def _first_host_user(self) -> int:
        return _FIRST_HOST_USER + self.number * _MAPPED


def build_bundle(
    image: Image, places: LanePlaces, seccomp: dict[str, Any], compiled_seccomp: str = ""
) -> dict[str, Any]:
    """config.json: all namespaces, no capabilities; the first process is a shell that reads what to do.

    `compiled_seccomp` is what crun takes in place of `seccomp`'s rules, in base64; if it did not, nothing were allowed.
    """
    if compiled_seccomp:
        seccomp = seccomp | {"syscalls": []}
    return {
        "ociVersion": "1.0.0",
        "process": {
            "user": {"uid": USER, "gid": USER},
            "args": ["/bin/sh"],
            "env": [f"PATH={image.path}"],
            "cwd": "/",
            "noNewPrivileges": True,
            "capabilities": {kind: [] for kind in ("bounding", "effective", "inheritable", "permitted", "ambient")},
            # A core limit of 1 also keeps a kernel that pipes core files to a program from starting it.
            "rlimits": [_limit("CORE", 1), _limit("NOFILE", _OPEN_FILES), _limit("MEMLOCK", 65_536)],
            "oomScoreAdj": 1000,
        },
        # The one user there is owns what the service made for the container, and could change it.
        "root": {"path": str(places.root), "readonly": places.unprivileged},
        "hostname": "sandbox",
        "annotations": {"run.oci.seccomp_bpf_data": compiled_seccomp} if compiled_seccomp else {},
        "mounts": _build_mounts(image, places),
        "linux": {
            "namespaces": [{"type": kind} for kind in _NAMESPACES],
            "uidMappings": [places.users],
            "gidMappings": [places.users],
            "seccomp": seccomp,
            "maskedPaths": [f"/proc/{name}" for name in HIDDEN_IN_PROC] if places.devices is None else [],
            "readonlyPaths": [f"/proc/{name}" for name in _READ_ONLY],
            "rootfsPropagation": "private",
        },
    }


def _build_mounts(image: Image, places: LanePlaces) -> Sequence[dict[str, Any]]:
    secure = ["nosuid", "nodev"]
    writable = ("tmp", WORK_FOLDER.lstrip("/")) if places.unprivileged else ()
    return [
        {"destination": "/proc", "type": "proc", "source": "proc", "options": [*secure, "noexec"]},
        *_build_dev(places),
        _bind(places.writable / "shm", "/dev/shm", [*secure, "rw"]),  # noqa: S108 - a path in the container
        *_build_hiding(places),
        *(_bind(places.root / name, f"/{name}", [*secure, "rw"]) for name in writable),
        *(_bind(source, f"/{target}", [*secure, "ro"]) for target, source in image.binds.items()),
    ]


def _build_dev(places: LanePlaces) -> Sequence[dict[str, Any]]:
    if places.devices is None:
        return [
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755", "size=64k"]}
        ]
    shown = ["nosuid", "noexec", "ro"]
    # One by one: crun 1.8 binds no mounts below a folder.
    nodes = [_bind(places.devices.folder / name, f"/dev/{name}", shown) for name in DEVICES]
    return [_bind(places.devices.folder, "/dev", shown), *nodes]


def _build_hiding(places: LanePlaces) -> Sequence[dict[str, Any]]:
    if places.devices is None:
        return []
    return [_bind(place, f"/proc/{name}", ["nosuid", "noexec", "ro"]) for name, place in places.devices.hiding.items()]


def _bind(source: Path, target: str, options: Sequence[str]) -> dict[str, Any]:
    return {"destination": target, "type": "bind", "source": str(source), "options": ["rbind", *options]}


def _limit(name: str, value: int) -> dict[str, Any]:
    return {"type": f"RLIMIT_{name}", "hard": value, "soft": value}
