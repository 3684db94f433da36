"""Moves byte ranges from the files of other pods into a file of this pod."""

import asyncio
import http.client
import mmap
import os
import ssl
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

import structlog
from tandem_core.errors import OutOfSpace, TandemError
from tandem_core.weights.merge import RankFile
from tandem_core.weights.plan import FetchRange

log = structlog.get_logger()

CONNECTIONS = 8
"""Ranges that are fetched at the same time; one connection gives about 3 GB/s on loopback, so a few fill a link."""
SILENCE_SECONDS = 30.0
"""A source that sends nothing for this long has failed."""


class TransferError(TandemError):
    """A byte range could not be fetched from this source; another replica may have it."""


class Transport(Protocol):
    """How bytes get from a rank's file in another pod to memory here."""

    def fetch(self, source: RankFile, offset: int, destination: memoryview) -> None:
        """Fill `destination` with the bytes of the source's file from `offset` on; blocks, called in threads.

        Raises TransferError.
        """


class HttpTransport:
    """GET with a Range header from the source's checkpoint engine, received straight into the destination.

    http.client rather than an asynchronous client: it reads from the socket into the destination without a copy in
    between, three times as fast on loopback.
    """

    def __init__(
        self, token: str, trust: ssl.SSLContext | None = None, silence_seconds: float = SILENCE_SECONDS
    ) -> None:
        """`trust` is for sources whose url has https."""
        self._token = token
        self._trust = trust
        self._silence_seconds = silence_seconds

    def fetch(self, source: RankFile, offset: int, destination: memoryview) -> None:
        """See Transport."""
        url = urlsplit(source.url)
        path = f"{url.path}{file_route(source.file)}"
        last = offset + len(destination) - 1
        connection = self._open(url.scheme, url.hostname or "", url.port)
        try:
            connection.request(
                "GET", path, headers={"Authorization": f"Bearer {self._token}", "Range": f"bytes={offset}-{last}"}
            )
            response = connection.getresponse()
            if response.status != http.client.PARTIAL_CONTENT:
                reason = response.read(300).decode(errors="replace")
                raise TransferError(
                    f"GET {source.url}{path} (pod {source.pod}, rank {source.rank}) answered {response.status} instead "
                    f"of 206: {reason}"
                )
            _receive(response, destination)
        except (OSError, http.client.HTTPException) as error:
            raise TransferError(
                f"bytes {offset} to {last} of {source.url}{path} (pod {source.pod}, rank {source.rank}) did not "
                f"arrive: {type(error).__name__}: {error}"
            ) from error
        finally:
            connection.close()

    def _open(self, scheme: str, host: str, port: int | None) -> http.client.HTTPConnection:
        if scheme == "https":
            return http.client.HTTPSConnection(host, port, timeout=self._silence_seconds, context=self._trust)
        return http.client.HTTPConnection(host, port, timeout=self._silence_seconds)


def file_route(file: str) -> str:
    """The path under which a checkpoint engine serves weights/<slot>/<name> of its shared memory directory."""
    slot, name = Path(file).parts[-2:]
    return f"/v1/weights/files/{slot}/{name}"


def _receive(response: http.client.HTTPResponse, destination: memoryview) -> None:
    """Read the whole body; raises HTTPException if it is shorter than the destination."""
    received = 0
    while received < len(destination):
        count = response.readinto(destination[received:])
        if not count:
            raise http.client.HTTPException(f"the body ended after {received} of {len(destination)} bytes")
        received += count


def open_destination(path: Path, size_bytes: int, ranges: Sequence[FetchRange]) -> mmap.mmap:
    """Create the receiver's file, or take over the one that is there, and return it mapped for writing.

    The file is sparse; the room for the ranges is claimed here. Raises TandemError if the file system has not enough.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        if os.fstat(file).st_size != size_bytes:
            os.ftruncate(file, 0)
            os.ftruncate(file, size_bytes)
        _claim_room(path, file, ranges)
        return mmap.mmap(file, size_bytes)
    finally:
        os.close(file)


def _claim_room(path: Path, file: int, ranges: Sequence[FetchRange]) -> None:
    # Writing to a mapping without memory behind it would end the process with SIGBUS.
    try:
        for item in ranges:
            os.posix_fallocate(file, item.destination, item.size_bytes)
    except OSError as error:
        os.ftruncate(file, 0)
        needed = sum(item.size_bytes for item in ranges)
        file_system = os.statvfs(path.parent)
        free = file_system.f_bavail * file_system.f_frsize
        raise OutOfSpace(
            f"{path.parent}: no room for the weights that other pods hold: {needed} bytes needed, {free} free "
            f"({error.strerror}); raise hybrid.sharedMemory in the RLJob"
        ) from error


async def fetch_ranges(
    transport: Transport,
    sources: Sequence[RankFile],
    ranges: Sequence[FetchRange],
    destination: memoryview,
    connections: int = CONNECTIONS,
) -> dict[int, TransferError]:
    """Fetch the ranges into the receiver's file, at most `connections` at a time; `sources` is by rank.

    Returns an error for each rank that did not give all that was asked of it; the rest has arrived.
    """
    errors: dict[int, TransferError] = {}

    def fetch(item: FetchRange) -> None:
        try:
            transport.fetch(
                sources[item.rank], item.offset, destination[item.destination : item.destination + item.size_bytes]
            )
        except TransferError as error:
            log.warning("a byte range was not fetched", pod=sources[item.rank].pod, rank=item.rank, error=str(error))
            errors[item.rank] = error

    loop = asyncio.get_running_loop()
    pool = ThreadPoolExecutor(max_workers=connections, thread_name_prefix="fetch")
    try:
        await asyncio.gather(*(loop.run_in_executor(pool, fetch, item) for item in _alternating(ranges)))
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
    return errors


def _alternating(ranges: Sequence[FetchRange]) -> list[FetchRange]:
    """The first range of each source, then the second of each, ...: all sources give at the same time."""
    turns: dict[int, int] = {}
    keyed: list[tuple[int, int, FetchRange]] = []
    for item in ranges:
        turns[item.rank] = turns.get(item.rank, -1) + 1
        keyed.append((turns[item.rank], item.rank, item))
    return [item for _, _, item in sorted(keyed, key=lambda entry: entry[:2])]
