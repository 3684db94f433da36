"""Pods that hold published weights: a shared memory directory and, in a thread, the server of its files."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import uvicorn
from starlette.types import Receive, Scope, Send
from tandem_sidecar.api import Presence, build_api


@dataclass
class WeightPod:
    """A pod's shared memory and the server of its files."""

    name: str
    shm_dir: Path
    url: str = ""
    served_bytes: int = 0
    """Sum of the lengths of all ranges that were asked for."""

    def file(self, rank: int, version: int = 1) -> Path:
        return self.shm_dir / f"weights/{version % 2}/rank-{rank}.bin"


@contextmanager
def serving(pod: WeightPod, token: str, address: str = "127.0.0.1", tls_dir: Path | None = None) -> Iterator[WeightPod]:
    """The pod's files behind its checkpoint engine's API, at a free port of the address; `tls_dir`: encrypted."""
    api = build_api(Presence(pod.name, "sidecar", token, pod.shm_dir))

    async def counting(scope: Scope, receive: Receive, send: Send) -> None:
        asked = dict(scope.get("headers", [])).get(b"range", b"").decode()
        if asked:
            first, last = asked.removeprefix("bytes=").split("-")
            pod.served_bytes += int(last) + 1 - int(first)
        await api(scope, receive, send)

    files = {} if tls_dir is None else {"ssl_certfile": tls_dir / "tls.crt", "ssl_keyfile": str(tls_dir / "tls.key")}
    server = uvicorn.Server(uvicorn.Config(counting, host=address, port=0, log_level="warning", **files))
    listening = server.config.bind_socket()
    listening.listen()  # requests may come before the thread runs
    pod.url = f"{'https' if files else 'http'}://{address}:{listening.getsockname()[1]}"
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    try:
        yield pod
    finally:
        server.should_exit = True
        thread.join(timeout=10)
