"""Being the one master of a job: a leased key says that somebody leads, a lasting one who did last, and fences."""

import asyncio
import uuid
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self

import structlog
from etcd3aio import prefix_range_end
from etcd3aio.kv import KVService

from tandem_core.coordination.keys import JobKeys
from tandem_core.coordination.lease import grant_lease, keep_alive, revoke_lease
from tandem_core.coordination.mirror import Mirror
from tandem_core.coordination.records import Record
from tandem_core.coordination.store import Store, encode
from tandem_core.errors import TandemError

log = structlog.get_logger()

DEFAULT_TTL_SECONDS = 10


class LeadershipLost(TandemError):
    """Another master leads now; nothing was written."""


class _Leader(Record):
    name: str
    incarnation: str
    """Another one for each process: nobody else ever writes the same fence."""


class Leadership:
    """An async context manager: entering it waits until this process leads.

    A process with the same name as the leader takes over at once: it is the same pod's container, started again.
    Every write is one transaction that checks the fence, so a deposed leader cannot write. A lease that ran out while
    etcd was away deposes nobody: who finds his own fence goes on leading.
    """

    def __init__(self, store: Store, keys: JobKeys, name: str, ttl_seconds: int = DEFAULT_TTL_SECONDS) -> None:
        self._store = store
        self._keys = keys
        self._leader = _Leader(name=name, incarnation=uuid.uuid4().hex)
        self._ttl_seconds = ttl_seconds
        self._lease = 0
        self._task: asyncio.Task[None] | None = None
        self.token = 0
        """Grows with each change of leader."""
        self.lost = asyncio.Event()
        """Set when another master has taken over."""

    async def __aenter__(self) -> Self:
        async with Mirror(self._store, self._keys.leader, _Leader) as leader:
            while not await self._try():
                await leader.wait_for(lambda values: "" not in values or values[""].name == self._leader.name, None)
                if leader.value is not None:
                    await self._store.delete(self._keys.leader)
        self._task = asyncio.create_task(
            keep_alive(self._store, self._lease, self._ttl_seconds, self._lead_again), name="leadership"
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        await revoke_lease(self._store, self._lease)

    async def put(self, key: str, record: Record) -> None:
        """Set one key; raises LeadershipLost."""
        await self.write({key: record})

    async def write(
        self, puts: Mapping[str, Record], deletes: Sequence[str] = (), delete_prefixes: Sequence[str] = ()
    ) -> None:
        """Set and delete keys in one transaction; raises LeadershipLost, and then nothing is changed."""
        operations = [KVService.txn_op_put(key, encode(record)) for key, record in puts.items()]
        operations += [KVService.txn_op_delete(key) for key in deletes]
        operations += [
            KVService.txn_op_delete(prefix, range_end=prefix_range_end(prefix)) for prefix in delete_prefixes
        ]
        response = await self._store.transact([self._is_mine()], operations)
        if not response.succeeded:
            raise LeadershipLost(
                f"{self._leader.name} no longer leads (fencing token {self.token}): another master took over"
            )

    async def _try(self) -> bool:
        """Whether this process leads now; only if nobody did."""
        self._lease = await grant_lease(self._store, self._ttl_seconds)
        nobody = KVService.txn_compare_create_revision(self._keys.leader, 0)
        fence = KVService.txn_op_put(self._keys.fence, encode(self._leader))
        seen = [KVService.txn_op_get(self._keys.fence)]
        response = await self._store.transact([nobody], [self._put_lease(self._lease), fence], seen)
        if response.succeeded:
            self.token = response.header.revision
            return True
        # The answer to a first try may have been lost: then the fence is this process's own.
        fences = response.responses[0].response_range.kvs
        if not fences or fences[0].value != encode(self._leader):
            await revoke_lease(self._store, self._lease)
            return False
        self.token = fences[0].mod_revision
        return True

    async def _lead_again(self) -> int | None:
        """The lease has expired: the new one with which this process goes on leading; None if another one leads."""
        lease = await grant_lease(self._store, self._ttl_seconds)
        if (await self._store.transact([self._is_mine()], [self._put_lease(lease)])).succeeded:
            log.warning("the lease of the leader had run out; nobody else leads, so this one goes on", token=self.token)
            self._lease = lease
            return lease
        self.lost.set()
        return None

    def _is_mine(self) -> Any:
        return KVService.txn_compare_value(self._keys.fence, encode(self._leader))

    def _put_lease(self, lease: int) -> Any:
        return KVService.txn_op_put(self._keys.leader, encode(self._leader), lease=lease)
