"""A model behind an OpenAI-compatible API."""

from collections.abc import Sequence
from types import TracebackType
from typing import Self

import httpx
import tenacity
from pydantic import BaseModel, Field, ValidationError
from tandem_core.errors import TandemError

_TIMEOUT_SECONDS = 600.0
_MOST_PAUSE_SECONDS = 20.0
_BUSY = (408, 429, 500, 502, 503, 504)


class _Said(BaseModel):
    content: str | None = None


class _Choice(BaseModel):
    message: _Said


class _Answer(BaseModel):
    choices: tuple[_Choice, ...] = Field(min_length=1)


class _Again(Exception):
    """Worth another try."""


class ChatModel:
    """`async with ChatModel(url, name, key) as model`; `url` ends with /v1 as a rule."""

    def __init__(self, url: str, name: str, key: str | None, *, patience_seconds: float = 120.0) -> None:
        self.url = url.rstrip("/")
        self.name = name
        self._patience_seconds = patience_seconds
        self._client = httpx.AsyncClient(
            timeout=httpx.Timeout(_TIMEOUT_SECONDS, connect=10.0),
            headers={"Authorization": f"Bearer {key}"} if key else {},
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._client.aclose()

    async def answer(self, messages: Sequence[tuple[str, str]]) -> str:
        """What it says next in a conversation of (role, text). Raises TandemError."""
        body = {"model": self.name, "messages": [{"role": role, "content": text} for role, text in messages]}
        retrying = tenacity.AsyncRetrying(
            retry=tenacity.retry_if_exception_type(_Again),
            wait=tenacity.wait_exponential_jitter(multiplier=0.5, max=_MOST_PAUSE_SECONDS),
            stop=tenacity.stop_after_delay(self._patience_seconds),
            reraise=True,
        )
        try:
            text: str = await retrying(self._answer_once, body)
        except _Again as error:
            raise TandemError(
                f"the model at {self.url} did not answer within {self._patience_seconds:g} s: {error}; check "
                "--model-url, and run the command again: what is done is kept"
            ) from error
        return text

    async def _answer_once(self, body: object) -> str:
        try:
            response = await self._client.post(f"{self.url}/chat/completions", json=body)
        except httpx.HTTPError as error:
            raise _Again(repr(error)) from error
        if response.status_code in _BUSY:
            raise _Again(f"{response.status_code} {response.text[:200]}")
        if not response.is_success:
            raise TandemError(
                f"the model at {self.url} refuses: {response.status_code} {response.text[:500]}; check --model-url, "
                "--model and OPENAI_API_KEY"
            )
        try:
            return _Answer.model_validate_json(response.content).choices[0].message.content or ""
        except ValidationError as error:
            raise TandemError(
                f"{self.url} does not answer as the OpenAI API does: {error}; --model-url ends with /v1 as a rule"
            ) from error
