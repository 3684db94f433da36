"""Programs that run until they are stopped, started again when they end: what init is on a machine."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

_PAUSE_SECONDS = 0.5


class Services:
    """Each service writes to `<logs>/<name>.log`. A context manager: at its end all are killed, and gone.

    They also end if this process is killed.
    """

    def __init__(self, logs: Path, *, restart: bool = True) -> None:
        self._logs = logs
        self._restart = restart
        self._ending = threading.Event()
        self._threads: list[threading.Thread] = []
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        logs.mkdir(parents=True, exist_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ending.set()
        for process in self._processes.values():
            process.kill()
        for thread in self._threads:
            thread.join()

    def start(
        self, name: str, command: list[str], *, fds: tuple[int, ...] = (), off_switch: Path | None = None
    ) -> None:
        """Return at once. The service inherits the open files `fds`; it stays down while `off_switch` exists."""
        self._launch(name, command, fds)
        thread = threading.Thread(target=self._keep, args=(name, command, fds, off_switch), daemon=True)
        self._threads.append(thread)
        thread.start()

    def reap_orphans(self) -> None:
        """What process 1 has to do, for ever: take away ended processes whose own parent is gone."""
        while True:
            ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT)
            if ended is not None and ended.si_pid not in {process.pid for process in self._processes.values()}:
                os.waitpid(ended.si_pid, 0)
            else:  # a service: its own thread takes it away
                time.sleep(0.05)

    def log_tail(self, name: str, lines: int = 8) -> str:
        text = (self._logs / f"{name}.log").read_text(errors="replace")
        return "\n".join(text.splitlines()[-lines:])

    def _launch(self, name: str, command: list[str], fds: tuple[int, ...]) -> None:
        with (self._logs / f"{name}.log").open("ab") as log:
            self._processes[name] = subprocess.Popen(
                ["setpriv", "--pdeathsig=KILL", *command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=fds,
            )

    def _keep(self, name: str, command: list[str], fds: tuple[int, ...], off_switch: Path | None) -> None:
        while True:
            self._processes[name].wait()
            if self._ending.wait(_PAUSE_SECONDS) or not self._restart:
                return
            while off_switch is not None and off_switch.exists():
                if self._ending.wait(_PAUSE_SECONDS):
                    return
            self._launch(name, command, fds)


def run(*command: str) -> None:
    """Run a command that must succeed; ends this program with its message otherwise."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)}: {done.stderr.strip() or done.stdout.strip()}")


def wait_until(condition: Callable[[], bool], what: str, timeout_seconds: float = 90.0) -> None:
    """Return when the condition holds; raises TimeoutError that names `what`."""
    deadline = time.monotonic() + timeout_seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not after {timeout_seconds:.0f} s")
        time.sleep(0.05)
