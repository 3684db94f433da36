"""Starts `tandem run` for a job that is to be struck."""

import asyncio
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from tandem_core.errors import TandemError
from tandem_local.run_directory import HOME_VARIABLE, RunDirectory
from tandem_local.run_state import RunState

JOB_FILE = Path(__file__).with_name("job.yaml")
_ROOT = Path(__file__).parents[2]
_START_SECONDS = 120.0
_END_SECONDS = 120.0
_POLL_SECONDS = 0.1
_SMALL_DISK = "512m"
# A mount namespace of its own: small disks that nobody else sees, and that are gone with the job.
_CONFINE = ("unshare", "--map-root-user", "--mount", "sh", "-ec")
_MOUNT = f"""
mount -t tmpfs -o size={_SMALL_DISK} tmpfs /dev/shm
mkdir -p "$0"
mount -t tmpfs -o size={_SMALL_DISK} tmpfs "$0"
exec "$@"
"""


class JobDidNotStart(TandemError):
    """`tandem run` ended before the job ran."""


@dataclass
class JobProcess:
    """A job under `tandem run`, with a home directory of its own."""

    home: Path
    name: str
    iterations: int
    confined: bool
    _process: "subprocess.Popen[bytes] | None" = field(default=None, init=False)

    @property
    def directory(self) -> RunDirectory:
        """Of the run."""
        return RunDirectory(self.home / "runs" / self.name)

    @property
    def checkpoints(self) -> Path:
        """The claim with the checkpoints."""
        return self.directory.claim(f"{self.name}-checkpoints")

    @property
    def output(self) -> Path:
        """What `tandem run` prints."""
        return self.home / f"{self.name}.out"

    @property
    def runner(self) -> psutil.Process:
        """The process of `tandem run`."""
        assert self._process is not None
        return psutil.Process(self._process.pid)

    @property
    def exit_code(self) -> int | None:
        """None: it runs."""
        assert self._process is not None
        return self._process.poll()

    def start(self) -> None:
        """Start `tandem run`."""
        command = [sys.executable, "-m", "tandem_local", "run", str(JOB_FILE), "--name", self.name]
        command += ["--set", f"spec.iterations={self.iterations}"]
        if self.confined:
            command = [*_CONFINE, _MOUNT, str(self.checkpoints), *command]
        self.home.mkdir(parents=True, exist_ok=True)
        with self.output.open("wb") as output:
            self._process = subprocess.Popen(
                command,
                cwd=_ROOT,
                env=os.environ | {HOME_VARIABLE: str(self.home)},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    async def wait_until_running(self) -> RunState:
        """Returns once etcd can be asked; raises JobDidNotStart."""
        async with asyncio.timeout(_START_SECONDS):
            while (state := self.directory.read_state()) is None or state.status != "running":
                if self.exit_code is not None:
                    raise JobDidNotStart(f"the job ended with {self.exit_code}: see {self.output}")
                await asyncio.sleep(_POLL_SECONDS)
        return state

    def logged(self, name: str, text: str) -> bool:
        """Whether a container's log of that name holds the text."""
        return any(text in path.read_text(errors="replace") for path in self.directory.logs.rglob(name))

    async def wait(self, seconds: float) -> int | None:
        """The exit code; None: it still runs after so many seconds."""
        assert self._process is not None
        try:
            return await asyncio.to_thread(self._process.wait, seconds)
        except subprocess.TimeoutExpired:
            return None

    async def end(self) -> None:
        """Stop it if it runs: by SIGTERM as a user would, then by force."""
        assert self._process is not None
        if self.exit_code is None:
            self._process.terminate()
            if await self.wait(_END_SECONDS) is None:
                self._process.kill()
                self._process.wait()
