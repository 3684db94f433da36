"""All sessions of a service: made, used, watched and ended."""

import asyncio
import secrets
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Sequence
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Self

import structlog
from tandem_core.errors import TandemError
from tandem_core.sandbox.sessions import CellRequest, CellResult, SessionDescription, SessionList, SessionRequest

from tandem_sandbox.images.image import Image
from tandem_sandbox.job import ContainerError
from tandem_sandbox.lane import Lane
from tandem_sandbox.pool import LanePool
from tandem_sandbox.sessions.dialogue import Dialogue, KernelError
from tandem_sandbox.sessions.session import Session, build_job
from tandem_sandbox.threads import Cancellation, run_in_thread

_log = structlog.get_logger(__name__)
_LOOK_SECONDS = 1.0
_REMEMBERED = 1024


class SessionUnknown(TandemError):
    """There is no such session, nor does anybody remember one."""


class SessionOver(TandemError):
    """It has ended: says why."""


class SessionBusy(TandemError):
    """It runs a cell."""


class SessionsFull(TandemError):
    """There are as many as can be."""


class Sessions:
    """`async with Sessions(lanes, pool) as sessions`. Cells take turns with the pool's runs."""

    def __init__(self, lanes: Sequence[Lane], pool: LanePool) -> None:
        self._most = len(lanes)
        self._free = list(lanes)
        self._pool = pool
        self._lanes = lanes
        self._sessions: dict[str, Session] = {}
        self._watching: dict[str, asyncio.Task[None]] = {}
        self._over: OrderedDict[str, str] = OrderedDict()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End all. Callers have been cancelled before."""
        for task in self._watching.values():
            task.cancel()
        await asyncio.gather(*self._watching.values(), return_exceptions=True)
        ending = [self._end(session, "the service has ended") for session in self._sessions.values()]
        await asyncio.gather(*ending, return_exceptions=True)
        for lane in self._lanes:
            lane.thread.shutdown()

    def __len__(self) -> int:
        return self._most - len(self._free)

    def list_sessions(self) -> SessionList:
        """All that are there."""
        return SessionList(sessions=tuple(each.describe() for each in self._sessions.values()), most=self._most)

    def describe(self, id: str) -> SessionDescription:
        """One. Raises SessionUnknown, SessionOver."""
        return self._find(id).describe()

    async def make(self, image: Image, request: SessionRequest) -> SessionDescription:
        """A new one, whose kernel answers. Raises SessionsFull, KernelError, ContainerError."""
        if not self._most:
            raise SessionsFull("this service has no sessions: start it with --sessions N")
        if not self._free:
            raise SessionsFull(
                f"all {self._most} sessions are in use: end one (DELETE), come again, or start the service with more "
                "(--sessions N)"
            )
        lane = self._free.pop()
        try:
            async with self._pool.turn():
                dialogue = await run_in_thread(lane.thread, lambda given: _start(lane, image, request, given))
        except BaseException:
            await self._shielded(self._empty(lane))
            raise
        session = Session(secrets.token_urlsafe(12), request, image, lane, dialogue)
        self._sessions[session.id] = session
        self._watching[session.id] = asyncio.create_task(self._watch(session))
        _log.info("a session begins", id=session.id, kernel=request.kernel, image=image.name)
        return session.describe()

    async def run(self, id: str, request: CellRequest) -> CellResult:
        """Run a cell. When cancelled, the cell is interrupted. Raises SessionUnknown, SessionOver, SessionBusy."""
        session = self._find(id)
        if session.busy:
            raise SessionBusy(f"session {id} runs a cell: wait for its answer, or make a session for each at a time")
        session.busy = True
        try:
            async with self._pool.turn(), session.speaking:
                if session.over:
                    raise SessionOver(_describe_end(id, session.over))
                outcome = await run_in_thread(
                    session.lane.thread, lambda given: session.dialogue.run(request.code, request.limits, given)
                )
        except OSError as error:
            await self._end(session, f"the sandbox failed: {error}")
            raise SessionOver(_describe_end(id, session.over)) from error
        finally:
            session.busy = False
            session.note_cell()
        if session.over:
            raise SessionOver(_describe_end(id, session.over))
        if session.dialogue.over:
            await self._end(session, session.dialogue.over)
        return session.build_result(outcome, request.limits)

    async def end(self, id: str) -> None:
        """End one; whoever waits for a cell of it is told so. Raises SessionUnknown, SessionOver."""
        await self._end(self._find(id), "it was ended by a client")

    def _find(self, id: str) -> Session:
        session = self._sessions.get(id)
        over = self._over.get(id) or (session.over if session is not None else "")
        if over:
            raise SessionOver(_describe_end(id, over))
        if session is None:
            raise SessionUnknown(f"there is no session {id}: GET /v1/sessions lists them, POST makes one")
        return session

    async def _watch(self, session: Session) -> None:
        """End it when it is time to."""
        while not session.over:
            await asyncio.sleep(_LOOK_SECONDS)
            try:
                if not session.busy:
                    async with session.speaking:
                        await _call(session.lane, session.dialogue.look)
                reason = session.plan_end(datetime.now(UTC))
            except (OSError, TandemError) as error:
                reason = f"the sandbox failed: {error}"
            if reason:
                await self._end(session, reason)

    async def _end(self, session: Session, reason: str) -> None:
        """Once it is over, its processes have ended."""
        if not session.over:
            session.over = reason
            session.dialogue.kill()
            _log.info("a session ends", id=session.id, reason=reason)
            session.ending = asyncio.create_task(self._clear(session))
        if session.ending is not None:
            await asyncio.shield(session.ending)

    async def _clear(self, session: Session) -> None:
        async with session.speaking:
            await self._empty(session.lane)
        self._sessions.pop(session.id, None)
        self._watching.pop(session.id, None)
        self._over[session.id] = session.over
        while len(self._over) > _REMEMBERED:
            self._over.popitem(last=False)

    async def _empty(self, lane: Lane) -> None:
        try:
            await _call(lane, lane.empty)
        except ContainerError as error:
            _log.warning("a session's container does not end", error=str(error))
        self._free.append(lane)

    async def _shielded(self, work: Coroutine[Any, Any, None]) -> None:
        """Done to its end, even if who waits for it is cancelled again."""
        await asyncio.shield(asyncio.create_task(work))


async def _call(lane: Lane, function: Callable[[], None]) -> None:
    await asyncio.get_running_loop().run_in_executor(lane.thread, function)


def _start(lane: Lane, image: Image, request: SessionRequest, cancellation: Cancellation) -> Dialogue:
    """Make the container, and have the kernel answer. The lane is to be emptied if that fails."""
    lane.prepare(image)
    container = lane.begin(build_job(request, image))
    dialogue = Dialogue(container, lane.group, request.limits)
    try:
        dialogue.wait_ready(cancellation)
    except KernelError as error:
        raise KernelError(f"the kernel {request.kernel} of image {image.name} does not start: {error}") from error
    return dialogue


def _describe_end(id: str, reason: str) -> str:
    return f"session {id} is over: {reason}; its state is lost, POST /v1/sessions makes another one"
