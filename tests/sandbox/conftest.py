"""A real sandbox service for the tests, as a user would start it. Needs root, and Debian's crun."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import httpx
import pytest
import pytest_asyncio
from tandem_core.sandbox.client import SandboxClient
from tandem_sandbox.control_groups import ControlGroups, observe_hierarchies
from tandem_sandbox.settings import Settings

_SET_UP = Path(__file__).parents[2] / "tools" / "set-up-sandbox"
TOKEN = "a token for tests"


class RunningSandbox:
    """A service that can be killed and started again."""

    def __init__(self, home: Path, *options: str) -> None:
        self.home = home
        self.options = options
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            self.port = int(listener.getsockname()[1])
        self.url = f"http://127.0.0.1:{self.port}"
        (home / "given-token").write_text(TOKEN)
        self.settings = Settings(home=home, token=TOKEN, running=1, ahead=0)
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and wait until it is ready."""
        command = [sys.executable, "-m", "tandem_sandbox", "--home", str(self.home), "--port", str(self.port)]
        command += ["--token-file", str(self.home / "given-token"), *self.options]
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
        return [*parents, *(folder for parent in parents for folder in parent.glob("*/"))]

    def remove_groups(self) -> None:
        """After a test that killed it."""
        hierarchies = observe_hierarchies(
            Path("/proc/self/mountinfo").read_text(), Path("/proc/self/cgroup").read_text()
        )
        ControlGroups(hierarchies, self.settings.group_name).remove_all()


def wait_until(condition: Callable[[], bool], what: str, seconds: float = 60.0) -> None:
    """Fails with `what` if it does not come true in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not in {seconds:g} s: {what}"
        time.sleep(0.02)


@pytest.fixture(scope="session")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningSandbox]:
    """One service for all tests that leave it intact."""
    subprocess.run([_SET_UP], check=True)
    assert os.geteuid() == 0, "the sandbox makes namespaces and mounts: run its tests as root"
    running = RunningSandbox(tmp_path_factory.mktemp("sandbox"), "--ahead", "2", "--running", "2")
    running.start()
    yield running
    assert running.stop() == 0, running.log()
    assert running.control_groups() == []


@pytest.fixture
def other_sandbox(sandbox: RunningSandbox, tmp_path: Path) -> Iterator[RunningSandbox]:
    """One that a test may start with options of its own, and kill."""
    running = RunningSandbox(tmp_path, "--ahead", "1", "--running", "1")
    yield running
    if running.process is not None:
        running.stop(signal.SIGKILL)
    wait_until(lambda: _removed(running), "control groups can be removed")


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
