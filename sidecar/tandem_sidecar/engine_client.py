"""What the checkpoint engine asks of vLLM's server over HTTP."""

import ssl
from types import TracebackType
from typing import Any, Self

import httpx
from tandem_core.coordination.records import Activity
from tandem_core.errors import TandemError

from tandem_sidecar.engine_gate import LOAD_PATH, PAUSE_PATH, PAUSE_SECONDS, RESUME_PATH

CALL_TIMEOUT_SECONDS = 60.0
UPDATE_TIMEOUT_SECONDS = 600.0
"""Copying and repacking a large model's weights inside vLLM."""


class EngineError(TandemError):
    """vLLM did not do what it was asked for."""


class EngineClient:
    """One connection that is kept open, so that a switch costs no handshakes; an async context manager.

    Every method raises EngineError if vLLM cannot be reached or answers with an error.
    """

    def __init__(self, url: str, token: str, trust: ssl.SSLContext | None = None) -> None:
        """`trust` is for a url with https."""
        self._http = httpx.AsyncClient(
            base_url=url,
            headers={"Authorization": f"Bearer {token}"},
            timeout=httpx.Timeout(CALL_TIMEOUT_SECONDS, connect=5.0),
            limits=httpx.Limits(keepalive_expiry=None),
            verify=trust or True,
            trust_env=False,  # never through a proxy: the engine is in this pod
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._http.aclose()

    async def healthy(self) -> bool:
        """Whether the server is up; never raises."""
        try:
            return (await self._http.get("/health", timeout=5.0)).is_success
        except httpx.TransportError:
            return False

    async def ask_core(self) -> bool:
        """Return when EngineCore has answered, which it does between two steps: False if vLLM says that it is dead."""
        try:
            healthy = (await self._http.get("/health", timeout=None)).is_success
            if healthy:
                await self._http.get("/is_sleeping", timeout=None)
        except httpx.TransportError as error:
            raise _unreachable("/is_sleeping", error) from error
        return healthy

    async def pause(self) -> list[Activity]:
        """Answer requests in flight with what they have, and keep later ones waiting; the prefix cache is emptied."""
        return await self._act(PAUSE_PATH, timeout_seconds=2 * PAUSE_SECONDS)  # the gate gives up before

    async def resume(self) -> None:
        """Generate again."""
        await self._act(RESUME_PATH)

    async def sleep(self) -> None:
        """Give back weights and cache (level 2: nothing is kept in host memory). Pause first: with requests in
        flight vLLM answers 200 and then dies (vllm#45552)."""
        await self._post("/sleep", {"level": "2", "mode": "abort"}, timeout_seconds=UPDATE_TIMEOUT_SECONDS)

    async def wake(self) -> None:
        """Take memory again; the weights in it are garbage until the next update."""
        await self._post("/wake_up", timeout_seconds=UPDATE_TIMEOUT_SECONDS)

    async def init_weights(self) -> None:
        """Set up weight transfer; once in an engine's life."""
        await self._post("/init_weight_transfer_engine", body={"init_info": {}})

    async def load(self, load_file: str, version: int) -> list[Activity]:
        """Pause, replace the weights by those that the load file names, label them `version`, try them, and serve.

        After an error the engine is of no use any more: what it has is neither the old nor the new weights.
        """
        query = {"path": load_file, "version": str(version)}
        return await self._act(LOAD_PATH, query, timeout_seconds=UPDATE_TIMEOUT_SECONDS)

    async def _act(
        self, path: str, query: dict[str, str] | None = None, *, timeout_seconds: float = CALL_TIMEOUT_SECONDS
    ) -> list[Activity]:
        """What the gate did, part by part."""
        parts = await self._post(path, query, timeout_seconds=timeout_seconds)
        return [Activity.model_validate(part) for part in parts]

    async def _post(
        self,
        path: str,
        query: dict[str, str] | None = None,
        *,
        body: dict[str, Any] | None = None,
        timeout_seconds: float = CALL_TIMEOUT_SECONDS,
    ) -> Any:
        try:
            response = await self._http.post(path, params=query, json=body, timeout=timeout_seconds)
        except httpx.TransportError as error:
            raise _unreachable(path, error) from error
        return _checked(response).json()


def _checked(response: httpx.Response) -> httpx.Response:
    if not response.is_success:
        raise EngineError(
            f"vLLM answered {response.status_code} to {response.request.method} {response.request.url}: "
            f"{response.text[:500]}"
        )
    return response


def _unreachable(path: str, error: httpx.TransportError) -> EngineError:
    return EngineError(f"vLLM did not answer {path}: {type(error).__name__}: {error}")
