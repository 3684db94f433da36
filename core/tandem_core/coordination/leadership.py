"""Being the one master of a job: a leased key whose creation revision is the fencing token."""

import asyncio
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Self

from etcd3aio import prefix_range_end
from etcd3aio.kv import KVService

from tandem_core.coordination.keys import JobKeys
from tandem_core.coordination.lease import grant_lease, keep_alive, revoke_lease
from tandem_core.coordination.mirror import Mirror
from tandem_core.coordination.records import Record
from tandem_core.coordination.store import Store, encode
from tandem_core.errors import TandemError

DEFAULT_TTL_SECONDS = 10


class LeadershipLost(TandemError):
    """Another master leads now; nothing was written."""


class _Leader(Record):
    name: str


class Leadership:
    """An async context manager: entering it waits until this process leads.

    A process with the same name as the leader takes over at once: it is the same pod's container, started again.
    Every write is one transaction that checks the fencing token, so a deposed leader cannot write.
    """

    def __init__(self, store: Store, keys: JobKeys, name: str, ttl_seconds: int = DEFAULT_TTL_SECONDS) -> None:
        self._store = store
        self._keys = keys
        self._leader = _Leader(name=name)
        self._ttl_seconds = ttl_seconds
        self._lease = 0
        self._task: asyncio.Task[None] | None = None
        self.token = 0
        """Grows with each change of leader."""
        self.lost = asyncio.Event()
        """Set when the lease expired."""

    async def __aenter__(self) -> Self:
        self._lease = await grant_lease(self._store, self._ttl_seconds)
        self._task = asyncio.create_task(
            keep_alive(self._store, self._lease, self._ttl_seconds, self._expired), name="leadership"
        )
        async with Mirror(self._store, self._keys.leader, _Leader) as leader:
            while not await self._try():
                await leader.wait_for(lambda values: "" not in values or values[""].name == self._leader.name, None)
                if leader.value is not None:
                    await self._store.delete(self._keys.leader)
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
        mine = KVService.txn_compare_create_revision(self._keys.leader, self.token)
        response = await self._store.transact([mine], operations)
        if not response.succeeded:
            raise LeadershipLost(
                f"{self._leader.name} no longer leads (fencing token {self.token}): another master took over"
            )

    async def _try(self) -> bool:
        put = KVService.txn_op_put(self._keys.leader, encode(self._leader), lease=self._lease)
        response = await self._store.transact(
            [KVService.txn_compare_create_revision(self._keys.leader, 0)],
            [put],
            [KVService.txn_op_get(self._keys.leader)],
        )
        if response.succeeded:
            self.token = response.header.revision
        else:
            # The answer to a first try may have been lost: then the key carries this lease.
            held = [kv for reply in response.responses for kv in reply.response_range.kvs if kv.lease == self._lease]
            if not held:
                return False
            self.token = held[0].create_revision
        return True

    async def _expired(self) -> None:
        self.lost.set()
