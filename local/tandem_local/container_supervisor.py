"""Keeps one container of a pod going: start, probes, restarts with back-off, stop."""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from tandem_local.container_health import ContainerHealth
from tandem_local.container_process import ContainerProcess, Launch
from tandem_local.pods import LocalContainer
from tandem_local.probe_specs import Check
from tandem_local.probes import Prober
from tandem_local.restart_policy import (
    BackOff,
    ContainerEnd,
    FailureRule,
    FailureStreak,
    RestartRule,
    Verdict,
    plan_after_end,
)
from tandem_local.run_state import Condition, ContainerState
from tandem_local.waiting import wait_for_event

log = structlog.get_logger()

_KILL_SECONDS = 15.0
"""How long the end of a killed container may take: longer than its process 1 spends on its descendants."""


@dataclass(frozen=True)
class Surroundings:
    """What all containers of a run share."""

    prober: Prober
    kill: asyncio.Event
    """Set: end everything now, without grace."""
    on_change: Callable[[], None]
    """Called after each change of a state."""
    on_orphans: Callable[[str, str], None]
    """Called with pod and container when a container's process 1 was killed, which may leave processes behind."""
    back_off: BackOff = field(default_factory=BackOff)


@dataclass(frozen=True)
class RestartTerms:
    """By which rules a pod's containers are restarted."""

    rule: RestartRule
    limit: int | None
    failure_rules: Sequence[FailureRule] = ()


class ContainerSupervisor:
    """One container in one pod; `run` is its life, and `stop` ends it."""

    def __init__(
        self, pod: str, container: LocalContainer, launch: Launch, terms: RestartTerms, surroundings: Surroundings
    ) -> None:
        self.container = container
        self.started = asyncio.Event()
        """Set once its start-up probe has passed, or its process runs and it has none."""
        self.state = ContainerState(name=container.name, kind=container.kind)
        self._pod = pod
        self._launch = launch
        self._terms = terms
        self._surroundings = surroundings
        self._stopping = asyncio.Event()
        self._ended = asyncio.Event()
        self._process: ContainerProcess | None = None

    async def run(self) -> Verdict:
        """Returns COMPLETE, FAIL_POD or FAIL_JOB; COMPLETE also after `stop`. The state says more."""
        try:
            return await self._run()
        finally:
            self._ended.set()

    async def _run(self) -> Verdict:
        streak = FailureStreak(self._surroundings.back_off)
        while True:
            began = time.monotonic()
            end = await self._run_once()
            if self._stopping.is_set():
                self._update(condition=Condition.STOPPED, ready=False, pid=None, exit_code=end.exit_code)
                return Verdict.COMPLETE
            verdict = plan_after_end(end, self._terms.rule, self._terms.limit, self._terms.failure_rules)
            self._report(end, verdict)
            if verdict is not Verdict.RESTART:
                return verdict
            if await wait_for_event(self._stopping, streak.delay_after(time.monotonic() - began)):
                self._update(condition=Condition.STOPPED)
                return Verdict.COMPLETE
            self._update(restarts=self.state.restarts + 1)

    async def stop(self, grace_seconds: float) -> None:
        """End it: asked first, killed after `grace_seconds` or when all is to be killed."""
        self._stopping.set()
        process = self._process
        if process is None:
            return
        if not self._ended.is_set() and not self._surroundings.kill.is_set():
            if self.container.before_stop is not None:
                await self._check(self.container.before_stop, grace_seconds)
            process.terminate()
            await wait_for_event(self._ended, grace_seconds, or_event=self._surroundings.kill)
        if not self._ended.is_set():
            process.end_all()
            if not await wait_for_event(self._ended, _KILL_SECONDS):
                log.error("a container does not end", pod=self._pod, container=self.container.name, pid=process.pid)

    async def _run_once(self) -> ContainerEnd:
        process = await ContainerProcess.start(self._launch)
        self._process = process
        self._update(condition=Condition.STARTING, pid=process.pid)
        if self._stopping.is_set():  # stop was called while it was being started
            process.end_all()
        waiting = asyncio.create_task(process.wait())
        probing = asyncio.create_task(self._health().watch())
        try:
            await asyncio.wait({waiting, probing}, return_when=asyncio.FIRST_COMPLETED)
            failed_probe = "" if waiting.done() else probing.result()
            if failed_probe:
                await self._end_unhealthy(process, waiting)
            exit_code = await waiting
        finally:
            probing.cancel()
            waiting.cancel()
            await asyncio.wait({probing, waiting})
        if process.init_was_killed:
            self._surroundings.on_orphans(self._pod, self.container.name)
        return ContainerEnd(self.container.name, self.container.kind, exit_code, self.state.restarts, failed_probe)

    async def _end_unhealthy(self, process: ContainerProcess, waiting: "asyncio.Task[int]") -> None:
        """What does not answer is unlikely to end politely: a short grace, then the end."""
        process.terminate()
        done, _ = await asyncio.wait({waiting}, timeout=5.0)
        if not done:
            process.end_all()

    def _health(self) -> ContainerHealth:
        def started() -> None:
            self.started.set()
            self._update(condition=Condition.RUNNING)

        return ContainerHealth(self.container, self._check, started, lambda ready: self._update(ready=ready))

    async def _check(self, check: Check, timeout_seconds: float) -> str:
        directory = Path(self._launch.working_directory)
        return await self._surroundings.prober.check(check, timeout_seconds, self._launch.environment, directory)

    def _report(self, end: ContainerEnd, verdict: Verdict) -> None:
        reason = end.probe_failed or f"exited with {end.exit_code}"
        condition = {Verdict.COMPLETE: Condition.COMPLETED, Verdict.RESTART: Condition.BACK_OFF}.get(
            verdict, Condition.FAILED
        )
        if condition is not Condition.COMPLETED:
            log.warning(
                "container ended",
                container=f"{self._pod}/{self.container.name}",
                reason=reason,
                restarts=end.restarts,
                then=verdict.value,
            )
        self.started.clear()
        self._update(condition=condition, ready=False, pid=None, exit_code=end.exit_code, message=reason)

    def _update(self, **changes: object) -> None:
        self.state = self.state.model_copy(update=changes)
        self._surroundings.on_change()
