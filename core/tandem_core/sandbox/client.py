"""A client of the code sandbox."""

from types import TracebackType
from typing import Self

import httpx
import tenacity

from tandem_core.errors import TandemError
from tandem_core.sandbox.judging import JudgeRequest, JudgeResult
from tandem_core.sandbox.messages import LanguageList, Message, RunRequest, RunResult

_BUSY = (429, 502, 503, 504)
_MOST_PAUSE_SECONDS = 30.0


class SandboxError(TandemError):
    """The sandbox refuses a request: it says why."""


class SandboxUnavailable(TandemError):
    """The sandbox cannot be reached, or stays overloaded: what was asked is neither right nor wrong."""


class _Again(Exception):
    """Worth another try, after `pause_seconds` if the service said so."""

    def __init__(self, reason: str, pause_seconds: float | None = None) -> None:
        super().__init__(reason)
        self.pause_seconds = pause_seconds


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
            limits=httpx.Limits(max_connections=64),
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

    async def _ask(self, method: str, path: str, request: Message | None = None) -> bytes:
        content = None if request is None else request.model_dump_json()
        retrying = tenacity.AsyncRetrying(
            retry=tenacity.retry_if_exception_type(_Again),
            wait=_pause,
            stop=tenacity.stop_after_delay(self._patience_seconds),
            reraise=True,
        )
        try:
            answer: bytes = await retrying(self._ask_once, method, path, content)
        except _Again as error:
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
        except httpx.HTTPError as error:
            raise _Again(repr(error)) from error
        if response.status_code in _BUSY:
            wait = response.headers.get("Retry-After", "")
            raise _Again(f"{response.status_code} {response.text[:200]}", float(wait) if wait.isdigit() else None)
        if not response.is_success:
            raise SandboxError(f"the sandbox {self._url} answered {response.status_code}: {response.text[:500]}")
        return response.content


_grow = tenacity.wait_exponential_jitter(multiplier=0.2, max=5.0)


def _pause(state: tenacity.RetryCallState) -> float:
    error = state.outcome.exception() if state.outcome is not None else None
    wished = error.pause_seconds if isinstance(error, _Again) else None
    return min(max(wished or 0.0, _grow(state)), _MOST_PAUSE_SECONDS)
