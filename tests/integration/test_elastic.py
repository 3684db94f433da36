"""Inference pods that come and go while a run goes on."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from ipaddress import IPv4Network
from pathlib import Path

import pytest
from tandem_core.job import RLJob, load_job
from tandem_local.container_supervisor import Surroundings
from tandem_local.places import Places
from tandem_local.pods import LocalContainer, LocalPod, LocalWorkload
from tandem_local.probes import Prober
from tandem_local.restart_policy import BackOff, ContainerKind, RestartRule
from tandem_local.run_directory import RunDirectory
from tandem_local.run_state import Condition
from tandem_local.scaling import CannotScale, check_count, scale_run
from tandem_local.sweep import sweep_container
from tandem_local.workload_supervisor import WorkloadSupervisor

EXAMPLE = Path(__file__).parents[2] / "examples" / "addition.yaml"
SERVE = "echo $0 up >> events; trap 'echo $0 down >> events; exit 0' TERM; while :; do sleep 0.05; done"


def build_job(*settings: str) -> RLJob:
    return load_job(EXAMPLE, list(settings))


@asynccontextmanager
async def run_pods(
    directory: Path, pods: int, replicas: int, command: str = SERVE, limit: int | None = None
) -> AsyncIterator[WorkloadSupervisor]:
    """A workload that may have up to `pods` pods; each says in `events` when it starts and when it is asked to end."""
    places = Places(f"t{os.getpid():07d}", directory, IPv4Network("127.77.8.0/24"), directory)
    async with Prober() as prober:
        surroundings = Surroundings(
            prober,
            asyncio.Event(),
            lambda: None,
            lambda pod, container: sweep_container(places, pod, container) and None,
            BackOff(first_seconds=0.05, longest_seconds=0.2),
        )
        workload = LocalWorkload(
            "w", tuple(build_pod(number, command, limit) for number in range(pods)), replicas=replicas, limit=limit
        )
        environments = {pod.name: {"PATH": os.environ["PATH"]} for pod in workload.pods}
        supervisor = WorkloadSupervisor(workload, places, environments, surroundings)
        running = asyncio.create_task(supervisor.run())
        try:
            yield supervisor
        finally:
            supervisor.stop()
            await asyncio.wait_for(running, 30)


def build_pod(number: int, command: str, limit: int | None) -> LocalPod:
    """With a limit it is a Job's: a new pod takes the place of each that failed."""
    container = LocalContainer("c", ContainerKind.MAIN, ("/bin/sh", "-c", command, f"pod-{number}"), {})
    rule = RestartRule.ALWAYS if limit is None else RestartRule.NEVER
    return LocalPod(f"pod-{number}", "w", number, f"127.77.8.{number + 2}", (container,), (), rule, 5)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110 - processes tell by files
            await asyncio.sleep(0.02)


def running(supervisor: WorkloadSupervisor) -> list[str]:
    return [pod.name for pod in supervisor.states if pod.condition is Condition.RUNNING]


def events(directory: Path, pod: str) -> list[str]:
    file = directory / "events"
    lines = file.read_text().splitlines() if file.exists() else []
    return [line.removeprefix(f"{pod} ") for line in lines if line.startswith(pod)]


async def test_pods_are_added_removed_and_added_again(tmp_path: Path) -> None:
    async with run_pods(tmp_path, pods=2, replicas=0) as supervisor:
        assert supervisor.states == ()
        supervisor.scale(2)
        await until(lambda: events(tmp_path, "pod-0") == events(tmp_path, "pod-1") == ["up"])
        supervisor.scale(1)
        await until(lambda: [pod.name for pod in supervisor.states] == ["pod-0"])
        supervisor.scale(2)
        await until(lambda: events(tmp_path, "pod-1") == ["up", "down", "up"])
    assert events(tmp_path, "pod-0") == ["up", "down"]
    assert events(tmp_path, "pod-1") == ["up", "down"] * 2


async def test_a_pod_that_is_wanted_again_while_it_ends_is_started_anew(tmp_path: Path) -> None:
    async with run_pods(tmp_path, pods=1, replicas=1) as supervisor:
        await until(lambda: events(tmp_path, "pod-0") == ["up"])
        supervisor.scale(0)
        supervisor.scale(1)
        await until(lambda: events(tmp_path, "pod-0") == ["up", "down", "up"])


async def test_a_pod_of_a_scaled_workload_that_dies_is_restarted(tmp_path: Path) -> None:
    async with run_pods(tmp_path, pods=2, replicas=1) as supervisor:
        await until(lambda: running(supervisor) == ["pod-0"])
        pid = supervisor.states[0].containers[0].pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        await until(lambda: supervisor.states[0].containers[0].restarts == 1 and bool(running(supervisor)))


async def test_a_pod_that_waits_to_be_restarted_is_not_when_it_is_no_longer_wanted(tmp_path: Path) -> None:
    """Its containers end at once, so that it is mostly waiting."""
    async with run_pods(tmp_path, pods=2, replicas=2, command="echo $0 up >> events; exit 1", limit=1000) as supervisor:
        await until(lambda: len(events(tmp_path, "pod-1")) >= 2 and "pod-1" not in supervisor._running)
        supervisor.scale(1)
        await until(lambda: [pod.name for pod in supervisor.states] == ["pod-0"])
        starts, others = len(events(tmp_path, "pod-1")), len(events(tmp_path, "pod-0"))
        await until(lambda: len(events(tmp_path, "pod-0")) >= others + 4)
        assert len(events(tmp_path, "pod-1")) == starts
        supervisor.scale(2)
        await until(lambda: len(events(tmp_path, "pod-1")) > starts)


@pytest.mark.parametrize("count", [-1, 0, 4])
def test_no_more_and_no_fewer_pods_than_the_job_allows(count: int) -> None:
    with pytest.raises(CannotScale, match=r"may have 1 to 3 inference pods .* not"):
        check_count(build_job("spec.elastic={min: 1, max: 3}"), count)


async def test_a_run_that_is_not_going_on_cannot_be_scaled(tmp_path: Path) -> None:
    with pytest.raises(CannotScale, match="nothing is not running"):
        await scale_run(RunDirectory(tmp_path / "nothing"), 1)
