"""The client of vLLM's tokens-in, tokens-out endpoint."""

import asyncio
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import aiohttp
import numpy as np
import numpy.typing as npt
from pydantic_core import from_json
from tandem_core.errors import TandemError
from tandem_core.job.rollout import RepetitionSpec

from tandem_rollout.trajectory import FinishReason, VersionSpan

GENERATE_PATH = "/inference/v1/generate"
_CONNECT_TIMEOUT_SECONDS = 5.0
_FINISH_REASONS = {
    "stop": FinishReason.STOP,
    "length": FinishReason.LENGTH,
    "repetition": FinishReason.REPETITION,
    "abort": FinishReason.ABORTED,
}
# A busy or dying engine answers with these; any other 4xx means that the request itself is wrong.
_PASSING_STATUSES = frozenset({408, 425, 429})


class EngineLost(Exception):
    """The engine did not answer a request: it may be gone. The request can go to another engine."""


class EngineRefused(TandemError):
    """The engine does not accept the request, and no other engine would."""


@dataclass(frozen=True, slots=True)
class GenerateRequest:
    """`count` answers to one prompt, or the rest of one."""

    prompt: Sequence[int]
    """Tokens of the prompt and of what was answered before."""
    count: int
    max_tokens: int
    """Most tokens of each answer."""
    temperature: float
    """0: greedy."""
    top_p: float
    seed: int
    """The i-th answer is sampled with seed + i."""
    repetition: RepetitionSpec

    def body(self) -> dict[str, Any]:
        """The JSON body, for POST /inference/v1/generate."""
        sampling: dict[str, Any] = {
            "n": self.count,
            "max_tokens": self.max_tokens,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "seed": self.seed,
            "logprobs": 0,  # of the sampled token only
            "detokenize": False,
        }
        if self.repetition.max_pattern_tokens:
            sampling["repetition_detection"] = {
                "max_pattern_size": self.repetition.max_pattern_tokens,
                "min_pattern_size": self.repetition.min_pattern_tokens,
                "min_count": self.repetition.repeats,
            }
        return {"token_ids": list(self.prompt), "sampling_params": sampling}


@dataclass(frozen=True, slots=True, eq=False)
class Generated:
    """What the engine made of one answer: n tokens."""

    tokens: npt.NDArray[np.int32]
    """[n], the end token included."""
    logprobs: npt.NDArray[np.float32]
    """[n]"""
    versions: tuple[VersionSpan, ...]
    """The counts add up to n."""
    finish_reason: FinishReason
    """STOP, LENGTH (max_tokens reached), REPETITION or ABORTED."""


class EngineClient:
    """Talks to all engines over connections that are kept; an async context manager.

    aiohttp and not httpx: for 32 requests at a time it needs 8 ms of CPU instead of 80, which is time that every
    iteration would wait.
    """

    def __init__(self, token: str, trust: ssl.SSLContext | None = None, *, request_timeout_seconds: float) -> None:
        """`trust` is for engines whose url has https."""
        self._token = token
        self._trust = trust
        self.request_timeout_seconds = request_timeout_seconds
        """Of each request from now on."""
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        # No limit on connections: AnswerPool bounds what each engine is asked.
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, ssl=self._trust or True),
            headers={"Authorization": f"Bearer {self._token}"},
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()

    async def generate(self, url: str, request: GenerateRequest, *, engine_version: int) -> list[Generated]:
        """One result for each of `request.count` answers, in order.

        An engine that is paused with mode=abort gives back what it has, as ABORTED. `engine_version` is what the
        tokens are labelled with where vLLM names no version. Raises EngineLost or EngineRefused.
        """
        if self._session is None:
            raise RuntimeError("EngineClient is used outside its `async with` block")
        address = url + GENERATE_PATH
        timeout = aiohttp.ClientTimeout(total=self.request_timeout_seconds, sock_connect=_CONNECT_TIMEOUT_SECONDS)
        try:
            async with self._session.post(address, json=request.body(), timeout=timeout) as response:
                content = await response.read()
                status = response.status
        except (aiohttp.ClientError, TimeoutError, OSError, asyncio.IncompleteReadError) as error:
            raise EngineLost(f"{address}: {str(error) or type(error).__name__}") from error
        if status != 200:
            text = content[:500].decode(errors="replace")
            if status >= 500 or status in _PASSING_STATUSES:
                raise EngineLost(f"{address} answered {status}: {text}")
            raise EngineRefused(
                f"the engine at {address} refused a request for {request.count} answers to {len(request.prompt)} "
                f"tokens with status {status}: {text}. It must be the job's own vLLM, with --enable-scale-out and the "
                "job's token"
            )
        return parse_generated(content, request.count, engine_version)


def parse_generated(content: bytes, count: int, engine_version: int) -> list[Generated]:
    """The answers in a response body. Raises EngineLost if the body is not what vLLM writes, or vLLM failed."""
    try:
        choices = sorted(from_json(content)["choices"], key=lambda choice: choice["index"])
        generated = [_parse_choice(choice, engine_version) for choice in choices]
    except (KeyError, TypeError, ValueError) as error:
        raise EngineLost(f"unreadable answer of the engine ({error!r}): {content[:200]!r}") from error
    if len(generated) != count:
        raise EngineLost(f"{count} answers asked for, the engine gave {len(generated)}")
    return generated


def _parse_choice(choice: dict[str, Any], engine_version: int) -> Generated:
    tokens = choice["token_ids"] or []
    logprobs = [entry["logprob"] for entry in (choice["logprobs"] or {}).get("content") or []]
    if len(logprobs) != len(tokens):
        raise ValueError(f"{len(tokens)} tokens with {len(logprobs)} log-probabilities")
    return Generated(
        tokens=np.array(tokens, dtype=np.int32),
        logprobs=np.array(logprobs, dtype=np.float32),
        versions=_parse_versions(choice.get("weight_versions") or (), len(tokens), engine_version),
        finish_reason=_FINISH_REASONS[choice["finish_reason"]],
    )


def _parse_versions(spans: Sequence[dict[str, Any]], length: int, engine_version: int) -> tuple[VersionSpan, ...]:
    if not spans:
        return (VersionSpan(engine_version, length),) if length else ()
    # vLLM's label is a text; before the first update it is "default".
    return tuple(
        VersionSpan(
            int(span["version"]) if span["version"].isdecimal() else engine_version, span["end"] - span["start"]
        )
        for span in spans
        if span["end"] > span["start"]
    )
