"""The programs that make containers, and how each is asked for one."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tandem_core.sandbox.messages import Holding

from tandem_sandbox.bundle import LanePlaces
from tandem_sandbox.mounts import SAFE, MountFlag, mount

_NO_KEYRING = ("--no-new-keyring",)  # programs cannot ask for keys, nor may a service in a pod make a keyring
_OPTIONS: Mapping[str, tuple[Sequence[str], Sequence[str]]] = {
    "crun": (("--cgroup-manager=disabled",), _NO_KEYRING),  # we have control groups of our own
    "runc": ((), _NO_KEYRING),
    # Its own kernel keeps what programs write; it must reach the layers that the service reads and limits instead.
    "runsc": (("--ignore-cgroups", "--network=none", "--overlay2=none"), ()),
}
"""Of the program, and of its command `run`."""
RUNTIMES = tuple(_OPTIONS)
"""The first one is the fastest."""
OWN_PROCESSES = {"crun": 1, "runc": 1, "runsc": 512}
"""Processes and threads of a container beside the program's: a shell that waits, and gVisor's kernel, as a program."""
HOLDS_LESS = {"runsc": {"processes": Holding.NOT}}
"""Limits that are not held to the point with a runtime: gVisor's kernel makes processes of its own."""


def show_read_only(program: str, place: Path) -> str:
    """Show the program at this place, where nobody can change it; returns the path. Raises OSError.

    Else crun makes itself such a place for each container and starts anew from there: 3 of its 5 ms of processor time.
    """
    place.touch()
    mount(program, place, "", MountFlag.BIND)
    mount("none", place, "", SAFE | MountFlag.BIND | MountFlag.REMOUNT | MountFlag.READ_ONLY)
    return str(place)


@dataclass(slots=True)
class Runtime:
    """How containers are made."""

    program: str
    """One of RUNTIMES."""
    state_folder: Path
    """Where the program notes its containers; in memory."""
    seccomp: dict[str, Any]
    groups: str = ""
    """Control group below which runc makes some, which it cannot be kept from; the containers leave them."""
    path: str = ""
    """Where the program is; empty: on PATH."""
    compiled_seccomp: str = ""
    """The same as crun's first container compiled it, in base64: compiling it for each would cost 1.5 ms."""

    @property
    def has_own_processes(self) -> bool:
        """Whether a container that waits has more processes than the shell: gVisor's kernel."""
        return self.program == "runsc"

    def keep_compiled_seccomp(self, name: str) -> None:
        """Read it beside what crun notes of a container that runs; other programs do not leave it."""
        place = self.state_folder / name / "seccomp.bpf"
        if not self.compiled_seccomp and place.exists():
            self.compiled_seccomp = base64.b64encode(place.read_bytes()).decode()

    def build_command(self, places: LanePlaces, name: str) -> list[str]:
        """What runs the container of the bundle, and ends after it."""
        general, of_run = _OPTIONS[self.program]
        files = ["--bundle", str(places.bundle), "--pid-file", str(places.process_file)]
        return [self.path or self.program, "--root", str(self.state_folder), *general, "run", *of_run, *files, name]

    def groups_path(self, name: str) -> str | None:
        """`cgroupsPath` of the bundle, for a program that wants one."""
        return f"/{self.groups}/{name}" if self.program == "runc" else None
