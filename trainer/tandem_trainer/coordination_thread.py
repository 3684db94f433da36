"""The job's etcd keys as a training thread sees them: observed without waiting, waited for with a deadline."""

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import structlog
from tandem_core.coordination.access import EtcdAccess
from tandem_core.coordination.keys import JobKeys
from tandem_core.coordination.membership import Membership
from tandem_core.coordination.mirror import Mirror
from tandem_core.coordination.records import Ack, Control, EngineState, Member, PhaseRecord, Record, Role
from tandem_core.coordination.store import PATIENCE_SECONDS, Store
from tandem_core.errors import TandemError
from tandem_core.first_of import first_of
from tandem_core.phases import Phase

from tandem_trainer.event_loop_thread import EventLoopThread

log = structlog.get_logger()

CALL_SECONDS = 2 * PATIENCE_SECONDS
"""Deadline of a call to etcd; the store gives up before."""
STOP_SECONDS = 20.0
"""From the stop signal until the process ends by force: torchrun kills 30 s after it, and so does Kubernetes."""
STOP_EXIT_CODE = 128 + signal.SIGTERM


class CoordinationLost(TandemError):
    """etcd refuses the watches, or holds what cannot be read."""


class DevicesHeld(TandemError):
    """Engines did not give up devices in time."""


@dataclass(frozen=True)
class Observed:
    """What a rank acts on."""

    phase: PhaseRecord | None
    engine_released: bool
    """Whether the engine of this rank's own pod has acknowledged Draining in the present iteration."""
    stop_wanted: bool
    """Whether the job is to end early."""
    master_url: str
    """http://address:port of the master; empty: none is there."""
    stopping: bool
    """Whether the process has been asked to end."""


class Coordination:
    """A context manager for the main thread: inside, the rank is a member of the job. `call` reaches the store."""

    def __init__(self, access: EtcdAccess | str, keys: JobKeys, member: Member, *, follow_engine: bool) -> None:
        """`follow_engine`: whether to watch for the release of the devices by the engine of the member's pod."""
        self.keys = keys
        self.member = member
        self.store = Store(access)
        self._membership = Membership(self.store, keys, member)
        self._follow_engine = follow_engine
        self._thread = EventLoopThread("coordination")
        self._phases = Mirror(self.store, keys.phase, PhaseRecord)
        self._masters = Mirror(self.store, f"{keys.members}{Role.MASTER}/", Member)
        self._control = Mirror(self.store, keys.control, Control)
        self._engine: Mirror[Ack] | None = None
        self._followed: tuple[Mirror[Any], ...] = (self._phases, self._masters, self._control)
        self._changed = asyncio.Event()
        self._leave = asyncio.Event()
        self._stopping = False
        self._serving: Future[None] | None = None
        self._wakeup: tuple[socket.socket, socket.socket] | None = None

    def __enter__(self) -> Self:
        self._thread.start()
        entered: Future[None] = Future()
        self._serving = asyncio.run_coroutine_threadsafe(self._serve(entered), self._thread.loop)
        self._serving.add_done_callback(lambda serving: self._ended(serving, entered))
        entered.result(CALL_SECONDS)
        self._listen_for_signals()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._thread.loop.call_soon_threadsafe(self._leave.set)
        if self._serving is not None and not self._serving.done():
            self._serving.exception(STOP_SECONDS)
        self._thread.__exit__(kind, error, trace)
        if self._wakeup is not None:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            for end in self._wakeup:
                end.close()

    def observe(self) -> Observed:
        """The present state; raises CoordinationLost if it is no longer kept current."""
        if self._serving is not None and self._serving.done():
            error = self._serving.exception()
            raise CoordinationLost(f"the job's keys in etcd can no longer be followed: {_reason(error)}") from error
        masters = sorted(self._masters.values.values(), key=lambda master: master.started_at)
        return Observed(
            phase=self._phases.value,
            engine_released=self._engine is not None and _succeeded(self._engine.values),
            stop_wanted=self._control.value is not None and self._control.value.stop,
            master_url=masters[-1].url if masters else "",
            stopping=self._stopping,
        )

    def wait_for_change(self, seen: Observed, timeout_seconds: float) -> None:
        """Return as soon as the state differs from `seen`; raises TimeoutError."""
        self.call(self._wait_until(lambda: self.observe() != seen, timeout_seconds), timeout_seconds + CALL_SECONDS)

    def wait_for_phase(self, timeout_seconds: float) -> PhaseRecord:
        """The phase, as soon as there is one; raises TimeoutError."""
        return self.call(
            self._phases.wait_for(lambda values: values.get(""), timeout_seconds), timeout_seconds + CALL_SECONDS
        )

    def wait_for_devices(self, timeout_seconds: float) -> None:
        """Return as soon as no engine of the hybrid pods holds devices; raises DevicesHeld, which names those that do.

        All ranks wait for the same thing, for they start together.
        """
        self.call(self._wait_for_devices(timeout_seconds), timeout_seconds + CALL_SECONDS)

    def call[T](self, work: Coroutine[Any, Any, T], timeout_seconds: float = CALL_SECONDS) -> T:
        """The result of `work`, which may use `store`."""
        return self._thread.call(work, timeout_seconds)

    def put(self, key: str, record: Record) -> None:
        """Set a key."""
        self.call(self.store.put(key, record))

    def report(self, problem: str) -> None:
        """Say what the rank waits for or goes on without; empty: nothing."""
        if problem != self._membership.member.problem:
            self.call(self._membership.update(problem=problem))

    async def _serve(self, entered: Future[None]) -> None:
        async with (
            self.store,
            self._phases,
            self._masters,
            self._control,
            self._membership,
            asyncio.TaskGroup() as group,
        ):
            tasks = [group.create_task(self._forward(mirror)) for mirror in self._followed]
            if self._follow_engine:
                tasks.append(group.create_task(self._follow_own_engine()))
            entered.set_result(None)
            await self._leave.wait()
            for task in tasks:
                task.cancel()

    async def _forward(self, mirror: Mirror[Any]) -> None:
        while True:
            await mirror.next_change()
            self._notify()

    async def _follow_own_engine(self) -> None:
        """Watch the one key that tells, in each iteration; other pods' engines are no matter of this rank."""
        engine = f"{Role.SIDECAR}-{self.member.pod}"
        while True:
            iteration = await self._phases.wait_for(_iteration_to_drain, None)
            async with Mirror(self.store, self.keys.ack(iteration, Phase.DRAINING, engine), Ack) as self._engine:
                self._notify()
                await first_of(self._forward(self._engine), self._phases.wait_for(_leaves(iteration), None))
            self._engine = None
            self._notify()

    async def _wait_until(self, condition: Callable[[], bool], timeout_seconds: float) -> None:
        async with asyncio.timeout(timeout_seconds):
            while not condition():
                await self._changed.wait()

    async def _wait_for_devices(self, timeout_seconds: float) -> None:
        async with Mirror(self.store, f"{self.keys.members}{Role.SIDECAR}/", Member) as sidecars:
            try:
                await sidecars.wait_for(lambda members: not engines_on_devices(members), timeout_seconds)
            except TimeoutError as error:
                names = ", ".join(engines_on_devices(sidecars.values)[:8])
                raise DevicesHeld(
                    f"after {timeout_seconds:.0f} s engines still hold the devices that the trainer needs: {names}. "
                    "Look at the logs of these pods' inference containers"
                ) from error

    def _ended(self, serving: "Future[None]", entered: "Future[None]") -> None:
        if not entered.done():
            entered.set_exception(_reason(serving.exception()) or RuntimeError("the coordination thread ended"))
        with contextlib.suppress(RuntimeError):  # the loop is closed already
            self._thread.loop.call_soon_threadsafe(self._notify)

    def _notify(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    def _listen_for_signals(self) -> None:
        """Notice SIGTERM in the loop's thread: the main one may be inside a collective that never returns."""
        reader, writer = self._wakeup = socket.socketpair()
        reader.setblocking(False)
        writer.setblocking(False)
        signal.signal(signal.SIGTERM, lambda *_: None)
        signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
        self._thread.loop.call_soon_threadsafe(self._thread.loop.add_reader, reader.fileno(), self._on_signal)

    def _on_signal(self) -> None:
        if self._wakeup is None or signal.SIGTERM not in self._wakeup[0].recv(64) or self._stopping:
            return
        log.info("asked to stop", seconds=STOP_SECONDS)
        self._stopping = True
        self._notify()
        self._thread.loop.call_later(STOP_SECONDS, os._exit, STOP_EXIT_CODE)


def engines_on_devices(sidecars: Mapping[str, Member]) -> list[str]:
    """Names of the pods whose engines run; a trainer that starts now has to wait for them."""
    ended = (EngineState.RELEASED, EngineState.FAILED)
    return sorted(
        sidecar.name
        for sidecar in sidecars.values()
        if sidecar.engine is not None and sidecar.engine.state not in ended
    )


def _succeeded(acks: Mapping[str, Ack]) -> bool:
    ack = acks.get("")
    return ack is not None and not ack.error


def _iteration_to_drain(phases: Mapping[str, PhaseRecord]) -> int | None:
    """The iteration whose Draining is now or next; None if engines have nothing to give up."""
    phase = phases.get("")
    return phase.iteration if phase is not None and phase.phase in (Phase.ROLLOUT, Phase.DRAINING) else None


def _leaves(iteration: int) -> Callable[[Mapping[str, PhaseRecord]], bool]:
    return lambda phases: _iteration_to_drain(phases) != iteration


def _reason(error: BaseException | None) -> BaseException | None:
    """The first error in groups of groups."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
