"""A real sandbox service for the tests, as a user would start it. Needs root, and Debian's crun.

Most tests are of both kinds of service: by root, with the capabilities that docs/sandbox.md lists and no others, and by
an ordinary user.
"""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
import pytest_asyncio
from tandem_core.sandbox.client import SandboxClient
from tandem_core.sandbox.deployment import SANDBOX_CAPABILITIES
from tandem_sandbox.control_groups import ControlGroups, observe_hierarchies
from tandem_sandbox.settings import Settings

from tools.free_ports import find_free_port

from .ordinary_user import USER, as_ordinary_user

_SET_UP = Path(__file__).parents[2] / "tools" / "set-up-sandbox"
TOKEN = "a token for tests"
BOTH_KINDS = pytest.mark.parametrize("sandbox", ["root", "user"], indirect=True, scope="session")
BOTH_KINDS_LONG = pytest.mark.parametrize(
    "sandbox", ["root", pytest.param("user", marks=pytest.mark.long)], indirect=True, scope="session"
)
"""Where the ordinary user's takes much time and differs in little."""
RUNC_CAPABILITIES = ("SYS_PTRACE", "SYS_CHROOT")
"""What runc needs beside."""
_PATIENCE = float(os.environ.get("TANDEM_TEST_PATIENCE", "1"))
"""Times as long as usual; tools/virtual-machine sets it."""


class RunningSandbox:
    """A service that can be killed and started again."""

    def __init__(self, home: Path, *options: str, unprivileged: bool = False) -> None:
        self.home = home
        self.options = options
        self.unprivileged = unprivileged
        self.capabilities = tuple(SANDBOX_CAPABILITIES)
        self.port = find_free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        (home / "given-token").write_text(TOKEN)
        self.settings = Settings(home=home, token=TOKEN, running=1, ahead=0, unprivileged=unprivileged)
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and wait until it is ready."""
        command = [sys.executable, "-m", "tandem_sandbox", "--home", str(self.home), "--port", str(self.port)]
        command += ["--token-file", str(self.home / "given-token"), *self.options]
        if self.unprivileged:
            command = as_ordinary_user([*command, "--unprivileged"])
        else:
            kept = ",".join(f"+{name.lower()}" for name in self.capabilities)
            command = ["setpriv", f"--bounding-set=-all,{kept}", *command]
        with (self.home / "log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)
        wait_until(self._ready, "the sandbox is ready")

    def _ready(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, (self.home / "log").read_text()
        try:
            return httpx.get(f"{self.url}/readyz").is_success
        except httpx.HTTPError:
            return False

    def stop(self, number: int = signal.SIGTERM) -> int:
        """End it; returns its exit code."""
        assert self.process is not None
        self.process.send_signal(number)
        code = self.process.wait(30)
        self.process = None
        return code

    def log(self) -> str:
        """What it logged."""
        return (self.home / "log").read_text()

    def control_groups(self) -> list[Path]:
        """The folders of its control groups that are there, and their subfolders."""
        hierarchies = observe_hierarchies(
            Path("/proc/self/mountinfo").read_text(), Path("/proc/self/cgroup").read_text()
        )
        parents = [path for path in hierarchies.group_paths(self.settings.group_name) if path.is_dir()]
        made = (top / self.settings.runtime_group_name for top in hierarchies.tops)
        parents += [path for path in made if path.is_dir()]
        return [*parents, *(folder for parent in parents for folder in parent.glob("*/"))]

    def remove_groups(self) -> None:
        """After a test that killed it."""
        hierarchies = observe_hierarchies(
            Path("/proc/self/mountinfo").read_text(), Path("/proc/self/cgroup").read_text()
        )
        ControlGroups(hierarchies, self.settings.group_name, self.settings.runtime_group_name).remove_all()

    def program_processes(self) -> list[str]:
        """Command lines of all processes of programs of services of this kind, apart from shells that wait."""
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                fields = dict(line.split(":\t", 1) for line in (folder / "status").read_text().splitlines())
                command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
            except (FileNotFoundError, ProcessLookupError):
                continue
            user = int(fields["Uid"].split()[0])
            # An ordinary user's programs have the service's own user, in a process namespace below the service's.
            is_program = len(fields["NSpid"].split()) > 2 if user == USER else user >= 0x40000000
            if is_program and (user == USER) == self.unprivileged and command not in ("/bin/sh", ""):
                found.append(command)
        return found


def wait_until(condition: Callable[[], bool], what: str, seconds: float = 60.0) -> None:
    """Fails with `what` if it does not come true in time."""
    seconds *= _PATIENCE
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not in {seconds:g} s: {what}"
        time.sleep(0.02)


@contextmanager
def make_home(*, unprivileged: bool) -> Iterator[Path]:
    """A folder of the user that a service runs as; folders of tests are closed to others."""
    home = Path(tempfile.mkdtemp(prefix="tandem-sandbox-test-"))
    try:
        if unprivileged:
            os.chown(home, USER, USER)
        yield home
    finally:
        shutil.rmtree(home)


@pytest.fixture(scope="session")
def sandbox(request: pytest.FixtureRequest) -> Iterator[RunningSandbox]:
    """One service for all tests that leave it intact: root's, unless a test asks for both kinds."""
    subprocess.run([_SET_UP, "--sessions"], check=True)
    assert os.geteuid() == 0, "most of the sandbox is for root: run its tests as root"
    unprivileged = getattr(request, "param", "root") == "user"
    with make_home(unprivileged=unprivileged) as home:
        running = RunningSandbox(home, "--ahead", "2", "--running", "2", unprivileged=unprivileged)
        running.start()
        yield running
        assert running.stop() == 0, running.log()
        assert running.control_groups() == []


@pytest.fixture
def other_sandbox(sandbox: RunningSandbox) -> Iterator[RunningSandbox]:
    """One that a test may start with options of its own, and kill."""
    with make_home(unprivileged=sandbox.unprivileged) as home:
        running = RunningSandbox(home, "--ahead", "1", "--running", "1", unprivileged=sandbox.unprivileged)
        yield running
        if running.process is not None:
            running.stop(signal.SIGKILL)
        wait_until(lambda: _removed(running), "control groups can be removed")


@pytest.fixture
def control_groups(sandbox: RunningSandbox) -> None:
    """For tests of what only control groups hold: docs/sandbox.md lists it."""
    if sandbox.unprivileged:
        pytest.skip("without control groups it is not held, as /v1/languages says")


def _removed(running: RunningSandbox) -> bool:
    try:
        running.remove_groups()
    except OSError:
        return False
    return True


@pytest_asyncio.fixture
async def client(sandbox: RunningSandbox) -> AsyncIterator[SandboxClient]:
    """A client of the shared service."""
    async with SandboxClient(sandbox.url, TOKEN) as connected:
        yield connected
