"""What the checkpoint engine asks of vLLM's server over HTTP."""

import math
from types import TracebackType
from typing import Any, Literal, Self

import httpx
from tandem_core.errors import TandemError

from tandem_sidecar.engine_gate import GATE_PATH, PROBE_HEADER

CALL_TIMEOUT_SECONDS = 60.0
PAUSE_TIMEOUT_SECONDS = 20.0
"""Aborting takes 0.03 s: an engine that needs this long hangs, and the trainer waits for its memory."""
UPDATE_TIMEOUT_SECONDS = 600.0
"""Copying and repacking a large model's weights inside vLLM."""
PROBE_TOKENS = (1, 2, 3)
"""Any tokens do; every vocabulary has these."""

PauseMode = Literal["abort", "wait", "keep"]


class EngineError(TandemError):
    """vLLM did not do what it was asked for."""


class ProbeError(EngineError):
    """vLLM answers, but not with the weights it should have."""


class EngineClient:
    """One connection that is kept open, so that a switch costs no handshakes; an async context manager.

    Every method raises EngineError if vLLM cannot be reached or answers with an error.
    """

    def __init__(self, url: str, token: str) -> None:
        self._http = httpx.AsyncClient(
            base_url=url,
            headers={"Authorization": f"Bearer {token}"},
            timeout=httpx.Timeout(CALL_TIMEOUT_SECONDS, connect=5.0),
            limits=httpx.Limits(keepalive_expiry=None),
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

    async def turn_gate(self, *, is_open: bool) -> None:
        """Let prompts in, or keep them waiting outside vLLM."""
        await self._post(GATE_PATH, {"open": "true" if is_open else "false"})

    async def pause(self, mode: PauseMode = "abort") -> None:
        """Stop generating and empty the prefix cache. abort: requests in flight are answered with what they have."""
        await self._post("/pause", {"mode": mode}, timeout_seconds=PAUSE_TIMEOUT_SECONDS)

    async def resume(self) -> None:
        """Generate again."""
        await self._post("/resume")

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

    async def update_weights(self, load_file: str, version: int) -> None:
        """Replace the weights by those the load plan names, and label them `version`. The engine must be paused.

        After an error the engine is of no use any more: vLLM dies with the next request.
        """
        await self._post("/start_weight_update")
        update = {"update_info": {"path": load_file}}
        await self._post("/update_weights", body=update, timeout_seconds=UPDATE_TIMEOUT_SECONDS)
        finish = {"weight_version": str(version)}
        await self._post("/finish_weight_update", body=finish, timeout_seconds=UPDATE_TIMEOUT_SECONDS)

    async def weight_version(self) -> str:
        """The label of the weights."""
        try:
            response = await self._http.get("/weight_info")
        except httpx.TransportError as error:
            raise _unreachable("/weight_info", error) from error
        return str(_checked(response).json()["weight_version"])

    async def probe(self, version: int) -> None:
        """Generate two tokens; raises ProbeError unless their log-probs are numbers and `version` made them."""
        sampling = {"max_tokens": 2, "temperature": 0.0, "logprobs": 0, "ignore_eos": True, "detokenize": False}
        body = {"token_ids": PROBE_TOKENS, "sampling_params": sampling}
        answer = await self._post("/inference/v1/generate", body=body, headers={PROBE_HEADER: "1"})
        problem = find_probe_problem(answer, version)
        if problem:
            raise ProbeError(f"vLLM at {self._http.base_url} after loading version {version}: {problem}")

    async def _post(
        self,
        path: str,
        query: dict[str, str] | None = None,
        *,
        body: dict[str, Any] | None = None,
        headers: dict[str, str] | None = None,
        timeout_seconds: float = CALL_TIMEOUT_SECONDS,
    ) -> dict[str, Any]:
        try:
            response = await self._http.post(path, params=query, json=body, headers=headers, timeout=timeout_seconds)
        except httpx.TransportError as error:
            raise _unreachable(path, error) from error
        answer: dict[str, Any] = _checked(response).json()
        return answer


def find_probe_problem(answer: dict[str, Any], version: int) -> str:
    """What is wrong with the answer of /inference/v1/generate to a probe; empty: nothing."""
    choices = answer.get("choices") or [{}]
    tokens = (choices[0].get("logprobs") or {}).get("content") or []
    logprobs = [token.get("logprob") for token in tokens]
    if not logprobs or any(value is None or not math.isfinite(value) for value in logprobs):
        return f"log-probs of two tokens should be finite numbers, found {logprobs}: the weights are damaged"
    versions = {span["version"] for span in choices[0].get("weight_versions") or []}
    if versions != {str(version)}:
        return f"the tokens should be of version {version}, found {sorted(versions) or 'none'}"
    return ""


def _checked(response: httpx.Response) -> httpx.Response:
    if not response.is_success:
        raise EngineError(
            f"vLLM answered {response.status_code} to {response.request.method} {response.request.url}: "
            f"{response.text[:500]}"
        )
    return response


def _unreachable(path: str, error: httpx.TransportError) -> EngineError:
    return EngineError(f"vLLM did not answer {path}: {type(error).__name__}: {error}")
