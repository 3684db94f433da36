"""Programs that run until they are stopped, started again when they end: what init is on a machine."""

import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

_PAUSE_SECONDS = 0.5


class Services:
    """Each service writes to `<logs>/<name>.log`. A context manager: at its end all are killed, and gone."""

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

    def start(self, name: str, command: list[str], *, directory: Path | None = None, fds: tuple[int, ...] = ()) -> None:
        """Start a service; `fds` are open files that it inherits. Returns at once."""
        self._launch(name, command, directory, fds)
        thread = threading.Thread(target=self._keep, args=(name, command, directory, fds), daemon=True)
        self._threads.append(thread)
        thread.start()

    def log_tail(self, name: str, lines: int = 8) -> str:
        text = (self._logs / f"{name}.log").read_text(errors="replace")
        return "\n".join(text.splitlines()[-lines:])

    def _launch(self, name: str, command: list[str], directory: Path | None, fds: tuple[int, ...]) -> None:
        with (self._logs / f"{name}.log").open("ab") as log:
            self._processes[name] = subprocess.Popen(
                command, cwd=directory, stdin=subprocess.DEVNULL, stdout=log, stderr=log, pass_fds=fds
            )

    def _keep(self, name: str, command: list[str], directory: Path | None, fds: tuple[int, ...]) -> None:
        while True:
            self._processes[name].wait()
            if self._ending.wait(_PAUSE_SECONDS) or not self._restart:
                return
            self._launch(name, command, directory, fds)


def wait_until(condition: Callable[[], bool], what: str, timeout_seconds: float = 90.0) -> None:
    """Return when the condition holds; raises TimeoutError that names `what`."""
    deadline = time.monotonic() + timeout_seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not after {timeout_seconds:.0f} s")
        time.sleep(0.05)
