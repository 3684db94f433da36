"""An HTTP server that answers as vLLM's generate endpoint does, when and how a test says.

For failures only, which need exact timing; what vLLM itself does is tested with vLLM.
"""

import asyncio
import random
from dataclasses import dataclass, field
from typing import Any, Self

from aiohttp import web

from tools.free_ports import find_free_port


@dataclass
class ScriptedEngine:
    """`async with ScriptedEngine() as engine`."""

    host: str = "127.0.0.1"
    port: int = field(default_factory=find_free_port)
    held: bool = False
    """Requests wait until `release`, `abort` or `die`."""
    failing: bool = False
    """Requests get status 500."""
    requests: list[dict[str, Any]] = field(default_factory=list)
    vocabulary: tuple[int, ...] = (2, 3, 4)
    _go_on: asyncio.Event = field(default_factory=asyncio.Event)
    _aborted: bool = False
    _arrived: asyncio.Event = field(default_factory=asyncio.Event)
    _runner: web.AppRunner | None = None

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    async def __aenter__(self) -> Self:
        application = web.Application()
        application.router.add_post("/inference/v1/generate", self._generate)
        self._runner = web.AppRunner(application, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, self.host, self.port).start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.die()

    async def die(self) -> None:
        """Close all connections, as the end of the process does."""
        if self._runner is not None:
            for transport in [handler.transport for handler in self._runner.server.connections]:  # type: ignore[union-attr]
                if transport is not None:
                    transport.abort()
            await self._runner.cleanup()
            self._runner = None

    def release(self) -> None:
        """Answer the held requests, and all later ones."""
        self.held = False
        self._go_on.set()

    def abort(self) -> None:
        """Answer the held requests with a part of their tokens."""
        self._aborted = True
        self._go_on.set()

    async def wait_for_requests(self, count: int) -> None:
        async with asyncio.timeout(10):
            while len(self.requests) < count:
                self._arrived.clear()
                await self._arrived.wait()

    async def _generate(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.requests.append(body)
        self._arrived.set()
        if self.failing:
            return web.json_response({"error": "out of memory"}, status=500)
        aborted = False
        if self.held:
            self._go_on.clear()
            await self._go_on.wait()
            aborted = self._aborted
        sampling = body["sampling_params"]
        tokens = sampling["max_tokens"] // 2 if aborted else sampling["max_tokens"]
        rng = random.Random(sampling["seed"])
        choices = [
            self._choice(index, rng.choices(self.vocabulary, k=tokens), aborted) for index in range(sampling["n"])
        ]
        return web.json_response({"choices": choices})

    def _choice(self, index: int, tokens: list[int], aborted: bool) -> dict[str, Any]:
        return {
            "index": index,
            "token_ids": tokens,
            "logprobs": {"content": [{"token_id": token, "logprob": -0.5} for token in tokens]},
            "finish_reason": "abort" if aborted else "length",
            "weight_versions": [],
        }
