"""The checkpoint engine's HTTP API."""

import hmac
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, Literal

import structlog
from fastapi import Depends, FastAPI, HTTPException, Request, Response
from fastapi import Path as PathParameter
from fastapi.responses import FileResponse, JSONResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import BaseModel
from tandem_core.coordination.records import EngineStatus
from tandem_core.errors import TandemError
from tandem_core.phases import Phase

from tandem_sidecar.metrics import render_metrics
from tandem_sidecar.service import Service, VersionNotCommitted

log = structlog.get_logger()

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")

Operation = Literal["start", "stop", "restart", "pause", "resume", "sleep", "wake"]


class StatusAnswer(BaseModel):
    """What this checkpoint engine and its vLLM are doing."""

    pod: str
    role: str
    phase: Phase | None
    """None: the master has not written one yet."""
    iteration: int | None
    engine: EngineStatus
    engine_pid: int | None
    held: bool
    """Whether phases are not followed since a person used pause, stop or sleep; resume, start, restart, wake and load
    end that."""


class LoadAnswer(BaseModel):
    """A version that is served now."""

    version: int
    fetched_bytes: int
    """From other pods."""
    refetched_bytes: int
    """Of slices that one replica did not give as attested, and another did."""
    fetch_seconds: float
    verify_seconds: float


class Health(BaseModel):
    """Whether all is well."""

    status: str


class WeightFileResponse(FileResponse):
    """Reads in larger pieces than the default 64 KiB: weights are large, and lie in memory."""

    chunk_size = 4 * 1024 * 1024


class Presence:
    """What the API answers for; the service comes once etcd has been reached and the model's files are there."""

    def __init__(self, pod: str, role: str, token: str, shm_dir: Path) -> None:
        self.pod = pod
        self.role = role
        self.token = token
        self.weights = shm_dir / "weights"
        self.service: Service | None = None

    def require_service(self) -> Service:
        """The service; answers 503 while there is none."""
        if self.service is None:
            raise HTTPException(503, "not ready yet: waiting for etcd and the model's files")
        return self.service


def build_api(presence: Presence) -> FastAPI:
    """The application; every endpoint but /healthz and /readyz wants the job's bearer token."""
    app = FastAPI(
        title="Tandem checkpoint engine",
        description="Owns the vLLM process of a pod and loads committed weights into it.",
        version="1",
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
    )
    guarded = [Depends(_authenticate(presence.token))]
    app.exception_handler(TandemError)(_answer_error)
    _add_health(app, presence)
    _add_engine(app, presence, guarded)
    _add_files(app, presence, guarded)
    _add_metrics(app, presence, guarded)
    return app


def _authenticate(token: str) -> Callable[..., Awaitable[None]]:
    bearer = HTTPBearer(auto_error=False, description="the job's token, from its Secret")

    async def check(credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)]) -> None:
        given = credentials.credentials if credentials is not None else ""
        if not hmac.compare_digest(given.encode(), token.encode()):
            raise HTTPException(401, "this needs the job's bearer token", {"WWW-Authenticate": "Bearer"})

    return check


async def _answer_error(request: Request, error: Exception) -> JSONResponse:
    log.warning("request failed", path=request.url.path, error=str(error))
    return JSONResponse({"detail": str(error)}, status_code=404 if isinstance(error, VersionNotCommitted) else 409)


def _add_health(app: FastAPI, presence: Presence) -> None:
    @app.get("/healthz", tags=["health"])
    async def healthz() -> Health:
        """The process is up."""
        return Health(status="ok")

    @app.get("/readyz", tags=["health"], responses={503: {"description": "waiting for etcd or the model's files"}})
    async def readyz() -> Health:
        """The job's phases are followed."""
        return Health(status=presence.require_service().engine.state)


def _add_engine(app: FastAPI, presence: Presence, guarded: "list[Depends]") -> None:  # type: ignore[valid-type]
    @app.get("/v1/status", tags=["engine"], dependencies=guarded)
    async def status() -> StatusAnswer:
        """What the engine serves, and which phase is followed."""
        return _describe(presence, presence.require_service())

    @app.post("/v1/engine/{operation}", tags=["engine"], dependencies=guarded)
    async def operate(operation: Operation) -> StatusAnswer:
        """Take over by hand. pause, stop and sleep also stop this pod from following phases; the others end that.
        Answers 409 with the reason if the engine does not do it."""
        service = presence.require_service()
        service.hold(held=True)
        await _operate(service, operation)
        service.hold(held=operation in ("pause", "stop", "sleep"))
        return _describe(presence, service)

    @app.post("/v1/weights/{version}/load", tags=["weights"], dependencies=guarded)
    async def load(version: int) -> LoadAnswer:
        """Fetch, verify and serve a committed version; the phases are followed again afterwards. Answers 404 if the
        version is not committed, 409 with the reason if it cannot be loaded."""
        service = presence.require_service()
        received = await service.load_version(version)
        service.hold(held=False)
        return LoadAnswer(
            version=received.version,
            fetched_bytes=received.fetched_bytes,
            refetched_bytes=received.refetched_bytes,
            fetch_seconds=received.fetch_seconds,
            verify_seconds=received.verify_seconds,
        )


async def _operate(service: Service, operation: Operation) -> None:
    engine = service.engine
    match operation:
        case "start" | "wake":
            await engine.start()
        case "stop":
            await engine.stop()
        case "restart":
            await engine.stop()
            await engine.start()
        case "pause":
            await engine.pause()
        case "resume":
            await engine.resume()
        case "sleep":
            await engine.release("sleep")


def _describe(presence: Presence, service: Service) -> StatusAnswer:
    phase = service.phase
    return StatusAnswer(
        pod=presence.pod,
        role=presence.role,
        phase=phase.phase if phase is not None else None,
        iteration=phase.iteration if phase is not None else None,
        engine=service.engine.status,
        engine_pid=service.engine.pid,
        held=service.held,
    )


def _add_files(app: FastAPI, presence: Presence, guarded: "list[Depends]") -> None:  # type: ignore[valid-type]
    name = PathParameter(pattern=f"^{_NAME.pattern}$")

    @app.get(
        "/v1/weights/files/{slot}/{name}",
        tags=["weights"],
        dependencies=guarded,
        response_class=WeightFileResponse,
        responses={206: {"description": "the bytes of the Range header"}, 404: {"description": "no such file"}},
    )
    async def weights(slot: Annotated[str, name], name: Annotated[str, name]) -> WeightFileResponse:
        """A file that a trainer rank of this pod has published, whole or by Range: other pods fetch their slices."""
        file = presence.weights / slot / name
        if file.is_symlink() or file.parent.is_symlink() or not file.is_file():
            raise HTTPException(404, f"there is no weights/{slot}/{name} in pod {presence.pod}")
        return WeightFileResponse(file, media_type="application/octet-stream")


def _add_metrics(app: FastAPI, presence: Presence, guarded: "list[Depends]") -> None:  # type: ignore[valid-type]
    @app.get("/metrics", tags=["health"], dependencies=guarded, response_class=Response)
    async def metrics() -> Response:
        """Of this process and its engine, for Prometheus; docs/reference/metrics.md lists them."""
        service = presence.service
        text = render_metrics(lambda: service.observe() if service is not None else None)
        return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")
