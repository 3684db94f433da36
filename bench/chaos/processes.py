"""Finds the processes of a run's parts, from the runner down."""

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

import psutil
from tandem_local.container_process import CONTAINER_VARIABLE

from bench.chaos.faults import Part


@dataclass(frozen=True)
class Processes:
    """All processes of a run at one moment."""

    parts: dict[Part, psutil.Process]
    """The part's process; of several ranks the last one."""
    census: Counter[str]
    """How many processes each container has, by container and program."""


def observe_run(runner: psutil.Process) -> Processes:
    """What runs below the runner now; parts that are being started may be missing."""
    family = _Family()
    parts: dict[Part, psutil.Process] = {}
    census: Counter[str] = Counter()
    for init in family.children(runner):
        try:
            container = init.environ().get(CONTAINER_VARIABLE)
        except psutil.Error:
            continue
        if container:
            census.update(f"{container} {family.program(process)}" for process in family.descendants(init))
            for main in family.children(init)[:1]:
                parts |= _parts_of(container, main, family)
    return Processes(parts, census)


class _Family:
    """Who started whom, at one moment."""

    def __init__(self) -> None:
        self._children: dict[int, list[psutil.Process]] = defaultdict(list)
        for process in psutil.process_iter(["ppid", "cmdline", "status"]):
            if process.info["status"] != psutil.STATUS_ZOMBIE:
                self._children[process.info["ppid"]].append(process)

    def children(self, process: psutil.Process) -> list[psutil.Process]:
        """By process id, which is nearly always the order of their start."""
        return self._children[process.pid]

    def descendants(self, process: psutil.Process) -> Iterator[psutil.Process]:
        for child in self.children(process):
            yield child
            yield from self.descendants(child)

    def program(self, process: psutil.Process) -> str:
        """The module that it runs, or its title."""
        words = process.info["cmdline"] or ["ended"]
        return words[words.index("-m") + 1] if "-m" in words[:-1] else words[0].strip()

    def descend(self, process: psutil.Process, *programs: str) -> psutil.Process | None:
        """The last child whose command names the first program, its last child of the second, and so on."""
        for program in programs:
            found = [child for child in self.children(process) if program in self.program(child)]
            if not found:
                return None
            process = found[-1]
        return process


def _parts_of(container: str, main: psutil.Process, family: _Family) -> dict[Part, psutil.Process]:
    pod, _, name = container.rpartition("/")
    hybrid = "-hybrid-" in pod
    if name == "inference":
        launcher = "tandem_sidecar.launcher"
        found = {
            Part.CHECKPOINT_ENGINE if hybrid else Part.POD_CHECKPOINT_ENGINE: main,
            Part.ENGINE if hybrid else Part.POD_ENGINE: family.descend(main, launcher, launcher),
        }
        if hybrid:
            found[Part.CORE] = family.descend(main, launcher, launcher, "EngineCore")
    elif name == "trainer":
        found = {Part.TORCHRUN: main, Part.RANK: family.descend(main, "tandem_trainer")}
    else:
        found = {Part.ETCD if name == "etcd" else Part.MASTER: main}
    return {part: process for part, process in found.items() if process is not None}
