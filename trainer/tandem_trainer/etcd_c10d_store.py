"""A torch.distributed Store on etcd: what torchrun's agents exchange outlives each of them."""

import asyncio
from collections.abc import Sequence
from datetime import timedelta

from etcd3aio.kv import KVService
from tandem_core.coordination.mirror import Mirror
from tandem_core.coordination.records import Record
from tandem_core.coordination.store import PATIENCE_SECONDS, Store, encode
from torch import distributed

from tandem_trainer.event_loop_thread import EventLoopThread


class _Value(Record):
    """A value of the store; bytes as Latin-1 text, which any bytes can be."""

    text: str


class EtcdC10dStore(distributed.Store):
    """Keys below `prefix`. Only for the few small values of a rendezvous; ranks talk through a TCPStore of their own.

    torch calls the methods through C++, which takes Python exceptions as they are.
    """

    def __init__(self, thread: EventLoopThread, store: Store, prefix: str) -> None:
        super().__init__()
        self._thread = thread
        self._store = store
        self._prefix = prefix

    def set(self, key: str, value: str | bytes) -> None:
        """Set a key."""
        self._thread.call(self._store.put(self._prefix + key, _value(value)), 2 * PATIENCE_SECONDS)

    def get(self, key: str) -> bytes:
        """The key's value, as soon as there is one; raises TimeoutError after the store's timeout."""
        timeout_seconds = self.timeout.total_seconds()
        return self._thread.call(self._wait_for(key, timeout_seconds), timeout_seconds + PATIENCE_SECONDS)

    def wait(self, keys: Sequence[str], timeout: timedelta | None = None) -> None:
        """Return as soon as all keys are there; raises TimeoutError."""
        timeout_seconds = (timeout or self.timeout).total_seconds()
        self._thread.call(self._wait_for_all(keys, timeout_seconds), timeout_seconds + PATIENCE_SECONDS)

    def check(self, keys: Sequence[str]) -> bool:
        """Whether all keys are there."""
        return self._thread.call(self._check(keys), 2 * PATIENCE_SECONDS)

    def add(self, key: str, num: int) -> int:
        """Add to a counter that starts at 0; returns the sum."""
        return self._thread.call(self._add(self._prefix + key, num), 2 * PATIENCE_SECONDS)

    async def _wait_for(self, key: str, timeout_seconds: float) -> bytes:
        async with asyncio.timeout(timeout_seconds), Mirror(self._store, self._prefix + key, _Value) as mirror:
            value = await mirror.wait_for(lambda values: values.get(""), None)
        return value.text.encode("latin-1")

    async def _wait_for_all(self, keys: Sequence[str], timeout_seconds: float) -> None:
        async with asyncio.TaskGroup() as group:
            for key in keys:
                group.create_task(self._wait_for(key, timeout_seconds))

    async def _check(self, keys: Sequence[str]) -> bool:
        values = [await self._store.get(self._prefix + key, _Value) for key in keys]
        return all(value is not None for value in values)

    async def _add(self, key: str, number: int) -> int:
        while True:
            found = await self._store.get(key, _Value)
            total = int(found.text if found is not None else 0) + number
            unchanged = (
                KVService.txn_compare_value(key, encode(found))
                if found is not None
                else KVService.txn_compare_create_revision(key, 0)
            )
            # A repeated call whose first answer was lost would count twice: a barrier that is passed early by a lost
            # connection to etcd is caught by the ranks' own process group.
            put = KVService.txn_op_put(key, encode(_Value(text=str(total))))
            if (await self._store.transact([unchanged], [put])).succeeded:
                return total


def _value(value: str | bytes) -> _Value:
    return _Value(text=value if isinstance(value, str) else value.decode("latin-1"))
