"""Carries out what follow.plan_action decides: the edge between etcd, the engine and the clock."""

import asyncio
import os
import ssl
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import structlog
from tandem_core.coordination.keys import JobKeys
from tandem_core.coordination.membership import Membership
from tandem_core.coordination.mirror import Mirror
from tandem_core.coordination.records import Ack, Control, EngineState, PhaseRecord, Role
from tandem_core.coordination.store import Store
from tandem_core.errors import OutOfSpace, TandemError
from tandem_core.phases import Phase
from tandem_core.weights.manifest import Commit, ManifestPart

from tandem_sidecar.engine import Engine
from tandem_sidecar.follow import (
    Acknowledge,
    Action,
    Load,
    LoadedVersion,
    Release,
    ReleaseMode,
    Situation,
    Start,
    Stop,
    Wait,
    plan_action,
)
from tandem_sidecar.mapped_files import MappedFiles
from tandem_sidecar.memory import observe_free_device_bytes
from tandem_sidecar.metrics import FAILURES, EngineView, note_received
from tandem_sidecar.receive import ReceivedVersion, WeightVerificationError, receive_version
from tandem_sidecar.timeline import sum_seconds

log = structlog.get_logger()

RETRY_SECONDS = 5.0
"""After a failure, unless something changes before."""
LEAST_FREE_BYTES = 1 << 20
"""Shared memory with less than this counts as full."""
FAILURES_BEFORE_EXIT = 3
"""Failures in a row after which the process ends, unless its engine serves another version: a fresh container is the
better cure, and visible from outside."""


class VersionNotCommitted(TandemError):
    """There is no such version to load."""


@dataclass(frozen=True)
class ServiceSettings:
    """What the service is for."""

    role: Role
    pod: str
    release: ReleaseMode
    device: Literal["cpu", "gpu"]
    shm_dir: Path
    token: str
    trust: ssl.SSLContext | None = None
    """Whom to believe to be another pod of the job; None: its HTTP is not encrypted."""


class Service:
    """Follows the job's phase and its commits with the engine of this pod."""

    def __init__(
        self,
        settings: ServiceSettings,
        store: Store,
        keys: JobKeys,
        engine: Engine,
        membership: Membership,
        phase: Mirror[PhaseRecord],
        newest: Mirror[Commit],
        control: Mirror[Control],
    ) -> None:
        self._settings = settings
        self._store = store
        self._keys = keys
        self._membership = membership
        self._phase = phase
        self._newest = newest
        self._control = control
        self._acknowledged: PhaseRecord | None = None
        self._measurements: dict[str, float] = {}
        self._publishing = asyncio.Lock()
        self._failures = 0
        self._hold_changed = asyncio.Event()
        self._files = MappedFiles()
        self.engine = engine
        self.held = False
        """Whether a person has taken over through the HTTP API: phases are then not followed."""

    async def run(self) -> None:
        """Follow for ever; raises the error of what failed FAILURES_BEFORE_EXIT times in a row."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._follow(), name="follow phases")
            group.create_task(self._report_status(), name="report the engine's status")

    def hold(self, *, held: bool) -> None:
        """Stop following phases, or go on."""
        self.held = held
        self._hold_changed.set()

    @property
    def phase(self) -> PhaseRecord | None:
        """What the job is doing."""
        return self._phase.value

    def observe(self) -> EngineView:
        """What the metrics say."""
        newest = self._newest.value
        return EngineView(self.engine.status, newest.version if newest is not None else -1)

    async def load_version(self, version: int) -> ReceivedVersion:
        """Fetch, verify and serve a committed version; raises VersionNotCommitted, or what went wrong."""
        commit = await self._store.get(self._keys.commit(version), Commit)
        if commit is None:
            newest = self._newest.value
            raise VersionNotCommitted(
                f"version {version} is not committed; the newest is {newest.version if newest else 'none'}"
            )
        return await self._load(commit)

    async def _follow(self) -> None:
        while True:
            seen = self._observe()
            action = Wait() if self.held else plan_action(seen)
            if isinstance(action, Wait):
                await self._wait_for_change(seen, None)
                continue
            try:
                await self._apply(action)
                self._failures = 0
                await self._report_problem("")
            except TandemError as error:
                if full := self._observe_full_memory(error):
                    log.error("no room, trying again", error=full, seconds=RETRY_SECONDS)
                    await self._report_problem(full)
                else:
                    await self._report_failure(seen, error)
                await self._wait_for_change(self._observe(), RETRY_SECONDS)

    def _observe(self) -> Situation:
        return Situation(
            role=self._settings.role,
            release=self._settings.release,
            phase=self._phase.value,
            newest=self._newest.value,
            state=self.engine.state,
            loaded=self.engine.loaded,
            acknowledged=self._acknowledged,
            draining=self._drains(self._control.values),
        )

    def _drains(self, control: Mapping[str, Control]) -> bool:
        return "" in control and self._settings.pod in control[""].draining

    async def _wait_for_change(self, seen: Situation, timeout_seconds: float | None) -> None:
        """Return when something is not as in `seen`, or after `timeout_seconds`."""
        self._hold_changed.clear()
        status = self.engine.status
        waits: list[Coroutine[Any, Any, object]] = [
            self._phase.wait_for(lambda values: values.get("") != seen.phase, None),
            self._newest.wait_for(lambda values: values.get("") != seen.newest, None),
            self._control.wait_for(lambda values: self._drains(values) != seen.draining, None),
            self.engine.wait_for_change(status),
            self._hold_changed.wait(),
        ]
        tasks = [asyncio.create_task(wait) for wait in waits]
        try:
            done, _ = await asyncio.wait(tasks, timeout=timeout_seconds, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()  # raises if a watch of etcd is lost
        finally:
            for task in tasks:
                task.cancel()

    async def _apply(self, action: Action) -> None:
        log.info("next action", action=type(action).__name__, state=self.engine.state)
        match action:
            case Start():
                await self.engine.start()
            case Release():
                await self.engine.release()
            case Stop():
                await self.engine.stop()
            case Load(commit):
                # Read anew: the trainer may have published again since the watch told of this commit.
                await self._load(await self._store.get(self._keys.newest_commit, Commit) or commit)
            case Acknowledge(record):
                await self._acknowledge(record)

    async def _load(self, commit: Commit) -> ReceivedVersion:
        """Fetch and verify while the engine starts or wakes, or still serves the version before."""
        received, started = await asyncio.gather(self._receive(commit), self.engine.start(), return_exceptions=True)
        if isinstance(received, BaseException):
            if self._settings.release != "none" and self.engine.state is EngineState.IDLE:
                # The trainer of this pod may have to write the version again, and needs the devices for it.
                await self.engine.release()
            raise received  # an engine that serves keeps what it has
        if isinstance(started, BaseException):
            log.error("the engine did not start", error=str(started))  # load() tries again
        await self.engine.load(LoadedVersion(commit.version, commit.incarnation), received.load_file)
        return received

    async def _receive(self, commit: Commit) -> ReceivedVersion:
        with self.engine.timeline.measure("receive"):
            parts = await self._store.list_prefix(self._keys.manifest_parts(commit.version), ManifestPart)
            received = await receive_version(
                list(parts.values()),
                commit,
                self._settings.pod,
                self._settings.shm_dir,
                self._settings.token,
                trust=self._settings.trust,
                files=self._files,
            )
        note_received(received)
        self._measurements |= {
            "fetch_seconds": received.fetch_seconds,
            "verify_seconds": received.verify_seconds,
            "fetched_bytes": float(received.fetched_bytes),
            "refetched_bytes": float(received.refetched_bytes),
        }
        return received

    async def _acknowledge(self, record: PhaseRecord, error: str = "", *, damaged: bool = False) -> None:
        """Tell the master, after the engine's status: who sees the acknowledgement also sees the engine."""
        await self._publish_status()
        activities = self.engine.timeline.take()
        measurements = sum_seconds(activities) | self._measurements
        if record.phase is Phase.DRAINING:
            free = await asyncio.to_thread(observe_free_device_bytes, self._settings.device)
            measurements |= {} if free is None else {"free_device_bytes": float(free)}
        ack = Ack(
            member=f"{Role.SIDECAR}-{self._settings.pod}",
            iteration=record.iteration,
            phase=record.phase,
            error=error,
            damaged=damaged,
            activities=activities,
            measurements=measurements,
        )
        await self._store.put(self._keys.ack(record.iteration, record.phase, ack.member), ack)
        self._measurements = {}
        if not error:  # else it may come right, and is acknowledged anew
            self._acknowledged = record

    async def _report_failure(self, seen: Situation, error: TandemError) -> None:
        self._failures += 1
        FAILURES.inc()
        log.error("failed", failures_in_a_row=self._failures, error=str(error))
        phase = seen.phase
        waited_for = seen.role is Role.SIDECAR and phase is not None and phase.phase in (Phase.LOADING, Phase.DRAINING)
        if waited_for and phase is not None and seen.acknowledged != phase:
            await self._acknowledge(phase, str(error), damaged=isinstance(error, WeightVerificationError))
        if self.engine.state is EngineState.SERVING:  # an older version, which is better than none
            await self._report_problem(str(error))
        elif self._failures >= FAILURES_BEFORE_EXIT:
            raise error

    def _observe_full_memory(self, error: TandemError) -> str:
        """What to say if `error` comes of full shared memory, which may pass; empty: it does not."""
        status = os.statvfs(self._settings.shm_dir)
        if isinstance(error, OutOfSpace):
            return str(error)
        if status.f_bavail * status.f_frsize < LEAST_FREE_BYTES:  # vLLM, too, keeps things there
            return f"{error}; shared memory ({self._settings.shm_dir}) is full: raise hybrid.sharedMemory"
        return ""

    async def _report_problem(self, problem: str) -> None:
        async with self._publishing:
            if self._membership.member.problem != problem:
                await self._membership.update(problem=problem)

    async def _report_status(self) -> None:
        while True:
            status = self.engine.status
            await self._publish_status()
            await self.engine.wait_for_change(status)

    async def _publish_status(self) -> None:
        async with self._publishing:
            if self._membership.member.engine != self.engine.status:
                await self._membership.update(engine=self.engine.status)
