"""A local copy of a part of etcd that is kept current by a watch."""

import asyncio
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Self

import grpc.aio
import structlog
from etcd3aio import prefix_range_end

from tandem_core.coordination.records import Record
from tandem_core.coordination.store import Store
from tandem_core.errors import TandemError

log = structlog.get_logger()

BROKEN_WATCH_SECONDS = 0.25
"""Between a watch that broke and the next one."""

_PUT = 0  # mvccpb.Event.EventType


class MirrorFailed(TandemError):
    """The watch ended for good: etcd refuses it, or a value could not be read."""


class Mirror[R: Record]:
    """All records below `prefix` (a key is a prefix of itself), kept current; an async context manager.

    Entering it returns after the first listing. It is level-triggered: what counts is `values`, and changes that
    follow each other quickly may be seen as one. It survives restarts of etcd and compaction by listing again.
    """

    def __init__(self, store: Store, prefix: str, kind: type[R]) -> None:
        self._store = store
        self._prefix = prefix
        self._kind = kind
        self.values: dict[str, R] = {}
        self._changed = asyncio.Event()
        self._failure: BaseException | None = None
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        revision = await self._list()
        self._task = asyncio.create_task(self._follow(revision), name=f"mirror {self._prefix}")
        self._task.add_done_callback(self._ended)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    @property
    def value(self) -> R | None:
        """For a mirror of one key: its record, or None."""
        return self.values.get("")

    async def wait_for[T](self, condition: Callable[[Mapping[str, R]], T | None], timeout_seconds: float | None) -> T:
        """The first result of `condition` over `values` that is neither None nor False.

        It is tried now and after each change. Raises TimeoutError after `timeout_seconds`.
        """
        async with asyncio.timeout(timeout_seconds):
            while True:
                changed = self._changed
                if self._failure is not None:
                    raise MirrorFailed(f"the watch of {self._prefix} in etcd ended: {self._failure}") from self._failure
                result = condition(self.values)
                if result is not None and result is not False:
                    return result
                await changed.wait()

    async def next_change(self, timeout_seconds: float | None = None) -> None:
        """Return after the next change; raises TimeoutError after `timeout_seconds`."""
        now = self._changed
        await self.wait_for(lambda _: self._changed is not now, timeout_seconds)

    async def _list(self) -> int:
        values, revision = await self._store.snapshot(self._prefix, self._kind)
        if values != self.values:
            self.values = values
            self._notify()
        return revision

    async def _follow(self, revision: int) -> None:
        while True:
            try:
                await self._watch(revision + 1)
            except grpc.aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.INTERNAL:
                    raise
                # The connection broke just as the watch was asked for; etcd3aio knows other ends of connections.
                log.warning("watch broken, listing again", prefix=self._prefix, reason=error.debug_error_string())
                await asyncio.sleep(BROKEN_WATCH_SECONDS)
            revision = await self._list()

    async def _watch(self, start_revision: int) -> None:
        """Apply changes until the watch has to start anew from a listing."""
        watch = self._store.client.watch
        if watch is None:
            raise RuntimeError("Mirror is used outside its store's `async with` block")
        created = False
        async for response in watch.watch(
            self._prefix, range_end=prefix_range_end(self._prefix), start_revision=start_revision
        ):
            if response.compact_revision or response.canceled:
                reason = response.cancel_reason or "compaction"  # or a token that is void: listing gets a new one
                log.info("watch lost, listing again", prefix=self._prefix, reason=reason)
                return
            if response.created and created:
                # etcd3aio reconnected; events between its last response and now may be missing.
                return
            created = created or response.created
            if response.events:
                self._apply(response.events)

    def _apply(self, events: Any) -> None:
        for event in events:
            key = event.kv.key.decode().removeprefix(self._prefix)
            if event.type == _PUT:
                self.values[key] = self._kind.model_validate_json(event.kv.value)
            else:
                self.values.pop(key, None)
        self._notify()

    def _notify(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    def _ended(self, task: "asyncio.Task[None]") -> None:
        if not task.cancelled():
            self._failure = task.exception()
            self._notify()
