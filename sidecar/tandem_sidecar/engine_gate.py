"""Keeps prompts outside vLLM until its weights are the committed ones: it runs inside vLLM (--middleware).

vLLM takes prompts as soon as it is up, on dummy weights, and /wake_up lets waiting ones run on whatever memory
holds. The gate is closed from the start; the checkpoint engine opens it after an update whose probe was right.
"""

import asyncio
from urllib.parse import parse_qs

from tandem_sidecar.engine_auth import Application, Receive, Scope, Send, answer_json

GATE_PATH = "/tandem/gate"
"""POST with ?open=true or false."""
PROBE_HEADER = "x-tandem-probe"
"""A request with this header passes the closed gate."""
CONTROL_PATHS = frozenset(
    {
        "/finish_weight_update",
        "/init_weight_transfer_engine",
        "/pause",
        "/resume",
        "/sleep",
        "/start_weight_update",
        "/update_weights",
        "/wake_up",
    }
)
"""What the checkpoint engine posts; everything else that is posted waits for the gate."""


class EngineGate:
    """ASGI middleware: requests that arrive while the gate is closed wait until it opens."""

    def __init__(self, application: Application) -> None:
        self._application = application
        self._open = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] == "POST" and scope["path"] == GATE_PATH:
            await self._turn(scope, send)
            return
        if self._must_wait(scope):
            await self._open.wait()
        await self._application(scope, receive, send)

    def _must_wait(self, scope: Scope) -> bool:
        if scope["type"] == "lifespan" or self._open.is_set():
            return False
        if scope["type"] == "http" and (scope["method"] != "POST" or scope["path"] in CONTROL_PATHS):
            return False
        return all(name != PROBE_HEADER.encode() for name, _ in scope["headers"])

    async def _turn(self, scope: Scope, send: Send) -> None:
        if parse_qs(scope["query_string"].decode()).get("open") == ["true"]:
            self._open.set()
        else:
            self._open.clear()
        await answer_json(send, 200, b'{"open":true}' if self._open.is_set() else b'{"open":false}')
