"""Keeps the pods of one Job or Deployment going."""

import asyncio
from collections.abc import Mapping

import structlog

from tandem_local.container_supervisor import RestartTerms, Surroundings
from tandem_local.places import Places
from tandem_local.pod_supervisor import PodEnd, PodSupervisor, build_pod_state
from tandem_local.pods import LocalPod, LocalWorkload
from tandem_local.restart_policy import Verdict
from tandem_local.run_state import ContainerState, PodState
from tandem_local.waiting import wait_for_event

log = structlog.get_logger()


class WorkloadFailed(Exception):
    """A Job failed for good: the message says which container of it, and why."""

    def __init__(self, pod: str, container: str, reason: str) -> None:
        super().__init__(f"{pod}/{container} {reason}")
        self.pod = pod
        self.container = container


class WorkloadSupervisor:
    """All pods of one workload; `run` is its life, and `stop` ends it early."""

    def __init__(
        self,
        workload: LocalWorkload,
        places: Places,
        environments: Mapping[str, Mapping[str, str]],
        surroundings: Surroundings,
    ) -> None:
        """`environments`: by pod, the variables that its containers get beside their own."""
        self.workload = workload
        self._places = places
        self._environments = environments
        self._surroundings = surroundings
        self._stopping = asyncio.Event()
        self._failed_pods = 0
        self._replaced = dict.fromkeys((pod.name for pod in workload.pods), 0)
        self._running: dict[str, PodSupervisor] = {}
        self._last: dict[str, tuple[ContainerState, ...]] = {
            pod.name: tuple(ContainerState(name=item.name, kind=item.kind) for item in pod.containers)
            for pod in workload.pods
        }

    @property
    def states(self) -> tuple[PodState, ...]:
        """All its pods as they are now."""
        return tuple(
            build_pod_state(pod, self._containers(pod.name), self._replaced[pod.name]) for pod in self.workload.pods
        )

    async def run(self) -> None:
        """Returns when all pods are complete or were stopped; raises WorkloadFailed if the Job failed."""
        pods = [asyncio.create_task(self._run_pod(pod)) for pod in self.workload.pods]
        if not pods:
            return
        try:
            await asyncio.wait(pods, return_when=asyncio.FIRST_EXCEPTION)
        finally:
            self.stop()
            await asyncio.wait(pods)
        for task in pods:
            task.result()

    def stop(self) -> None:
        """End all pods; `run` returns once they have ended."""
        self._stopping.set()
        for pod in self._running.values():
            pod.stop()

    async def _run_pod(self, pod: LocalPod) -> None:
        terms = RestartTerms(pod.restart_rule, self.workload.limit, self.workload.failure_rules)
        while not self._stopping.is_set():
            supervisor = PodSupervisor(
                pod, self._places, self._environments.get(pod.name, {}), terms, self._surroundings
            )
            self._running[pod.name] = supervisor
            try:
                end = await supervisor.run()
            finally:
                del self._running[pod.name]
                self._last[pod.name] = supervisor.state
                self._surroundings.on_change()
            if end.verdict is Verdict.COMPLETE or not await self._may_replace(pod, end):
                return

    async def _may_replace(self, pod: LocalPod, end: PodEnd) -> bool:
        """Whether a new pod takes the failed one's place, after the wait this takes. Raises WorkloadFailed."""
        limit = self.workload.limit
        if limit is None:
            log.error("pod failed for good", pod=pod.name, container=end.container, reason=end.reason)
            return False
        self._failed_pods += 1
        if end.verdict is Verdict.FAIL_JOB:
            raise WorkloadFailed(pod.name, end.container, end.reason)
        if self._failed_pods > limit:
            raise WorkloadFailed(
                pod.name, end.container, f"{end.reason}, after {limit} restarts (spec.backoffLimit allows no more)"
            )
        if await wait_for_event(self._stopping, self._surroundings.back_off.delay(self._failed_pods)):
            return False
        self._replaced[pod.name] += 1
        return True

    def _containers(self, pod: str) -> tuple[ContainerState, ...]:
        running = self._running.get(pod)
        return running.state if running is not None else self._last[pod]
