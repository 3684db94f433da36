"""Processes that answer one line of JSON for each they are sent: what is slow to import is imported once."""

import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

DEADLINE_SECONDS = 240.0


class Worker:
    """A process that runs `answer_requests`; a context manager."""

    def __init__(self, module: str, *arguments: str, log: Path, **environment: str) -> None:
        self._log = log
        with log.open("wb") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-m", f"tests.integration.{module}", *arguments],
                env=os.environ | environment,
                cwd=Path(__file__).parents[2],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                start_new_session=True,
            )

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:  # it had not yet begun to listen
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def send(self, **request: Any) -> None:
        """Ask for something; `answer` waits for it."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request).encode() + b"\n")
        self._process.stdin.flush()

    def answer(self) -> Any:
        """The answer to the oldest request that has none yet."""
        assert self._process.stdout is not None
        readable, _, _ = select.select([self._process.stdout], [], [], DEADLINE_SECONDS)
        line = self._process.stdout.readline() if readable else b""
        assert line, f"no answer:\n{self._log.read_text(errors='replace')[-12_000:]}"
        return json.loads(line)

    def ask(self, **request: Any) -> Any:
        """The answer to a request."""
        self.send(**request)
        return self.answer()


def answer_requests(handle: Callable[[dict[str, Any]], Any]) -> None:
    """Answer requests until there are no more; whatever else is printed goes to the log."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        answers.write(json.dumps(handle(json.loads(line))) + "\n")
        answers.flush()
