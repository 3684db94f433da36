"""The sandbox's HTTP API."""

import hmac
from typing import Annotated

from fastapi import Depends, FastAPI, HTTPException, Request, Response
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from prometheus_client import generate_latest
from tandem_core.sandbox.judging import JudgeRequest, JudgeResult
from tandem_core.sandbox.messages import LanguageList, Readiness, RunRequest, RunResult

from tandem_sandbox.serving import Presence, find_service, serve
from tandem_sandbox.sessions.api import build_session_routes


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
        """The process is up."""
        return {"status": "alive"}

    @application.get("/readyz")
    async def readyz() -> Readiness:
        """Whether programs can be run, and which limits hold on this machine; 503 with the reason until then."""
        return Readiness(limits=find_service(presence).holds)

    @application.post("/v1/run", dependencies=[Depends(authorize)])
    async def run(body: RunRequest, request: Request) -> RunResult:
        """Run one command in a container of its own. 429 with Retry-After if as many run and wait as may."""
        return await serve(presence, request, lambda service: service.run(body))

    @application.post("/v1/judge", dependencies=[Depends(authorize)])
    async def judge(body: JudgeRequest, request: Request) -> JudgeResult:
        """Compile a program once and judge it by test cases. 429 with Retry-After if as many run and wait as may."""
        return await serve(presence, request, lambda service: service.judge(body))

    @application.get("/v1/languages", dependencies=[Depends(authorize)])
    async def languages() -> LanguageList:
        """What programs can be written in, and what holds on this machine."""
        return find_service(presence).list_languages()

    @application.get("/metrics", dependencies=[Depends(authorize)], response_class=Response)
    async def metrics() -> Response:
        """For Prometheus; docs/reference/metrics.md lists them."""
        text = generate_latest(presence.metrics.registry)
        return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")

    application.include_router(build_session_routes(presence), dependencies=[Depends(authorize)])
    return application
