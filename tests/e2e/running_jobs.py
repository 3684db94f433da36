"""`tandem run` as a user calls it, watched through its state file and its etcd."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil
from tandem_core.coordination.keys import JobKeys
from tandem_core.coordination.mirror import Mirror
from tandem_core.coordination.records import PhaseRecord, Summary
from tandem_core.coordination.store import Store
from tandem_core.phases import Phase
from tandem_rollout.storage.replay_buffer import ReplayBuffer, sqlite_url

EXAMPLE = Path(__file__).parents[2] / "examples" / "addition.yaml"
DEADLINE_SECONDS = 280.0


class Runs:
    """Runs of examples/addition.yaml with `settings`, below one home. A context manager: none outlives it."""

    def __init__(self, home: Path, settings: tuple[str, ...]) -> None:
        self._home = home
        self._processes: list[subprocess.Popen[bytes]] = []
        self._settings = [part for setting in settings for part in ("--set", setting)]
        self._environment = os.environ | {"TANDEM_HOME": str(home), "PYTHONPATH": str(home)}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self._processes:
            if process.poll() is None:
                process.terminate()
                process.wait(180)

    def start(self, name: str, *arguments: str) -> "subprocess.Popen[bytes]":
        return self._tandem(name, "run", str(EXAMPLE), "--name", name, *self._settings, *arguments)

    def finish(self, name: str, *arguments: str) -> None:
        code = self.start(name, *arguments).wait(600)
        assert code == 0, (self._home / f"{name}.log").read_text()[-3000:]

    def interrupt(self, name: str, phase: Phase, iteration: int, *arguments: str) -> None:
        """Run until that phase has just begun, then Ctrl-C, which must leave nothing."""
        process = self.start(name, *arguments)
        asyncio.run(self.wait_for_phase(name, phase, iteration))
        process.send_signal(signal.SIGINT)
        assert process.wait(180) == 130
        assert find_leftovers(self._home, name) == []

    def scale(self, name: str, pods: int) -> None:
        assert self._tandem(name, "scale", name, str(pods)).wait(60) == 0

    def kill_master(self, name: str) -> None:
        """SIGKILL to the master itself, not to its container's process 1."""
        (pod,) = [pod for pod in self.state(name)["pods"] if pod["name"] == f"{name}-master-0"]
        container = psutil.Process(pod["containers"][0]["pid"])
        processes = [container, *container.children(recursive=True)]
        next(each for each in reversed(processes) if "tandem_rollout" in each.cmdline()).kill()

    def state(self, name: str) -> dict[str, Any]:
        file = self._home / "runs" / name / "state.json"
        return json.loads(file.read_text()) if file.exists() else {}

    def model(self, name: str) -> Path:
        return next((self._home / "runs" / name).rglob("model/model.safetensors"))

    def open_buffer(self, name: str) -> ReplayBuffer:
        file = next((self._home / "runs" / name).rglob("replay.sqlite"))
        return ReplayBuffer(sqlite_url(file), self.state(name)["uid"])

    async def open_store(self, name: str) -> tuple[Store, JobKeys]:
        """The etcd of a run, as soon as it is running."""
        await self.wait_for_state(name, lambda state: state.get("status") == "running")
        state = self.state(name)
        return Store(state["etcd_endpoint"]), JobKeys(state["uid"])

    async def wait_for_state(self, name: str, condition: Callable[[dict[str, Any]], bool]) -> None:
        """Return when the run's state file fulfils the condition."""
        async with asyncio.timeout(DEADLINE_SECONDS):
            while not condition(self.state(name)):  # noqa: ASYNC110 - told by a file
                await asyncio.sleep(0.1)

    async def wait_for_phase(self, name: str, phase: Phase, iteration: int) -> None:
        store, keys = await self.open_store(name)
        async with store, Mirror(store, keys.phase, PhaseRecord) as record:
            await record.wait_for(
                lambda values: any(each.phase is phase and each.iteration >= iteration for each in values.values()),
                DEADLINE_SECONDS,
            )

    async def wait_for_summary(self, name: str, condition: Callable[[Summary], bool]) -> Summary:
        """The first summary that fulfils the condition."""
        store, keys = await self.open_store(name)
        async with store, Mirror(store, keys.summary, Summary) as summary:
            await summary.wait_for(lambda values: any(map(condition, values.values())), DEADLINE_SECONDS)
            assert summary.value is not None
            return summary.value

    def _tandem(self, name: str, *arguments: str) -> "subprocess.Popen[bytes]":
        with (self._home / f"{name}.log").open("ab") as log:
            command = [sys.executable, "-m", "tandem_local", *arguments]
            process = subprocess.Popen(command, env=self._environment, stdout=log, stderr=subprocess.STDOUT)
        self._processes.append(process)
        return process


def find_leftovers(home: Path, name: str) -> list[str]:
    """Processes, shared memory and temporary files of the run."""
    run = home / "runs" / name
    number = json.loads((run / "state.json").read_text())["run_id"]
    found = []
    for process in psutil.process_iter():
        try:
            words = process.cmdline()
            if process.environ().get("TANDEM_RUN_ID") == number or any(str(run) in word for word in words):
                found.append(f"{process.pid}: {words}")
        except psutil.Error:
            continue
    places = [Path(place) / f"tandem-{number}" for place in ("/dev/shm", tempfile.gettempdir())]
    return found + [str(place) for place in places if place.exists()]
