"""One use of a container, inside the service."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from tandem_core.sandbox.messages import Limits

from tandem_sandbox.run_watch import Stop


@dataclass(frozen=True, slots=True)
class JobFile:
    """A file that goes in or comes out."""

    data: bytes
    executable: bool = False


@dataclass(frozen=True, slots=True)
class Job:
    """What to run."""

    command: tuple[str, ...]
    limits: Limits
    files: Mapping[str, JobFile] = field(default_factory=dict)
    """Path below the working folder -> content."""
    stdin: bytes = b""
    environment: Mapping[str, str] = field(default_factory=dict)
    outputs: tuple[str, ...] = ()
    """Paths below the working folder to bring back; ** for all."""
    output_total_bytes: int = 64 << 20
    """Most bytes to bring back."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What happened."""

    exit_code: int | None
    """None: it was ended."""
    stop: Stop | None
    """Why it was ended."""
    stdout: bytes
    stderr: bytes
    cpu_seconds: float
    wall_seconds: float
    memory_bytes: int
    out_of_memory: bool
    """Whether the kernel ended one of its processes because memory was full."""
    files: Mapping[str, JobFile] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()


class ContainerError(Exception):
    """The sandbox could not run a job: nothing is known of the program."""
