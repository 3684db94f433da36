"""What this machine has."""

import os
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

from tandem_local.places import SHARED_MEMORY

_QUERY_SECONDS = 20.0
_CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Machine:
    """Sizes in bytes."""

    cores: int
    memory_bytes: int
    available_bytes: int
    """Memory that new processes can have without swapping, shared memory included."""
    shared_memory_free_bytes: int
    gpus: tuple[str, ...]
    """What CUDA_VISIBLE_DEVICES takes: an index or a UUID for each."""


def observe_machine(environment: Mapping[str, str] = os.environ) -> Machine:
    """This machine now, or the part of it that this control group may use."""
    memory = psutil.virtual_memory()
    limit, used = _read_number(_CGROUP / "memory.max"), _read_number(_CGROUP / "memory.current")
    available = memory.available if limit is None or used is None else min(memory.available, limit - used)
    return Machine(
        cores=len(os.sched_getaffinity(0)),
        memory_bytes=min(memory.total, limit or memory.total),
        available_bytes=max(0, available),
        shared_memory_free_bytes=shutil.disk_usage(SHARED_MEMORY).free if SHARED_MEMORY.exists() else 0,
        gpus=_observe_gpus(environment),
    )


def _observe_gpus(environment: Mapping[str, str]) -> tuple[str, ...]:
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return tuple(name.strip() for name in visible.split(",") if name.strip() and name.strip() != "-1")
    program = shutil.which("nvidia-smi", path=environment.get("PATH"))
    if program is None:
        return ()
    try:
        output = subprocess.run(  # noqa: S603 - the driver's own program
            [program, "--query-gpu=index", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            timeout=_QUERY_SECONDS,
            check=True,
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return ()
    return tuple(line.strip() for line in output.splitlines() if line.strip())


def _read_number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):  # no control group, or "max"
        return None
