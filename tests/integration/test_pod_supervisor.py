"""Pods of small real processes: order, restarts, back-off, probes, and that nothing is left."""

import asyncio
import itertools
import os
import signal
import time
from collections.abc import AsyncIterator, Callable
from ipaddress import IPv4Network
from pathlib import Path

import pytest
import pytest_asyncio
from tandem_local.container_supervisor import RestartTerms, Surroundings
from tandem_local.places import Places
from tandem_local.pod_supervisor import PodEnd, PodSupervisor
from tandem_local.pods import LocalContainer, LocalPod
from tandem_local.probe_specs import ExecCheck, Probe
from tandem_local.probes import Prober
from tandem_local.process_table import observe_identity
from tandem_local.restart_policy import BackOff, ContainerKind, RestartRule, Verdict
from tandem_local.run_state import Condition
from tandem_local.sweep import sweep_container
from tandem_local.volumes import LocalVolume, VolumeKind

DEADLINE_SECONDS = 30.0
SIDECAR, MAIN, INIT = ContainerKind.SIDECAR, ContainerKind.MAIN, ContainerKind.INIT

SERVE = "echo {name} up >> events; trap 'echo {name} down >> events; exit 0' TERM; while :; do sleep 0.05; done"
"""Says when it starts and when it is asked to end."""


class Bench:
    """Makes and runs pods below a directory."""

    def __init__(self, directory: Path, prober: Prober) -> None:
        self.places = Places(f"t{os.getpid():07d}", directory, IPv4Network("127.77.7.0/24"), directory)
        self.kill = asyncio.Event()
        self.surroundings = Surroundings(
            prober,
            self.kill,
            lambda: None,
            lambda pod, container: sweep_container(self.places, pod, container) and None,
            BackOff(first_seconds=0.05, longest_seconds=0.2),
        )

    def pod(self, *containers: LocalContainer, rule: RestartRule = RestartRule.NEVER, grace: float = 5) -> LocalPod:
        scratch = LocalVolume("scratch", VolumeKind.POD, self.places.memory / "pod" / "scratch")
        secret = LocalVolume("secret", VolumeKind.FILES, self.places.volumes / "secret", {"token": b"s"})
        return LocalPod("pod", "w", 1, "127.77.7.2", containers, (scratch, secret), rule, grace)

    def supervise(self, pod: LocalPod, limit: int | None = 2) -> PodSupervisor:
        environment = {"PATH": os.environ["PATH"]}
        return PodSupervisor(pod, self.places, environment, RestartTerms(pod.restart_rule, limit), self.surroundings)

    async def run(self, pod: LocalPod, limit: int | None = 2) -> PodEnd:
        async with asyncio.timeout(DEADLINE_SECONDS):
            return await self.supervise(pod, limit).run()

    def events(self) -> list[str]:
        path = self.places.directory / "events"
        return path.read_text().splitlines() if path.exists() else []

    def log(self, container: str) -> str:
        return self.places.log_file("pod", container).read_text()


@pytest_asyncio.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    async with Prober() as prober:
        bench = Bench(tmp_path, prober)
        yield bench
        assert not bench.places.memory.joinpath("pod", "scratch").exists()
        assert not bench.places.temporary.joinpath("1").exists()
        for path in (bench.places.memory / "pod", bench.places.memory, bench.places.temporary):
            if path.exists():
                path.rmdir()


def shell(name: str, script: str, kind: ContainerKind = MAIN, **fields: object) -> LocalContainer:
    container = LocalContainer(name, kind, ("/bin/sh", "-c", script), {})
    return LocalContainer(**{**container.__dict__, **fields})  # type: ignore[arg-type]


def server(name: str, kind: ContainerKind, **fields: object) -> LocalContainer:
    return shell(name, SERVE.format(name=name), kind, **fields)


def probe(script: str, failures: int = 3) -> Probe:
    return Probe(ExecCheck(("/bin/sh", "-c", script)), period_seconds=0.05, failure_threshold=failures)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE_SECONDS):
        while not condition():  # noqa: ASYNC110 - files give no notice
            await asyncio.sleep(0.01)


async def test_containers_start_in_order_and_sidecars_end_last_in_reverse(bench: Bench) -> None:
    def up(name: str) -> Probe:
        return probe(f"grep -q '{name} up' events && test -e {name}.ready", failures=1000)

    pod = bench.pod(
        shell("init", "echo init >> events", INIT),
        server("one", SIDECAR, startup=up("one")),
        server("two", SIDECAR, startup=up("two")),
        shell("main", "echo main >> events"),
    )
    running = asyncio.create_task(bench.run(pod))
    await until(lambda: bench.events() == ["init", "one up"])
    (bench.places.directory / "one.ready").touch()
    await until(lambda: bench.events() == ["init", "one up", "two up"])
    (bench.places.directory / "two.ready").touch()
    assert await running == PodEnd(Verdict.COMPLETE)
    assert bench.events() == ["init", "one up", "two up", "main", "two down", "one down"]


async def test_a_failing_container_is_restarted_with_back_off_until_it_succeeds(bench: Bench) -> None:
    script = "date +%s.%N >> events; test $(wc -l < events) -ge 4"
    end = await bench.run(bench.pod(shell("main", script), rule=RestartRule.ON_FAILURE), limit=5)
    assert end.verdict is Verdict.COMPLETE
    starts = [float(line) for line in bench.events()]
    waits = [after - before for before, after in itertools.pairwise(starts)]
    assert [wait >= least for wait, least in zip(waits, (0.05, 0.1, 0.2), strict=True)] == [True, True, True]


async def test_too_many_restarts_fail_the_job(bench: Bench) -> None:
    pod = bench.pod(shell("main", "echo x >> events; exit 7"), rule=RestartRule.ON_FAILURE)
    end = await bench.run(pod, limit=2)
    assert end == PodEnd(Verdict.FAIL_JOB, "main", "exited with 7")
    assert len(bench.events()) == 3


async def test_exit_code_3_is_never_restarted(bench: Bench) -> None:
    pod = bench.pod(server("side", SIDECAR), shell("main", "echo x >> events; exit 3"), rule=RestartRule.ON_FAILURE)
    end = await bench.run(pod, limit=6)
    assert end == PodEnd(Verdict.FAIL_JOB, "main", "exited with 3")
    assert bench.events().count("x") == 1


async def test_a_failed_container_of_a_pod_without_restarts_fails_the_pod(bench: Bench) -> None:
    end = await bench.run(bench.pod(shell("main", "exit 1")), limit=6)
    assert end == PodEnd(Verdict.FAIL_POD, "main", "exited with 1")


async def test_a_sidecar_that_dies_is_restarted_beside_its_trainer(bench: Bench) -> None:
    side = shell("side", "echo up >> events; test $(grep -c up events) -lt 2 && exit 0; sleep 60", SIDECAR)
    main = shell("main", "while test $(grep -c up events) -lt 2; do sleep 0.02; done")
    assert (await bench.run(bench.pod(side, main))).verdict is Verdict.COMPLETE


async def test_a_container_that_is_alive_no_more_is_restarted(bench: Bench) -> None:
    script = "echo up >> events; test $(grep -c up events) -ge 2 && exit 0; touch stuck; sleep 60"
    # Ten checks: the second run may take some time until it says that it is up.
    healthy = probe("test ! -e stuck || test $(grep -c up events) -ge 2", failures=10)
    supervisor = bench.supervise(bench.pod(shell("main", script, liveness=healthy), rule=RestartRule.ON_FAILURE))
    async with asyncio.timeout(DEADLINE_SECONDS):
        end = await supervisor.run()
    assert end.verdict is Verdict.COMPLETE
    assert supervisor.state[0].restarts == 1


async def test_readiness_is_followed_without_a_restart(bench: Bench) -> None:
    pod = bench.pod(server("main", MAIN, readiness=probe("test -e ready", failures=1)))
    supervisor = bench.supervise(pod)
    running = asyncio.create_task(supervisor.run())
    await until(lambda: supervisor.state[0].condition is Condition.RUNNING)
    assert not supervisor.state[0].ready
    ready = bench.places.directory / "ready"
    ready.touch()
    await until(lambda: supervisor.state[0].ready)
    ready.unlink()
    await until(lambda: not supervisor.state[0].ready)
    supervisor.stop()
    assert (await running).verdict is Verdict.COMPLETE
    assert bench.events() == ["main up", "main down"]


async def test_what_does_not_end_when_asked_is_killed_after_the_grace(bench: Bench) -> None:
    stubborn = shell("main", "trap '' TERM; echo up >> events; while :; do sleep 0.05; done")
    supervisor = bench.supervise(bench.pod(stubborn, grace=0.3))
    running = asyncio.create_task(supervisor.run())
    await until(lambda: bench.events() == ["up"])
    pid = supervisor.state[0].pid
    began = time.monotonic()
    supervisor.stop()
    await asyncio.wait_for(running, DEADLINE_SECONDS)
    assert time.monotonic() - began >= 0.3
    assert pid is not None
    assert observe_identity(pid) is None


async def test_nobody_waits_for_the_grace_once_all_is_to_be_killed(bench: Bench) -> None:
    stubborn = shell("main", "trap '' TERM; echo up >> events; while :; do sleep 0.05; done")
    supervisor = bench.supervise(bench.pod(stubborn, grace=1000))
    running = asyncio.create_task(supervisor.run())
    await until(lambda: bench.events() == ["up"])
    supervisor.stop()
    bench.kill.set()
    await asyncio.wait_for(running, DEADLINE_SECONDS)


@pytest.mark.parametrize("victim", ["main process", "process 1"])
async def test_a_killed_container_takes_all_its_descendants_with_it(bench: Bench, victim: str) -> None:
    # The grandchild is in a session of its own, as engines are.
    script = "setsid sh -c 'echo $$ > grandchild; sleep 600' & echo $$ > main; wait"
    supervisor = bench.supervise(bench.pod(shell("main", script)), limit=0)
    running = asyncio.create_task(supervisor.run())
    files = [bench.places.directory / name for name in ("main", "grandchild")]
    await until(lambda: all(path.exists() and path.read_text().strip() for path in files))
    main, grandchild = (int(path.read_text()) for path in files)
    target = main if victim == "main process" else supervisor.state[0].pid
    assert target is not None
    os.kill(target, signal.SIGKILL)
    end = await asyncio.wait_for(running, DEADLINE_SECONDS)
    assert end == PodEnd(Verdict.FAIL_POD, "main", "exited with 137")
    assert observe_identity(main) is None
    assert observe_identity(grandchild) is None


async def test_shared_memory_of_killed_processes_is_removed(bench: Bench) -> None:
    # As C++ libraries do it: no resource tracker of Python's knows of this segment.
    name = f"psm_{os.getpid()}_test"
    program = f"""
import mmap, os, signal
file = os.open("/dev/shm/{name}", os.O_CREAT | os.O_RDWR)
os.ftruncate(file, 4096)
memory = mmap.mmap(file, 4096)
open("mapped", "w").close()
signal.pause()
"""
    (bench.places.directory / "program.py").write_text(program)
    pod = bench.pod(shell("main", "python3 program.py & wait"), grace=0)
    supervisor = bench.supervise(pod)
    running = asyncio.create_task(supervisor.run())
    await until((bench.places.directory / "mapped").exists)
    supervisor.stop()
    await asyncio.wait_for(running, DEADLINE_SECONDS)
    assert name not in os.listdir("/dev/shm")


async def test_a_program_that_is_not_there_is_told_in_the_log(bench: Bench) -> None:
    end = await bench.run(bench.pod(LocalContainer("main", MAIN, ("no-such-program",), {})))
    assert end == PodEnd(Verdict.FAIL_POD, "main", "exited with 127")
    assert "cannot start no-such-program" in bench.log("main")


async def test_volumes_are_there_and_secrets_are_private(bench: Bench) -> None:
    secret = bench.places.volumes / "secret"
    scratch = bench.places.memory / "pod" / "scratch"
    script = f"cat {secret}/token; stat -c %a {secret}/token; touch {scratch}/x && echo written"
    assert (await bench.run(bench.pod(shell("main", script)))).verdict is Verdict.COMPLETE
    assert bench.log("main") == "s600\nwritten\n"
    assert not secret.exists()
