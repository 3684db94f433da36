"""An etcd lease that is kept alive for as long as its block runs."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

import grpc.aio
import structlog
from etcd3aio import EtcdError

from tandem_core.coordination.store import CALL_TIMEOUT_SECONDS, EtcdUnreachable, Store

log = structlog.get_logger()


async def grant_lease(store: Store, ttl_seconds: int) -> int:
    """The id of a new lease."""
    lease = store.client.lease
    if lease is None:
        raise RuntimeError("leases need a Store inside its `async with` block")
    response = await store.call(lambda: lease.grant(ttl_seconds, timeout=CALL_TIMEOUT_SECONDS))
    return response.ID


async def revoke_lease(store: Store, lease_id: int) -> None:
    """Remove the lease and its keys at once; if etcd is away, the lease's time does it."""
    lease = store.client.lease
    if lease is None:
        return
    with contextlib.suppress(grpc.aio.AioRpcError, EtcdError, TimeoutError):
        await lease.revoke(lease_id, timeout=1.0, max_attempts=1)


async def keep_alive(store: Store, lease_id: int, ttl_seconds: int, lost: Callable[[], Awaitable[int | None]]) -> None:
    """Renew the lease for ever. When etcd says that it has expired, `lost` is called; it returns the id of the lease
    to go on with, or None to end. It is called again if etcd goes away meanwhile."""
    while True:
        await asyncio.sleep(ttl_seconds / 3)
        if await _renew(store, lease_id, ttl_seconds):
            continue
        log.warning("lease expired", lease=lease_id, ttl_seconds=ttl_seconds)
        try:
            replacement = await lost()
        except (EtcdUnreachable, grpc.aio.AioRpcError) as error:  # the new lease, too, may have run out already
            log.warning("cannot replace the lease, trying again", lease=lease_id, reason=str(error))
            continue
        if replacement is None:
            return
        lease_id = replacement


async def _renew(store: Store, lease_id: int, ttl_seconds: int) -> bool:
    """Whether the lease still lives; while etcd is away that is not known and counts as yes."""
    lease = store.client.lease
    if lease is None:
        return True
    stream = lease.keep_alive(lease_id)
    try:
        async with asyncio.timeout(ttl_seconds / 3):
            async for response in stream:
                return bool(response.TTL > 0)
    except (grpc.aio.AioRpcError, TimeoutError) as error:
        reason = error.code().name if isinstance(error, grpc.aio.AioRpcError) else "no answer"
        log.warning("cannot renew the lease, trying again", lease=lease_id, reason=reason)
    finally:
        stream.cancel()
    return True
