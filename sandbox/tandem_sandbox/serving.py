"""How a request to the API is served: if there is room, for as long as its client is there, with errors that help."""

import asyncio
import math
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

from fastapi import HTTPException, Request
from tandem_core.errors import TandemError

from tandem_sandbox.job import ContainerError
from tandem_sandbox.metrics import Answer, SandboxMetrics
from tandem_sandbox.programs import CompileError, UnknownLanguage
from tandem_sandbox.service import Service
from tandem_sandbox.sessions.dialogue import KernelError
from tandem_sandbox.sessions.sessions import SessionBusy, SessionOver, SessionsFull, SessionUnknown
from tandem_sandbox.settings import Settings

_CLIENT_GONE = 499
_MOST_RETRY_SECONDS = 30


@dataclass(slots=True)
class Presence:
    """What the API answers from; the service is filled in when it is ready."""

    settings: Settings
    service: Service | None = None
    requests: int = 0
    """In work or waiting."""
    seconds: float = 1.0
    """Moving average of a request's time."""
    metrics: SandboxMetrics = field(init=False)

    def __post_init__(self) -> None:
        """Metrics look at the service once there is one."""
        self.metrics = SandboxMetrics(lambda: self.service)


def find_service(presence: Presence) -> Service:
    """The service. Raises HTTPException until it is ready."""
    if presence.service is None:
        raise HTTPException(503, "starting: the first containers are being made", {"Retry-After": "1"})
    return presence.service


async def serve[R: Answer](
    presence: Presence, request: Request, work: Callable[[Service], Coroutine[Any, Any, R]]
) -> R:
    """The answer to a request, if there is room for it. It ends when its client goes away, or its time is over."""
    service = find_service(presence)
    if presence.requests >= presence.settings.queued:
        presence.metrics.refused.inc()
        pause = min(_MOST_RETRY_SECONDS, math.ceil(presence.seconds))
        raise HTTPException(
            429, f"{presence.requests} requests are in work or waiting: come again", {"Retry-After": str(pause)}
        )
    started_at = time.monotonic()
    presence.requests += 1
    try:
        async with asyncio.timeout(presence.settings.request_seconds):
            result = await _while_connected(request, work(service))
    except TimeoutError:
        raise HTTPException(
            503,
            f"not done within {presence.settings.request_seconds:g} s: ask for less at a time",
            {"Retry-After": "5"},
        ) from None
    except (TandemError, CompileError, ContainerError) as error:
        raise explain(error) from error
    finally:
        presence.requests -= 1
    seconds = time.monotonic() - started_at
    presence.seconds = 0.9 * presence.seconds + 0.1 * seconds
    presence.metrics.note(request.scope["route"].path, seconds, result)
    return result


def explain(error: Exception) -> HTTPException:
    """What a client is told; errors that nobody foresaw are raised again."""
    match error:
        case UnknownLanguage() | CompileError() | KernelError():
            return HTTPException(422, str(error))
        case SessionUnknown():
            return HTTPException(404, str(error))
        case SessionBusy():
            return HTTPException(409, str(error))
        case SessionOver():
            return HTTPException(410, str(error))
        case SessionsFull():
            return HTTPException(429, str(error), {"Retry-After": "5"})
        case ContainerError():
            return HTTPException(503, str(error), {"Retry-After": "1"})
    raise error


async def _while_connected[R](request: Request, work: Coroutine[Any, Any, R]) -> R:
    """The result of `work`, which is cancelled when the client goes away. Raises HTTPException then."""
    working = asyncio.create_task(work)
    watching = asyncio.create_task(_wait_disconnected(request))
    try:
        await asyncio.wait([working, watching], return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise HTTPException(_CLIENT_GONE, "the client has gone away")
    finally:
        for task in (working, watching):
            task.cancel()
        await asyncio.wait([working, watching])


async def _wait_disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
