"""A thin typed layer over etcd3aio: records in, records out, patient while etcd is away."""

from collections.abc import Awaitable, Callable, Sequence
from types import TracebackType
from typing import Any, Self

import structlog
from etcd3aio import Etcd3Client, EtcdConnectionError, EtcdTransientError, prefix_range_end
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_delay, wait_exponential_jitter

from tandem_core.coordination.records import Record
from tandem_core.errors import TandemError

log = structlog.get_logger()

CALL_TIMEOUT_SECONDS = 5.0
PATIENCE_SECONDS = 300.0
"""How long a call goes on trying while etcd is away: longer than its pod takes to come up elsewhere. Who gives up is
started anew, and asks the same etcd again."""
RECONNECT_SECONDS = 1.0
"""Longest time between two attempts to connect."""


class EtcdUnreachable(TandemError):
    """etcd did not answer in time."""


class Store:
    """Typed access to etcd over one channel; an async context manager.

    Calls are repeated for up to PATIENCE_SECONDS while etcd is away, then raise EtcdUnreachable. All of them may be
    repeated safely: they set values, or compare before they set.
    """

    def __init__(self, endpoints: str, *, patience_seconds: float = PATIENCE_SECONDS) -> None:
        """`endpoints`: host:port, several separated by commas."""
        self.endpoints = endpoints
        self.client = Etcd3Client(
            endpoints.split(","), rpc_max_attempts=1, watch_max_reconnect_backoff_seconds=RECONNECT_SECONDS
        )
        # Else gRPC waits up to 120 s: longer than the leases last that an etcd which is back has just renewed.
        self.client._manager.grpc_options.append(("grpc.max_reconnect_backoff_ms", int(1000 * RECONNECT_SECONDS)))
        self._patience_seconds = patience_seconds

    async def __aenter__(self) -> Self:
        await self.client.connect()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.client.close()

    @property
    def kv(self) -> Any:
        """etcd3aio's key-value service, for transactions."""
        if self.client.kv is None:
            raise RuntimeError("Store is used outside its `async with` block")
        return self.client.kv

    async def call[T](self, operation: Callable[[], Awaitable[T]], *, patience_seconds: float | None = None) -> T:
        """The result of `operation`, repeated while etcd is away."""
        patience = self._patience_seconds if patience_seconds is None else patience_seconds
        try:
            async for attempt in AsyncRetrying(
                retry=retry_if_exception_type((EtcdConnectionError, EtcdTransientError, TimeoutError)),
                stop=stop_after_delay(patience),
                wait=wait_exponential_jitter(multiplier=0.05, max=1.0),
                reraise=True,
            ):
                with attempt:
                    return await operation()
        except (EtcdConnectionError, EtcdTransientError, TimeoutError) as error:
            raise EtcdUnreachable(
                f"etcd at {self.endpoints} did not answer for {patience:.0f} s ({error}): check that it runs and "
                "that this machine reaches it"
            ) from error
        raise AssertionError("tenacity returns or raises")

    async def get[R: Record](self, key: str, kind: type[R]) -> R | None:
        """The record at `key`, or None."""
        response = await self.call(lambda: self.kv.get(key, timeout=CALL_TIMEOUT_SECONDS))
        return kind.model_validate_json(response.kvs[0].value) if response.kvs else None

    async def put(self, key: str, record: Record, *, lease: int = 0) -> None:
        """Set `key`; with a lease it goes when the lease goes."""
        value = encode(record)
        await self.call(lambda: self.kv.put(key, value, lease=lease, timeout=CALL_TIMEOUT_SECONDS))

    async def delete(self, key: str) -> None:
        """Remove `key` if it is there."""
        await self.call(lambda: self.kv.delete(key, timeout=CALL_TIMEOUT_SECONDS))

    async def delete_prefix(self, prefix: str) -> None:
        """Remove all keys that begin with `prefix`."""
        end = prefix_range_end(prefix)
        await self.call(lambda: self.kv.delete(prefix, range_end=end, timeout=CALL_TIMEOUT_SECONDS))

    async def list_prefix[R: Record](self, prefix: str, kind: type[R]) -> dict[str, R]:
        """All records whose key begins with `prefix`, by the rest of their key."""
        return (await self.snapshot(prefix, kind))[0]

    async def snapshot[R: Record](self, prefix: str, kind: type[R]) -> tuple[dict[str, R], int]:
        """The records below `prefix` by the rest of their key, and the revision of etcd they were read at."""
        end = prefix_range_end(prefix)
        response = await self.call(lambda: self.kv.get(prefix, range_end=end, timeout=CALL_TIMEOUT_SECONDS))
        records = {kv.key.decode().removeprefix(prefix): kind.model_validate_json(kv.value) for kv in response.kvs}
        return records, response.header.revision

    async def transact(self, compare: Sequence[Any], success: Sequence[Any], failure: Sequence[Any] = ()) -> Any:
        """etcd's TxnResponse: `success` was carried out if all of `compare` held, else `failure`."""
        return await self.call(lambda: self.kv.txn(compare, success, failure, timeout=CALL_TIMEOUT_SECONDS))

    async def wait_until_reachable(self, timeout_seconds: float) -> None:
        """Return as soon as etcd answers; raises EtcdUnreachable after `timeout_seconds`."""
        await self.call(
            lambda: self.kv.get("/tandem/reachable", timeout=min(CALL_TIMEOUT_SECONDS, timeout_seconds)),
            patience_seconds=timeout_seconds,
        )


def encode(record: Record) -> bytes:
    """The record's value in etcd."""
    return record.model_dump_json().encode()
