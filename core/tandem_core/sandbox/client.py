"""A client of the code sandbox."""

import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Self

import httpx
import tenacity

from tandem_core.errors import TandemError
from tandem_core.sandbox.judging import JudgeRequest, JudgeResult
from tandem_core.sandbox.messages import CellLimits, LanguageList, Message, RunRequest, RunResult
from tandem_core.sandbox.sessions import CellRequest, CellResult, SessionDescription, SessionList, SessionRequest

_BUSY = (429, 502, 503, 504)
_REFUSED = 429
_GONE = 410
_MOST_PAUSE_SECONDS = 30.0


class SandboxError(TandemError):
    """The sandbox refuses a request: it says why."""


class SessionOver(SandboxError):
    """The session has ended, and all its state with it: it says why."""


class SandboxUnavailable(TandemError):
    """The sandbox cannot be reached, or stays overloaded: what was asked is neither right nor wrong."""


class _Again(Exception):
    """Worth another try, after `pause_seconds` if the service said so."""

    def __init__(self, reason: str, pause_seconds: float | None = None, *, begun: bool = False) -> None:
        super().__init__(reason)
        self.pause_seconds = pause_seconds
        self.begun = begun
        """Whether the service may have done what it was asked, in part or as a whole."""


class SandboxClient:
    """`async with SandboxClient(url, token) as client`.

    Overload, lost connections and a service that restarts are waited out for up to `patience_seconds`.
    """

    def __init__(
        self, url: str, token: str, *, timeout_seconds: float = 600.0, patience_seconds: float = 120.0
    ) -> None:
        self._url = url
        self._client = httpx.AsyncClient(
            base_url=url,
            timeout=httpx.Timeout(timeout_seconds, connect=10.0),
            # Idle connections are let go before the service closes them: what is lost with one may have run.
            limits=httpx.Limits(max_connections=64, keepalive_expiry=2.0),
            headers={"Authorization": f"Bearer {token}"},
        )
        self._patience_seconds = patience_seconds

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close connections; what still runs for this client is ended by the service."""
        await self._client.aclose()

    async def run(self, request: RunRequest) -> RunResult:
        """Run a program or command once. Raises SandboxError, SandboxUnavailable."""
        return RunResult.model_validate_json(await self._ask("POST", "/v1/run", request))

    async def judge(self, request: JudgeRequest) -> JudgeResult:
        """Judge programs by test cases. Raises SandboxError, SandboxUnavailable."""
        return JudgeResult.model_validate_json(await self._ask("POST", "/v1/judge", request))

    async def languages(self) -> LanguageList:
        """What can be asked for. Raises SandboxError, SandboxUnavailable."""
        return LanguageList.model_validate_json(await self._ask("GET", "/v1/languages"))

    async def make_session(self, request: SessionRequest) -> SessionDescription:
        """A new session, whose kernel answers; waits for a place. Raises SandboxError, SandboxUnavailable."""
        return SessionDescription.model_validate_json(await self._ask("POST", "/v1/sessions", request))

    async def run_cell(self, session: str, request: CellRequest) -> CellResult:
        """Run a cell of a session. It is never run twice: if the connection is lost, SandboxUnavailable is raised.

        Raises SandboxError, SessionOver, SandboxUnavailable.
        """
        path = f"/v1/sessions/{session}/cells"
        return CellResult.model_validate_json(await self._ask("POST", path, request, once=True))

    async def session(self, session: str) -> SessionDescription:
        """How a session is. Raises SandboxError, SessionOver, SandboxUnavailable."""
        return SessionDescription.model_validate_json(await self._ask("GET", f"/v1/sessions/{session}"))

    async def sessions(self) -> SessionList:
        """All sessions that are there. Raises SandboxError, SandboxUnavailable."""
        return SessionList.model_validate_json(await self._ask("GET", "/v1/sessions"))

    async def end_session(self, session: str) -> None:
        """End a session; one that is over already stays so. Raises SandboxError, SandboxUnavailable."""
        with contextlib.suppress(SessionOver):
            await self._ask("DELETE", f"/v1/sessions/{session}")

    @asynccontextmanager
    async def open_session(self, request: SessionRequest) -> AsyncIterator["JupyterSession"]:
        """`async with client.open_session(SessionRequest()) as session: await session.run("x = 1")`."""
        description = await self.make_session(request)
        try:
            yield JupyterSession(self, description)
        finally:
            await self.end_session(description.id)

    async def _ask(self, method: str, path: str, request: Message | None = None, *, once: bool = False) -> bytes:
        content = None if request is None else request.model_dump_json()
        retrying = tenacity.AsyncRetrying(
            retry=tenacity.retry_if_exception(lambda error: isinstance(error, _Again) and not (once and error.begun)),
            wait=_pause,
            stop=tenacity.stop_after_delay(self._patience_seconds),
            reraise=True,
        )
        try:
            answer: bytes = await retrying(self._ask_once, method, path, content)
        except _Again as error:
            if once and error.begun:
                raise SandboxUnavailable(
                    f"the sandbox {self._url} gave no answer to {path}, and whether it has run is not known: {error}"
                ) from error
            raise SandboxUnavailable(
                f"the sandbox {self._url} did not serve {path} within {self._patience_seconds:g} s: {error}; check "
                "that it runs (/readyz) and has enough processors"
            ) from error
        return answer

    async def _ask_once(self, method: str, path: str, content: str | None) -> bytes:
        try:
            response = await self._client.request(
                method, path, content=content, headers={"Content-Type": "application/json"}
            )
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
            raise _Again(repr(error)) from error
        except httpx.HTTPError as error:
            raise _Again(repr(error), begun=True) from error
        if response.status_code in _BUSY:
            wait = response.headers.get("Retry-After", "")
            said = f"{response.status_code} {response.text[:200]}"
            raise _Again(said, float(wait) if wait.isdigit() else None, begun=response.status_code != _REFUSED)
        if response.status_code == _GONE:
            raise SessionOver(response.text[:500])
        if not response.is_success:
            raise SandboxError(f"the sandbox {self._url} answered {response.status_code}: {response.text[:500]}")
        return response.content


class JupyterSession:
    """A session of a client; made by `SandboxClient.open_session`."""

    def __init__(self, client: SandboxClient, description: SessionDescription) -> None:
        self._client = client
        self.id = description.id

    async def run(self, code: str, limits: CellLimits | None = None) -> CellResult:
        """Run a cell. Raises SandboxError, SessionOver, SandboxUnavailable."""
        return await self._client.run_cell(self.id, CellRequest(code=code, limits=limits or CellLimits()))


_grow = tenacity.wait_exponential_jitter(multiplier=0.2, max=5.0)


def _pause(state: tenacity.RetryCallState) -> float:
    error = state.outcome.exception() if state.outcome is not None else None
    wished = error.pause_seconds if isinstance(error, _Again) else None
    return min(max(wished or 0.0, _grow(state)), _MOST_PAUSE_SECONDS)
