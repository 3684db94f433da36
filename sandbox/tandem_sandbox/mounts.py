"""Mounting and unmounting."""

import ctypes
import os
from collections.abc import Sequence
from enum import IntFlag
from pathlib import Path

_libc = ctypes.CDLL(None, use_errno=True)
_DETACH = 2


class MountFlag(IntFlag):
    """MS_* of mount(2)."""

    READ_ONLY = 1
    NO_SET_USER_ID = 2
    NO_DEVICES = 4
    NO_PROGRAMS = 8
    REMOUNT = 32
    BIND = 4096
    RECURSIVE = 1 << 14
    PRIVATE = 1 << 18


SAFE = MountFlag.NO_SET_USER_ID | MountFlag.NO_DEVICES


def mount(source: str, target: Path, kind: str, flags: MountFlag, options: str = "") -> None:
    """mount(2). Raises OSError that names the target."""
    if _libc.mount(source.encode(), os.fsencode(target), kind.encode(), ctypes.c_ulong(int(flags)), options.encode()):
        number = ctypes.get_errno()
        raise OSError(number, f"mounting {kind} ({options}): {os.strerror(number)}", str(target))


def unmount(target: Path) -> None:
    """Take the mount away; what is still used of it goes with its last user. Raises OSError if nothing is mounted."""
    if _libc.umount2(os.fsencode(target), _DETACH):
        number = ctypes.get_errno()
        raise OSError(number, f"unmounting: {os.strerror(number)}", str(target))


def find_read_only(mounts: str, kinds: Sequence[str]) -> list[Path]:
    """Where file systems of these kinds are mounted read-only, from /proc/self/mountinfo."""
    found = []
    for line in mounts.splitlines():
        fields = line.split()
        if fields[fields.index("-") + 1] in kinds and "ro" in fields[5].split(","):
            found.append(Path(fields[4]))
    return found
