"""Runs a prepared job: etcd and pods, until the job is done, has failed, or is stopped."""

import asyncio
import os
import signal
import time
from collections.abc import Mapping
from typing import Protocol

import structlog
from tandem_core.coordination.keys import JobKeys
from tandem_core.coordination.store import Store
from tandem_core.errors import TandemError

from tandem_local.container_process import RUN_VARIABLE, inherited_environment
from tandem_local.container_supervisor import Surroundings
from tandem_local.etcd_server import ETCD_POD, EtcdBinary, build_etcd_pod
from tandem_local.job_follower import JobFollower
from tandem_local.log_files import keep_logs_bounded
from tandem_local.machine import observe_machine
from tandem_local.pods import LocalWorkload
from tandem_local.prepare import RunPlan
from tandem_local.probes import Prober
from tandem_local.process_table import observe_identity
from tandem_local.resources import assign_devices
from tandem_local.run_end import RunEnd
from tandem_local.run_state import Condition, PodState, RunState, RunStatus
from tandem_local.sweep import sweep_container, sweep_run
from tandem_local.waiting import wait_for_event
from tandem_local.workload_supervisor import WorkloadSupervisor

log = structlog.get_logger()

_ETCD_SECONDS = 60.0
_PATIENCE_SECONDS = 10.0
_SHORTEST_UPDATE_SECONDS = 0.25
_LONGEST_UPDATE_SECONDS = 1.0


class View(Protocol):
    """Shows the run to the user."""

    def show(self, state: RunState) -> None:
        """Called at least once a second with the newest state."""


class RunnerError(TandemError):
    """The run could not be carried out."""


class Runner:
    """One run. `run` returns its last state; the first signal stops it, the second one ends it at once."""

    def __init__(self, plan: RunPlan, etcd: EtcdBinary, view: View, *, environment: Mapping[str, str] = os.environ):
        self._plan = plan
        self._etcd = etcd
        self._view = view
        self._host_environment = dict(environment)
        self._devices = assign_devices(plan.pods, observe_machine(environment).gpus)
        self._changed = asyncio.Event()
        self._stop = asyncio.Event()
        self._kill = asyncio.Event()
        self._supervisors: list[WorkloadSupervisor] = []
        self._follower = JobFollower(plan.job, self._changed.set)
        state = plan.directory.read_state()
        if state is None:
            raise RunnerError(f"{plan.directory.path} holds no run that could be started")
        self._state = state.model_copy(
            update={
                "status": RunStatus.STARTING,
                "reason": "",
                "runner": observe_identity(os.getpid()),
                "etcd_endpoint": plan.etcd_endpoint,
                "ended_at": None,
                "summary": None,
            }
        )

    async def run(self) -> RunState:
        """Carry the run out and clean up behind it."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, self._interrupted, number)
        self._publish()
        status, reason = RunStatus.FAILED, "the runner itself failed: see runner.log"
        try:
            status, reason = await self._run_supervised()
        except* TandemError as errors:
            reason = "; ".join(str(error) for error in errors.exceptions)
        finally:
            swept = await asyncio.to_thread(sweep_run, self._plan.places)
            log.info("cleaned up", processes=swept.processes, files=swept.files)
            self._change(status=status, reason=reason, ended_at=time.time())
            self._publish()
        return self._state

    def stop(self, reason: str) -> None:
        """Ask for the end; asked again, everything is ended at once."""
        if self._stop.is_set():
            self._kill.set()
        self._stop.set()
        self._change(status=RunStatus.STOPPING, reason=reason)

    def _interrupted(self, number: signal.Signals) -> None:
        self.stop(f"stopped by {signal.Signals(number).name}")

    async def _run_supervised(self) -> tuple[RunStatus, str]:
        async with Prober() as prober, asyncio.TaskGroup() as group:
            publishing = group.create_task(self._keep_publishing())
            logs = group.create_task(keep_logs_bounded(self._plan.directory.logs))
            try:
                return await self._run_with_etcd(self._surroundings(prober))
            finally:
                publishing.cancel()
                logs.cancel()

    async def _run_with_etcd(self, surroundings: Surroundings) -> tuple[RunStatus, str]:
        data = self._plan.directory.etcd
        pod = build_etcd_pod(self._etcd, self._plan.places, data)
        etcd = self._supervise(LocalWorkload(ETCD_POD, (pod,)), surroundings)
        task = asyncio.create_task(etcd.run())
        try:
            if not await self._etcd_started(etcd):
                return RunStatus.STOPPED, self._state.reason
            async with Store(self._plan.etcd_endpoint, patience_seconds=_PATIENCE_SECONDS) as store:
                # What a former run of the job left is not true any more; its revisions go on, and so do fencing tokens.
                await store.delete_prefix(JobKeys(self._plan.job.metadata.uid).prefix)
                return await self._run_job(store, surroundings)
        finally:
            etcd.stop()
            await task

    async def _etcd_started(self, etcd: WorkloadSupervisor) -> bool:
        """False if the run is to stop before. Raises RunnerError after a deadline."""
        deadline = time.monotonic() + _ETCD_SECONDS
        while etcd.states[0].condition is not Condition.RUNNING:
            if await wait_for_event(self._stop, 0.05):
                return False
            if time.monotonic() > deadline:
                log_file = self._plan.places.log_file(ETCD_POD, ETCD_POD)
                raise RunnerError(f"etcd ({self._etcd.path}) did not start in {_ETCD_SECONDS:g} s: see {log_file}")
        return True

    async def _run_job(self, store: Store, surroundings: Surroundings) -> tuple[RunStatus, str]:
        supervisors = [self._supervise(workload, surroundings) for workload in self._plan.workloads]
        following = asyncio.create_task(self._follower.run(store))
        following.add_done_callback(_log_exception)
        tasks = [asyncio.create_task(item.run(), name=item.workload.name) for item in supervisors]
        jobs = [task for task, item in zip(tasks, supervisors, strict=True) if item.workload.is_job]
        self._change(status=RunStatus.RUNNING)
        try:
            end = RunEnd(self._follower, self._stop, self._plan.job.spec.deadlines.publishing)
            status, reason = await end.wait(jobs)
        finally:
            for item in supervisors:
                item.stop()
            await asyncio.wait(tasks)
            following.cancel()
            await asyncio.wait([following])
        await self._follower.read_once(store)
        if status is RunStatus.STOPPED:
            return status, self._state.reason
        if self._follower.failed:
            return RunStatus.FAILED, self._follower.reason or reason
        return status, reason

    def _supervise(self, workload: LocalWorkload, surroundings: Surroundings) -> WorkloadSupervisor:
        cache = self._plan.directory.path.parent.parent / "cache"
        shared = inherited_environment(self._host_environment, cache) | {RUN_VARIABLE: self._plan.places.run_id}
        temporary = self._plan.places.temporary
        environments = {
            pod.name: {
                **shared,
                "TMPDIR": str(temporary / str(pod.number)),
                "CUDA_VISIBLE_DEVICES": self._devices.get(pod.name, ""),
            }
            for pod in workload.pods
        }
        supervisor = WorkloadSupervisor(workload, self._plan.places, environments, surroundings)
        self._supervisors.append(supervisor)
        return supervisor

    def _surroundings(self, prober: Prober) -> Surroundings:
        def sweep(pod: str, container: str) -> None:
            swept = sweep_container(self._plan.places, pod, container)
            log.warning("a container's process 1 was killed", container=f"{pod}/{container}", ended=swept.processes)

        return Surroundings(prober, self._kill, self._changed.set, sweep)

    async def _keep_publishing(self) -> None:
        while True:
            await wait_for_event(self._changed, _LONGEST_UPDATE_SECONDS)
            self._changed.clear()
            self._scale()
            self._publish()
            await asyncio.sleep(_SHORTEST_UPDATE_SECONDS)

    def _scale(self) -> None:
        """Have as many inference pods as is asked for."""
        control, elastic = self._follower.control, self._plan.job.spec.elastic
        if control is None or control.inference_pods is None:
            return
        for item in self._supervisors:
            if item.workload.replicas is not None:
                item.scale(min(max(control.inference_pods, elastic.min), elastic.max))

    def _publish(self) -> None:
        pods: tuple[PodState, ...] = tuple(state for item in self._supervisors for state in item.states)
        summary = self._follower.summary
        state = self._state.model_copy(update={"pods": pods, "summary": summary or self._state.summary})
        if state != self._state or not self._plan.directory.state_file.exists() or state.status.final:
            self._plan.directory.write_state(state)
        self._state = state
        self._view.show(state)

    def _change(self, **changes: object) -> None:
        self._state = self._state.model_copy(update=changes)
        self._plan.directory.write_state(self._state)
        self._changed.set()


def _log_exception(task: "asyncio.Task[None]") -> None:
    """A run goes on without its progress being shown."""
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("cannot follow the job any more", exc_info=error)
