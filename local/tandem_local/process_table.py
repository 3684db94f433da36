"""Reading /proc: which processes there are, who they are and what they hold."""

import contextlib
import os
from pathlib import Path

from tandem_local.run_state import ProcessIdentity

PROC = Path("/proc")
_START_TIME_FIELD = 19  # of /proc/<pid>/stat after the command name: field 22 of proc(5)
_ZOMBIE = "Z"


def observe_processes() -> list[int]:
    """Ids of all processes of this machine."""
    return [int(name) for name in os.listdir(PROC) if name.isdigit()]


def observe_identity(pid: int) -> ProcessIdentity | None:
    """Who runs under `pid` now; None: nobody, or a process that has ended and only waits to be reaped."""
    try:
        fields = (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] == _ZOMBIE else ProcessIdentity(pid=pid, started_ticks=int(fields[_START_TIME_FIELD]))


def is_alive(identity: ProcessIdentity | None) -> bool:
    """Whether this very process still runs."""
    return identity is not None and observe_identity(identity.pid) == identity


def observe_variable(pid: int, name: str) -> str | None:
    """A variable of the environment that the process was started with; None: not set, gone, or not ours to read."""
    try:
        content = (PROC / str(pid) / "environ").read_bytes()
    except OSError:
        return None
    prefix = name.encode() + b"="
    return next((item[len(prefix) :].decode() for item in content.split(b"\0") if item.startswith(prefix)), None)


def observe_output_file(pid: int) -> Path | None:
    """Where the process's standard output or error output goes, if it is a file."""
    for descriptor in (1, 2):
        with contextlib.suppress(OSError):
            target = Path(os.readlink(PROC / str(pid) / "fd" / str(descriptor)))
            if target.is_absolute() and not target.is_relative_to("/dev"):
                return target
    return None
