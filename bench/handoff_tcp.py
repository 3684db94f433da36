"""For bench/handoff.py: a version from another pod's checkpoint engine, and the same bytes through one plain socket."""

import asyncio
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import uvicorn
from tandem_core.weights.manifest import ManifestPart
from tandem_sidecar.api import Presence, build_api
from tandem_sidecar.receive import ReceivedVersion, receive_version

from bench.handoff_model import OTHER_ADDRESS, TOKEN, build_commit

FILES_PORT, PLAIN_PORT = 8001, 8009
URL = f"http://{OTHER_ADDRESS}:{FILES_PORT}"


@contextmanager
def sending(shm_dir: Path, file: Path) -> Iterator[None]:
    """The other pod: two processes, one with the checkpoint engine's API, one that sends `file` to who connects."""
    targets = (partial(_serve_files, shm_dir), partial(_serve_plain, file))
    servers = [get_context("fork").Process(target=target, daemon=True) for target in targets]
    for server in servers:
        server.start()
    try:
        wait_for_port(FILES_PORT)
        wait_for_port(PLAIN_PORT)
        yield
    finally:
        for server in servers:
            server.kill()
            server.join()


def receive(part: ManifestPart, shm_dir: Path) -> ReceivedVersion:
    """The version as a pod without a trainer gets it."""
    return asyncio.run(receive_version([part], build_commit(part), "pod-2", shm_dir, TOKEN))


def receive_plain(buffer: bytearray) -> float:
    """Seconds to fill the buffer."""
    started, view, received = time.perf_counter(), memoryview(buffer), 0
    with socket.create_connection((OTHER_ADDRESS, PLAIN_PORT)) as connection:
        while received < len(buffer):
            count = connection.recv_into(view[received:])
            if not count:
                raise ConnectionError(f"the connection ended after {received} of {len(buffer)} bytes")
            received += count
    return time.perf_counter() - started


def _serve_files(shm_dir: Path) -> None:
    api = build_api(Presence("pod-1", "sidecar", TOKEN, shm_dir))
    uvicorn.run(api, host=OTHER_ADDRESS, port=FILES_PORT, log_level="error")


def _serve_plain(file: Path) -> None:
    content = file.read_bytes()
    with socket.create_server((OTHER_ADDRESS, PLAIN_PORT)) as server:
        while True:
            connection, _ = server.accept()
            with connection, suppress(ConnectionError):  # who only looks whether the port is open
                connection.sendall(content)


def wait_for_port(port: int, timeout_seconds: float = 60.0) -> None:
    """Return when somebody listens at OTHER_ADDRESS."""
    deadline = time.monotonic() + timeout_seconds
    while True:
        try:
            socket.create_connection((OTHER_ADDRESS, port)).close()
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)
