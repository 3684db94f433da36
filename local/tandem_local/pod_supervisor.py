"""The life of one pod: containers start in order, run, and end in reverse order."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tandem_local.container_process import CONTAINER_VARIABLE, MACHINE_WIDE, Launch
from tandem_local.container_supervisor import ContainerSupervisor, RestartTerms, Surroundings
from tandem_local.places import Places
from tandem_local.pod_volumes import make_volumes, remove_volumes
from tandem_local.pods import LocalContainer, LocalPod
from tandem_local.restart_policy import ContainerKind, Verdict
from tandem_local.run_state import Condition, ContainerState, PodState


@dataclass(frozen=True)
class PodEnd:
    """How a pod ended."""

    verdict: Verdict
    """COMPLETE (also when it was stopped), FAIL_POD or FAIL_JOB."""
    container: str = ""
    """The container that failed."""
    reason: str = ""


class PodSupervisor:
    """One pod; `run` is its life, and `stop` ends it early.

    Sidecars start one after the other, each once the one before has started, then the main containers all at once. The
    pod is complete when all main containers are; sidecars are stopped then, in reverse order. Unlike on a cluster, the
    first container that fails for good ends the pod: the others could only wait for it.
    """

    def __init__(
        self,
        pod: LocalPod,
        places: Places,
        environment: Mapping[str, str],
        terms: RestartTerms,
        surroundings: Surroundings,
    ) -> None:
        self._pod = pod
        self._places = places
        self._surroundings = surroundings
        self._terms = terms
        self._environment = environment
        self._containers = [self._supervise(container) for container in pod.containers]
        self._tasks: list[asyncio.Task[Verdict]] = []
        self._end: asyncio.Future[PodEnd] = asyncio.get_running_loop().create_future()

    @property
    def state(self) -> tuple[ContainerState, ...]:
        """All its containers."""
        return tuple(container.state for container in self._containers)

    @property
    def started(self) -> bool:
        """Whether all its containers have started."""
        return all(container.started.is_set() for container in self._containers)

    async def run(self) -> PodEnd:
        """Start it, wait for its end, and clean up behind it."""
        temporary = self._places.temporary / str(self._pod.number)
        make_volumes(self._pod.volumes, temporary)
        starting = asyncio.create_task(self._start_in_order())
        starting.add_done_callback(self._hand_over_exception)
        try:
            return await self._end
        finally:
            starting.cancel()
            await asyncio.wait([starting])
            await self._stop_containers()
            remove_volumes(self._pod.volumes, temporary)

    def stop(self) -> None:
        """End it; `run` returns once it has ended."""
        self._finish(PodEnd(Verdict.COMPLETE, reason="stopped"))

    async def _start_in_order(self) -> None:
        for container in self._containers:
            task = asyncio.create_task(container.run())
            self._tasks.append(task)
            task.add_done_callback(partial(self._container_ended, container))
            if container.container.kind is ContainerKind.INIT:
                await asyncio.wait([task])
            elif container.container.kind is ContainerKind.SIDECAR:
                await container.started.wait()

    async def _stop_containers(self) -> None:
        running = self._containers[: len(self._tasks)]
        mains = [container for container in running if container.container.kind is ContainerKind.MAIN]
        grace = self._pod.grace_seconds
        async with asyncio.TaskGroup() as group:
            for container in mains:
                group.create_task(container.stop(grace))
        for container in reversed(running):
            if container not in mains:
                await container.stop(grace)
        if self._tasks:
            await asyncio.wait(self._tasks)

    def _container_ended(self, container: ContainerSupervisor, task: "asyncio.Task[Verdict]") -> None:
        if self._hand_over_exception(task):
            return
        verdict = task.result()
        if verdict is not Verdict.COMPLETE:
            self._finish(PodEnd(verdict, container.container.name, container.state.message))
        elif all(
            item.state.condition is Condition.COMPLETED
            for item in self._containers
            if item.container.kind is ContainerKind.MAIN
        ):
            self._finish(PodEnd(Verdict.COMPLETE))

    def _hand_over_exception(self, task: "asyncio.Task[Verdict] | asyncio.Task[None]") -> bool:
        if task.cancelled() or task.exception() is None:
            return task.cancelled()
        if not self._end.done():
            self._end.set_exception(task.exception() or AssertionError())
        return True

    def _finish(self, end: PodEnd) -> None:
        if not self._end.done():
            self._end.set_result(end)

    def _supervise(self, container: LocalContainer) -> ContainerSupervisor:
        launch = Launch(
            command=container.command,
            environment={
                **self._environment,
                **container.environment,
                **{name: self._environment[name] for name in MACHINE_WIDE if name in self._environment},
                CONTAINER_VARIABLE: f"{self._pod.name}/{container.name}",
            },
            working_directory=Path(container.working_directory or self._places.working_directory),
            log_file=self._places.log_file(self._pod.name, container.name),
        )
        return ContainerSupervisor(self._pod.name, container, launch, self._terms, self._surroundings)


def build_pod_state(pod: LocalPod, containers: tuple[ContainerState, ...], replaced: int) -> PodState:
    """The pod as a whole, from its containers."""
    conditions = {item.condition for item in containers if item.kind is ContainerKind.MAIN}
    order = (Condition.FAILED, Condition.BACK_OFF, Condition.STOPPED, Condition.WAITING, Condition.STARTING)
    everything = {item.condition for item in containers}
    if conditions == {Condition.COMPLETED}:
        condition = Condition.COMPLETED
    else:
        condition = next((item for item in order if item in everything), Condition.RUNNING)
    return PodState(
        name=pod.name,
        workload=pod.workload,
        address=pod.address,
        condition=condition,
        replaced=replaced,
        containers=containers,
    )
