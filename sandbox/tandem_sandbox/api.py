"""The sandbox's HTTP API."""

import asyncio
import hmac
import math
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Annotated, Any

from fastapi import Depends, FastAPI, HTTPException, Request, Response
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from prometheus_client import generate_latest
from tandem_core.sandbox.judging import JudgeRequest, JudgeResult
from tandem_core.sandbox.messages import LanguageList, Readiness, RunRequest, RunResult

from tandem_sandbox.job import ContainerError
from tandem_sandbox.metrics import SandboxMetrics
from tandem_sandbox.programs import CompileError, UnknownLanguage
from tandem_sandbox.service import Service
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
        """Metrics look at the pool once there is one."""
        self.metrics = SandboxMetrics(lambda: self.service.pool if self.service is not None else None)


def build_api(presence: Presence) -> FastAPI:
    """The application; everything but health and the description of the API wants the bearer token."""
    application = FastAPI(
        title="Tandem code sandbox", description="Runs and judges untrusted programs.", docs_url=None, redoc_url=None
    )
    bearer = HTTPBearer(auto_error=False)

    async def authorize(given: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)]) -> None:
        if given is None or not hmac.compare_digest(given.credentials.encode(), presence.settings.token.encode()):
            raise HTTPException(401, "this needs the sandbox's bearer token", {"WWW-Authenticate": "Bearer"})

    @application.get("/healthz")
    async def healthz() -> dict[str, str]:
        return {"status": "alive"}

    @application.get("/readyz")
    async def readyz() -> Readiness:
        return Readiness(limits=_ready(presence).holds)

    @application.post("/v1/run", dependencies=[Depends(authorize)])
    async def run(body: RunRequest, request: Request) -> RunResult:
        return await _serve(presence, request, lambda service: service.run(body))

    @application.post("/v1/judge", dependencies=[Depends(authorize)])
    async def judge(body: JudgeRequest, request: Request) -> JudgeResult:
        return await _serve(presence, request, lambda service: service.judge(body))

    @application.get("/v1/languages", dependencies=[Depends(authorize)])
    async def languages() -> LanguageList:
        return _ready(presence).list_languages()

    @application.get("/metrics", dependencies=[Depends(authorize)])
    async def metrics() -> Response:
        text = generate_latest(presence.metrics.registry)
        return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")

    return application


def _ready(presence: Presence) -> Service:
    if presence.service is None:
        raise HTTPException(503, "starting: the first containers are being made", {"Retry-After": "1"})
    return presence.service


async def _serve[R: RunResult | JudgeResult](
    presence: Presence, request: Request, work: Callable[[Service], Coroutine[Any, Any, R]]
) -> R:
    """The answer to a request, if there is room for it. It ends when its client goes away, or its time is over."""
    service = _ready(presence)
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
    except (UnknownLanguage, CompileError) as error:
        raise HTTPException(422, str(error)) from error
    except ContainerError as error:
        raise HTTPException(503, str(error), {"Retry-After": "1"}) from error
    finally:
        presence.requests -= 1
    seconds = time.monotonic() - started_at
    presence.seconds = 0.9 * presence.seconds + 0.1 * seconds
    presence.metrics.note(request.url.path, seconds, result)
    return result


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
