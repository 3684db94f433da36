"""A sandbox service for the benchmark, and what can be seen of it from outside."""

import asyncio
import os
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx
from tandem_sandbox.control_groups import observe_hierarchies
from tandem_sandbox.settings import Settings

_START_SECONDS = 60.0
_PORT = 8194


class MeasuredService:
    """`async with MeasuredService(home) as service`; programs of the folder `programs` come before others."""

    def __init__(self, home: Path, programs: Path | None = None) -> None:
        self._home = home
        self._path = os.pathsep.join([*([str(programs.absolute())] if programs else []), os.environ["PATH"]])
        self.url = f"http://127.0.0.1:{_PORT}"
        self.token = ""
        self._process: subprocess.Popen[bytes] | None = None
        self._group = Settings(home=home, token="", running=1, ahead=0).group_name

    async def __aenter__(self) -> Self:
        command = [sys.executable, "-m", "tandem_sandbox", "--home", str(self._home), "--port", str(_PORT)]
        environment = {**os.environ, "PATH": self._path}
        self._process = await asyncio.to_thread(subprocess.Popen, command, env=environment)
        deadline = time.monotonic() + _START_SECONDS
        async with httpx.AsyncClient() as client:
            while True:
                try:
                    if (await client.get(f"{self.url}/readyz")).is_success:
                        break
                except httpx.HTTPError:
                    assert time.monotonic() < deadline, "the sandbox does not start"
                await asyncio.sleep(0.1)
        self.token = (self._home / "token").read_text()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process is not None
        self._process.terminate()
        await asyncio.to_thread(self._process.wait, 60)

    async def wait_idle(self) -> None:
        """Until containers wait in all lanes again."""
        async with httpx.AsyncClient(headers={"Authorization": f"Bearer {self.token}"}) as client:
            deadline = time.monotonic() + _START_SECONDS
            ready = ""
            while time.monotonic() < deadline:
                text = (await client.get(f"{self.url}/metrics")).text
                ready = next(line for line in text.splitlines() if line.startswith("tandem_sandbox_ready "))
                if float(ready.split()[1]) == self._lanes():
                    return
                await asyncio.sleep(0.1)
        raise AssertionError(f"containers are missing: {ready}")

    def observe_traces(self) -> tuple[int, int, int]:
        """Mounts in the service's namespaces, which its lanes' threads have too, its control groups, its processes."""
        inside = self._processes()
        threads = [thread for process in inside[:2] for thread in Path(f"/proc/{process}/task").iterdir()]
        namespaces = {(thread / "ns" / "mnt").readlink(): thread for thread in threads}
        mounts = sum(len((thread / "mountinfo").read_text().splitlines()) for thread in namespaces.values())
        return mounts, len(self._groups()), len(inside)

    def idle_container_bytes(self) -> int:
        """Memory of the processes of one waiting container: its own shell and the runtime that waits for it."""
        total = 0
        for process in self._processes():
            if Path(f"/proc/{process}/comm").read_text().strip() in ("sh", "crun"):
                rollup = Path(f"/proc/{process}/smaps_rollup").read_text()
                total += next(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:")) * 1024
        return total // self._lanes()

    def _lanes(self) -> int:
        return len({folder.name for folder in self._groups() if folder.name.startswith("lane-")})

    def _groups(self) -> list[Path]:
        hierarchies = observe_hierarchies(
            Path("/proc/self/mountinfo").read_text(), Path("/proc/self/cgroup").read_text()
        )
        parents = hierarchies.group_paths(self._group)
        return [*parents, *(folder for parent in parents for folder in parent.glob("*/"))]

    def _processes(self) -> list[int]:
        """All below the one that we started, the first one of its namespace first."""
        assert self._process is not None
        found: list[int] = []
        waiting = [self._process.pid]
        while waiting:
            process = waiting.pop()
            threads = Path(f"/proc/{process}/task").iterdir()
            children = [child for thread in threads for child in (thread / "children").read_text().split()]
            found += [int(child) for child in children]
            waiting += [int(child) for child in children]
        return found
