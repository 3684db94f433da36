"""Being a member of a job: a leased key that goes soon after its process."""

import asyncio
import time
import uuid
from types import TracebackType
from typing import Any, Self

import grpc
import grpc.aio

from tandem_core.coordination.keys import JobKeys
from tandem_core.coordination.lease import grant_lease, keep_alive, revoke_lease
from tandem_core.coordination.records import EngineStatus, Member, Role
from tandem_core.coordination.store import Store

DEFAULT_TTL_SECONDS = 10


def new_member(role: Role, name: str, pod: str, url: str = "", engine: EngineStatus | None = None) -> Member:
    """A member that starts now."""
    return Member(
        name=name, role=role, pod=pod, url=url, engine=engine, incarnation=uuid.uuid4().hex, started_at=time.time()
    )


class Membership:
    """Keeps members/<role>/<name> in etcd while its block runs; registers again when the lease was lost."""

    def __init__(self, store: Store, keys: JobKeys, member: Member, ttl_seconds: int = DEFAULT_TTL_SECONDS) -> None:
        self._store = store
        self._key = keys.member(member.role, member.name)
        self.member = member
        self._ttl_seconds = ttl_seconds
        self._lease = 0
        self._task: asyncio.Task[None] | None = None
        self._writing = asyncio.Lock()
        """A put that is repeated must not come after a newer one."""

    async def __aenter__(self) -> Self:
        lease = await self._register()
        self._task = asyncio.create_task(
            keep_alive(self._store, lease, self._ttl_seconds, self._register), name=f"membership {self._key}"
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        await revoke_lease(self._store, self._lease)

    async def update(self, **changes: Any) -> None:
        """Change fields of the member's record."""
        self.member = self.member.model_copy(update=changes)
        async with self._writing:
            try:
                await self._store.put(self._key, self.member, lease=self._lease)
            except grpc.aio.AioRpcError as error:
                if error.code() != grpc.StatusCode.NOT_FOUND:
                    raise
                await self._put_anew()  # the lease ran out while etcd was away

    async def _register(self) -> int:
        async with self._writing:
            return await self._put_anew()

    async def _put_anew(self) -> int:
        self._lease = await grant_lease(self._store, self._ttl_seconds)
        await self._store.put(self._key, self.member, lease=self._lease)
        return self._lease
