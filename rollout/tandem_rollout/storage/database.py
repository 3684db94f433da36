"""Transactions in SQLite or PostgreSQL."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any

import structlog
from sqlalchemy import URL, Connection, event, make_url, select
from sqlalchemy.exc import ArgumentError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, stop_after_delay, wait_exponential_jitter

from tandem_rollout.storage.errors import NotOwner, StorageAway, StorageError, translated_errors
from tandem_rollout.storage.tables import InfoRow

log = structlog.get_logger()

PATIENCE_SECONDS = 300.0
"""How long a transaction is tried again while the server is away or a disk is full; then the master is started anew."""
OWNER = "owner"
"""Name of the InfoRow that says which master may write."""

# One more than the master itself uses: those who look at its page are served one after another.
_SQLITE_CONNECTIONS = 3
_POSTGRESQL_CONNECTIONS = 5
_BUSY_TIMEOUT_SECONDS = 30
_POOL_TIMEOUT_SECONDS = 60
_COMMAND_TIMEOUT_SECONDS = 60
_CANCEL_SECONDS = 10
_READ_ONLY = "tandem_read_only"


@dataclass(slots=True)
class Database:
    """Where transactions come from. Two ways to commit, see `open_database`.

    An action that meets a database that is away, or full, is carried out again for up to `patience_seconds`. As the
    first time may have been committed after all, it has to come to the same when it is done twice.
    """

    label: str
    """The address without the password, for errors."""
    fast: AsyncEngine
    durable: AsyncEngine
    patience_seconds: float
    owner: int | None = None
    """The number under which this process took the database over; None: anybody may write."""
    problem: str = ""
    """What the database does not do now; empty: it works."""

    async def write[T](self, action: Callable[[AsyncConnection], Awaitable[T]], *, durable: bool = False) -> T:
        """The result of `action` in a transaction: committed afterwards, rolled back on an error.

        Raises StorageError.
        """

        async def checked(connection: AsyncConnection) -> T:
            if self.owner is not None:
                # Locked until the end: a takeover waits for this transaction, or this one sees it.
                owner = select(InfoRow.value).where(InfoRow.key == OWNER).with_for_update(read=True)
                if await connection.scalar(owner) != self.owner:
                    raise NotOwner(f"the replay buffer {self.label} has been taken over by another master")
            return await action(connection)

        return await self._carry_out(self.durable if durable else self.fast, checked)

    async def read[T](self, action: Callable[[AsyncConnection], Awaitable[T]]) -> T:
        """The result of `action` in a transaction that sees one state and does not keep writers out.

        Raises StorageError.
        """
        return await self._carry_out(self.fast.execution_options(**{_READ_ONLY: True}), action)

    async def dispose(self) -> None:
        """Close all connections."""
        for engine in {self.fast, self.durable}:
            await engine.dispose()

    async def _carry_out[T](self, engine: AsyncEngine, action: Callable[[AsyncConnection], Awaitable[T]]) -> T:
        async for attempt in AsyncRetrying(
            retry=retry_if_exception_type(StorageAway),
            stop=stop_after_delay(self.patience_seconds),
            wait=wait_exponential_jitter(multiplier=0.05, max=2.0),
            before_sleep=self._note_problem,
            reraise=True,
        ):
            with attempt, translated_errors(self.label):
                result = await _carry_through(_transact(engine, action))
                self.problem = ""
                return result
        raise AssertionError("tenacity returns or raises")

    def _note_problem(self, state: RetryCallState) -> None:
        self.problem = str(state.outcome.exception()) if state.outcome is not None else ""
        log.warning("no transaction, trying again", attempt=state.attempt_number, problem=self.problem)


async def _transact[T](engine: AsyncEngine, action: Callable[[AsyncConnection], Awaitable[T]]) -> T:
    async with engine.begin() as connection:
        return await action(connection)


async def _carry_through[T](transaction: Coroutine[Any, Any, T]) -> T:
    """The result of `transaction`, which comes to its end though this is cancelled.

    A transaction that is cancelled somewhere between its statements and its commit may stay open in a connection that
    nobody has any more: other writers then wait for its lock until the garbage collector finds it.
    """
    task = asyncio.create_task(transaction)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        done, _ = await asyncio.wait([task], timeout=_CANCEL_SECONDS)
        if not done:
            task.cancel()
        elif not task.cancelled():
            task.exception()  # is told to nobody: who waited for it is gone
        raise


def open_database(address: str, job_uid: str, patience_seconds: float) -> Database:
    """The database at `address`: sqlite:///path or postgresql://user:password@host/name. Connects later.

    SQLite commits fast ones without waiting for the disk: after a crash of the process nothing is missing, after a
    power cut the last moments may be. Durable ones wait (synchronous=FULL), and with them all that came before.
    On PostgreSQL both are durable, and each job has a schema of its own, so that jobs can share a database.
    """
    try:
        url = make_url(address)
    except ArgumentError as error:
        raise StorageError("the replay buffer's address must look like postgresql://user:password@host/name") from error
    label = url.render_as_string(hide_password=True)
    match url.get_backend_name():
        case "sqlite":
            url = url.set(drivername="sqlite+aiosqlite")
            return Database(label, _sqlite_engine(url, "NORMAL"), _sqlite_engine(url, "FULL"), patience_seconds)
        case "postgresql" | "postgres":
            engine = _postgresql_engine(url, job_uid)
            return Database(label, engine, engine, patience_seconds)
        case other:
            raise StorageError(f"the replay buffer can be kept in sqlite or postgresql, not in {other!r} ({label})")


def schema_name(job_uid: str) -> str:
    """The PostgreSQL schema of a job."""
    return f"tandem_{job_uid.replace('-', '_')}"


def _sqlite_engine(url: URL, synchronous: str) -> AsyncEngine:
    engine = create_async_engine(url, pool_size=_SQLITE_CONNECTIONS, max_overflow=0, pool_timeout=_POOL_TIMEOUT_SECONDS)

    @event.listens_for(engine.sync_engine, "connect")
    def _prepare(connection: Any, _record: Any) -> None:
        # Python's sqlite3 begins transactions too late for read-then-write; `_begin` below does it instead.
        connection.isolation_level = None
        cursor = connection.cursor()
        for pragma in (
            f"busy_timeout={_BUSY_TIMEOUT_SECONDS * 1000}",
            "journal_mode=WAL",
            f"synchronous={synchronous}",
            "foreign_keys=ON",
        ):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    @event.listens_for(engine.sync_engine, "begin")
    def _begin(connection: Connection) -> None:
        # IMMEDIATE: two writers wait for each other instead of failing half-way.
        read_only = connection.get_execution_options().get(_READ_ONLY, False)
        connection.exec_driver_sql("BEGIN" if read_only else "BEGIN IMMEDIATE")

    return engine


def _postgresql_engine(url: URL, job_uid: str) -> AsyncEngine:
    query = dict(url.query)
    if "sslmode" in query:  # libpq's name for what asyncpg calls ssl
        query["ssl"] = query.pop("sslmode")
    return create_async_engine(
        url.set(drivername="postgresql+asyncpg", query=query),
        pool_size=_POSTGRESQL_CONNECTIONS,
        max_overflow=0,
        pool_timeout=_POOL_TIMEOUT_SECONDS,
        pool_pre_ping=True,
        connect_args={
            "server_settings": {"search_path": f'"{schema_name(job_uid)}"'},
            "command_timeout": _COMMAND_TIMEOUT_SECONDS,
        },
    )
