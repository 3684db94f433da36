"""Keeps the pods of one Job or Deployment going."""

import asyncio
import time
from collections.abc import Collection, Mapping

import structlog

from tandem_local.container_supervisor import RestartTerms, Surroundings
from tandem_local.places import Places
from tandem_local.pod_supervisor import PodEnd, PodSupervisor, build_pod_state
from tandem_local.pods import LocalPod, LocalWorkload
from tandem_local.restart_policy import FailureStreak, Verdict
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
    """All pods of one workload; `run` is its life, `scale` adds and removes pods, and `stop` ends it early."""

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
        self._changed = asyncio.Event()
        self._wanted = len(workload.pods) if workload.replicas is None else workload.replicas
        self._removed: set[str] = set()
        self._ending: dict[str, asyncio.Event] = {}
        """For each pod that was started: whether no other is to take its place."""
        self._failed_pods = 0
        self._replaced = dict.fromkeys((pod.name for pod in workload.pods), 0)
        self._running: dict[str, PodSupervisor] = {}
        self._last: dict[str, tuple[ContainerState, ...]] = {
            pod.name: tuple(ContainerState(name=item.name, kind=item.kind) for item in pod.containers)
            for pod in workload.pods
        }

    @property
    def states(self) -> tuple[PodState, ...]:
        """All its pods as they are now; of those that a workload may be scaled to, the ones wanted or still ending."""
        return tuple(
            build_pod_state(pod, self._containers(pod.name), self._replaced[pod.name])
            for number, pod in enumerate(self.workload.pods)
            if number < self._wanted or pod.name in self._running
        )

    async def run(self) -> None:
        """Returns when all pods are complete or were stopped; raises WorkloadFailed if the Job failed."""
        tasks: dict[str, asyncio.Task[None]] = {}
        try:
            while not self._is_over(tasks.values()):
                self._changed.clear()
                self._start_missing(tasks)
                await self._changed.wait()
        finally:
            self.stop()
            if tasks:
                await asyncio.wait(tasks.values())
        for task in tasks.values():
            task.result()

    def scale(self, count: int) -> None:
        """Have the first `count` pods run; those that are removed end as in `stop`, and may come again."""
        self._wanted = count
        for pod in self.workload.pods[count:]:
            if pod.name in self._ending:
                self._removed.add(pod.name)
                self._end(pod.name)
        self._changed.set()

    def stop(self) -> None:
        """End all pods; `run` returns once they have ended."""
        self._stopping.set()
        self._changed.set()
        for pod in self._ending:
            self._end(pod)

    def _end(self, pod: str) -> None:
        """End the pod, or the wait before another one takes its place."""
        self._ending[pod].set()
        if pod in self._running:
            self._running[pod].stop()

    def _is_over(self, tasks: Collection["asyncio.Task[None]"]) -> bool:
        """Whether it is stopped, a pod failed the Job, or all pods are complete; what can be scaled never is."""
        if self._stopping.is_set() or any(task.done() and task.exception() for task in tasks):
            return True
        started = len(tasks) == self._wanted
        return self.workload.replicas is None and started and all(task.done() for task in tasks)

    def _start_missing(self, tasks: dict[str, "asyncio.Task[None]"]) -> None:
        """Start what is wanted and was never started, or has ended because it was removed."""
        for name in [name for name in self._removed if tasks[name].done()]:
            self._removed.remove(name)
            del tasks[name], self._ending[name]
        for pod in self.workload.pods[: self._wanted]:
            if pod.name not in tasks:
                self._ending[pod.name] = asyncio.Event()
                tasks[pod.name] = asyncio.create_task(self._run_pod(pod))
                tasks[pod.name].add_done_callback(lambda _: self._changed.set())

    async def _run_pod(self, pod: LocalPod) -> None:
        terms = RestartTerms(pod.restart_rule, self.workload.limit, self.workload.failure_rules)
        streak = FailureStreak(self._surroundings.back_off)
        ending = self._ending[pod.name]
        while not ending.is_set():
            began = time.monotonic()
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
            if end.verdict is Verdict.COMPLETE or not self._may_replace(pod, end):
                return
            if await wait_for_event(ending, streak.delay_after(time.monotonic() - began)):
                return
            self._replaced[pod.name] += 1

    def _may_replace(self, pod: LocalPod, end: PodEnd) -> bool:
        """Whether a new pod takes the failed one's place. Raises WorkloadFailed."""
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
        return True

    def _containers(self, pod: str) -> tuple[ContainerState, ...]:
        running = self._running.get(pod)
        return running.state if running is not None else self._last[pod]
