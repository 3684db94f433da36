"""The part of the HTTP API that is about sessions."""

from typing import Any

from fastapi import APIRouter, Request
from tandem_core.errors import TandemError
from tandem_core.sandbox.sessions import CellRequest, CellResult, SessionDescription, SessionList, SessionRequest

from tandem_sandbox.serving import Presence, explain, find_service, serve

_GONE: dict[int | str, dict[str, Any]] = {
    404: {"description": "There is no such session."},
    410: {"description": "It has ended: says why."},
}
_FULL: dict[int | str, dict[str, Any]] = {429: {"description": "As many as can be: come again after Retry-After."}}
_BUSY: dict[int | str, dict[str, Any]] = {409: {"description": "It runs a cell."}}


def build_session_routes(presence: Presence) -> APIRouter:
    """All below /v1/sessions."""
    router = APIRouter(prefix="/v1/sessions")

    @router.post("", status_code=201, responses=_FULL)
    async def make_session(body: SessionRequest, request: Request) -> SessionDescription:
        """Start a Jupyter kernel in a container of its own; the answer comes when it is ready."""
        return await serve(presence, request, lambda service: service.make_session(body))

    @router.get("")
    async def list_sessions() -> SessionList:
        """All sessions that are there."""
        return find_service(presence).sessions.list_sessions()

    @router.get("/{id}", responses=_GONE)
    async def show_session(id: str) -> SessionDescription:
        """One session."""
        try:
            return find_service(presence).sessions.describe(id)
        except TandemError as error:
            raise explain(error) from error

    @router.post("/{id}/cells", responses={**_GONE, **_BUSY})
    async def run_cell(id: str, body: CellRequest, request: Request) -> CellResult:
        """Run a cell. If its client goes away, it is interrupted; what the session knows stays."""
        return await serve(presence, request, lambda service: service.sessions.run(id, body))

    @router.delete("/{id}", status_code=204, responses=_GONE)
    async def end_session(id: str) -> None:
        """End it, with a cell that may run; answers when all its processes have ended."""
        try:
            await find_service(presence).sessions.end(id)
        except TandemError as error:
            raise explain(error) from error

    return router
