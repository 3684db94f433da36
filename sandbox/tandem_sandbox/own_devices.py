"""A lane's own devices.

Runtimes show a container the machine's own /dev/null and its like, also in place of files of /proc that are hidden:
locks on them would let programs in different containers talk to each other, as those on other files of the machine
would (`own_view`).
"""

import os
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tandem_sandbox.mounts import MountFlag, mount

DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
_LINKS = {"fd": "fd", "stdin": "fd/0", "stdout": "fd/1", "stderr": "fd/2"}
_BIND = MountFlag.BIND


@dataclass(frozen=True, slots=True)
class OwnDevices:
    """What a container is shown."""

    folder: Path
    """As /dev; each of DEVICES in it is a mount of its own."""
    hiding: Mapping[str, Path]
    """Path below /proc -> what is shown there instead: nothing, in a file or a folder."""


def make_own_devices(folder: Path, hidden: Sequence[str]) -> OwnDevices:
    """Make and mount it below `folder`. Raises OSError.

    It needs a file system that allows devices, which one that a user namespace mounted is not.
    """
    view, empty, devices = (folder / name for name in ("view", "empty", "dev"))
    for each in (view, empty, devices, devices / "shm"):
        each.mkdir(parents=True)
    mount("overlay", view, "overlay", MountFlag.NO_SET_USER_ID | MountFlag.READ_ONLY, f"lowerdir=/dev:{empty}")
    for name in DEVICES:
        # In a pod that has users of its own, devices are mounted one by one, which an overlay does not show.
        source = view / name if _is_device(view / name) else Path("/dev") / name
        (devices / name).touch()
        mount(str(source), devices / name, "", _BIND)
    for name, target in _LINKS.items():
        os.symlink(f"/proc/self/{target}", devices / name)
    found = {name: Path("/proc") / name for name in hidden if (Path("/proc") / name).exists()}
    return OwnDevices(devices, {name: empty if path.is_dir() else devices / "null" for name, path in found.items()})


def _is_device(path: Path) -> bool:
    return stat.S_ISCHR(path.stat().st_mode)
