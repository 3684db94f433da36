"""A thin typed layer over etcd3aio: records in, records out, patient while etcd is away."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from types import TracebackType
from typing import Any, Self

import grpc
import grpc.aio
import structlog
from etcd3aio import (
    Etcd3Client,
    EtcdConnectionError,
    EtcdPermissionDeniedError,
    EtcdTransientError,
    EtcdUnauthenticatedError,
    prefix_range_end,
)
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_delay, wait_exponential_jitter

from tandem_core.coordination.access import DIRECTORY_VARIABLE, EtcdAccess
from tandem_core.coordination.records import Record
from tandem_core.errors import TandemError

log = structlog.get_logger()

CALL_TIMEOUT_SECONDS = 5.0
PATIENCE_SECONDS = 300.0
"""How long a call goes on trying while etcd is away: longer than its pod takes to come up elsewhere. Who gives up is
started anew, and asks the same etcd again."""
RECONNECT_SECONDS = 1.0
"""Longest time between two attempts to connect."""


_NOT_ENABLED = "authentication is not enabled"
_WRONG_PASSWORD = "invalid user ID or password"  # noqa: S105 - etcd's words
_USER_ASKED_FOR = "user name is empty"
_STALE = ("revision of auth store is old", "revision in header is old", "invalid auth token")
"""What etcd says of a token that was good: it has expired, etcd was restarted, or users have changed since."""


class EtcdUnreachable(TandemError):
    """etcd did not answer in time."""


class EtcdRefused(EtcdUnreachable):
    """etcd answers, but does not let this program in, or not where it wants to go. Another start may find it mended."""


class _StaleToken(Exception):
    """To be repeated with a new token."""


_PASSING = (EtcdConnectionError, EtcdTransientError, TimeoutError, _StaleToken)


class Store:
    """Typed access to etcd over one channel; an async context manager.

    Calls are repeated for up to PATIENCE_SECONDS while etcd is away, then raise EtcdUnreachable; they raise EtcdRefused
    if etcd does not let the user in. All of them may be repeated safely: they set values, or compare before they set.
    """

    def __init__(self, access: EtcdAccess | str, *, patience_seconds: float = PATIENCE_SECONDS) -> None:
        """`access`: what etcd asks for; or host:port of one that asks for nothing."""
        self.access = EtcdAccess(endpoints=access) if isinstance(access, str) else access
        self.client = Etcd3Client(
            self.access.endpoints.split(","),
            rpc_max_attempts=1,
            watch_max_reconnect_backoff_seconds=RECONNECT_SECONDS,
            # Several addresses have no name in common; each one's certificate must stand for the first.
            tls_server_name=self.access.hosts[0] if len(self.access.hosts) > 1 else None,
            ca_cert=_pem(self.access.ca_certificate),
            cert_chain=_pem(self.access.certificate),
            cert_key=_pem(self.access.key),
        )
        self.client._manager.target = self.access.target
        self.client._manager.grpc_options += [
            # Else gRPC waits up to 120 s: longer than the leases last that an etcd which is back has just renewed.
            ("grpc.max_reconnect_backoff_ms", int(1000 * RECONNECT_SECONDS)),
            ("grpc.dns_min_time_between_resolutions_ms", int(1000 * RECONNECT_SECONDS)),
        ]
        self._patience_seconds = patience_seconds
        self.token: str | None = None
        """What etcd gave for the password; None: not asked yet, empty: it wants none."""
        self._authenticating = asyncio.Lock()

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
        """The result of `operation`, repeated while etcd is away, and with a new token when the old one is void."""
        patience = self._patience_seconds if patience_seconds is None else patience_seconds
        try:
            async for attempt in AsyncRetrying(
                retry=retry_if_exception_type(_PASSING),
                stop=stop_after_delay(patience),
                wait=wait_exponential_jitter(multiplier=0.05, max=1.0),
                reraise=True,
            ):
                with attempt:
                    return await self._call_once(operation)
        except _PASSING as error:
            raise EtcdUnreachable(
                f"etcd at {self.access.endpoints} did not answer for {patience:.0f} s ({error}): check that it runs, "
                "that this machine reaches it, and that both use TLS or neither"
            ) from error
        raise AssertionError("tenacity returns or raises")

    async def _call_once[T](self, operation: Callable[[], Awaitable[T]]) -> T:
        if self.access.username and self.token is None:
            await self._authenticate(None)
        token = self.token
        try:
            return await operation()
        except EtcdPermissionDeniedError as error:
            if not self.access.username:  # etcd took the certificate's common name for a user
                raise self._asks_for_user() from error
            if token == "":  # authentication was off, and is on now: the same
                await self._authenticate(token)
                raise _StaleToken(str(error)) from error
            raise EtcdRefused(
                f"etcd at {self.access.endpoints} does not let user {self.access.username!r} do this ({error}): a "
                "job's user reaches only the keys of its own job; the operator's must have the role root"
            ) from error
        except (EtcdUnauthenticatedError, grpc.aio.AioRpcError) as error:
            if not self.access.username and _says(error, _USER_ASKED_FOR):
                raise self._asks_for_user() from error
            if not self.access.username or not _says(error, _USER_ASKED_FOR, *_STALE):
                raise
            await self._authenticate(token)
            raise _StaleToken(str(error)) from error

    def _asks_for_user(self) -> EtcdRefused:
        return EtcdRefused(
            f"etcd at {self.access.endpoints} asks for a user and a password, and this program has none: set "
            f"{DIRECTORY_VARIABLE} to a directory with the files username and password"
        )

    async def _authenticate(self, stale: str | None) -> None:
        """Get a token in the place of `stale`, unless another call has done so meanwhile. Raises EtcdRefused."""
        async with self._authenticating:
            if self.client.auth is None:
                raise RuntimeError("Store is used outside its `async with` block")
            if self.token != stale:
                return
            username, password = self.access.username, self.access.password
            try:
                response = await self.client.auth.authenticate(username, password, timeout=CALL_TIMEOUT_SECONDS)
            except grpc.aio.AioRpcError as error:
                if _says(error, _WRONG_PASSWORD):
                    raise EtcdRefused(
                        f"etcd at {self.access.endpoints} does not know user {username!r} with this password: compare "
                        f"the Secret behind {DIRECTORY_VARIABLE} with `etcdctl user get {username}`; the operator sets "
                        "a job's password again when it reconciles the job"
                    ) from error
                if not _says(error, _NOT_ENABLED):
                    raise
                log.warning("etcd asks for no password: every program that reaches it reads and writes all jobs")
                self.token = ""
                return
            self.token = response.token
            self.client.set_token(response.token)

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
        """Return as soon as etcd answers, and lets this user in; raises EtcdUnreachable after `timeout_seconds`."""

        async def ask() -> None:
            try:
                await self.kv.get("/tandem/reachable", timeout=min(CALL_TIMEOUT_SECONDS, timeout_seconds))
            except EtcdPermissionDeniedError:
                if not self.access.username:
                    raise
                # A job's user may not read this: that is an answer, too.

        await self.call(ask, patience_seconds=timeout_seconds)


def encode(record: Record) -> bytes:
    """The record's value in etcd."""
    return record.model_dump_json().encode()


def _pem(text: str) -> bytes | None:
    return text.encode() if text else None


def _says(error: Exception, *texts: str) -> bool:
    """Whether etcd's answer is one of these."""
    message = (error.details() or "") if isinstance(error, grpc.aio.AioRpcError) else str(error)
    return any(text in message for text in texts)
