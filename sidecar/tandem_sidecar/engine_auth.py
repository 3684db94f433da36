"""The job's bearer token, demanded by vLLM's server: it runs inside vLLM (--middleware)."""

import hmac
import os
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

OPEN_PATHS = frozenset({"/health"})
"""Answered without a token: Kubernetes' probes carry none."""
_POLICY_VIOLATION = 1008


class EngineAuthentication:
    """ASGI middleware. vLLM's own --api-key leaves the endpoints open that pause it and replace its weights."""

    def __init__(self, application: Application) -> None:
        """Reads the token from the file named by TANDEM_TOKEN_FILE."""
        self._application = application
        token = Path(os.environ["TANDEM_TOKEN_FILE"]).read_text().strip()
        self._expected = f"Bearer {token}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" or scope["path"] in OPEN_PATHS or self._authorized(scope):
            await self._application(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": _POLICY_VIOLATION})  # before it is open: answered with 403
        else:
            await answer_json(send, 401, b'{"error":"this engine needs the job\'s bearer token"}')

    def _authorized(self, scope: Scope) -> bool:
        given = [value for name, value in scope["headers"] if name == b"authorization"]
        return len(given) == 1 and hmac.compare_digest(given[0], self._expected)


async def answer_json(send: Send, status: int, body: bytes) -> None:
    """Answer a request with `body`."""
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
