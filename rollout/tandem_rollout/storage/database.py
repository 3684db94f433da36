"""Connections to SQLite or PostgreSQL, and what their errors mean."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any

from sqlalchemy import URL, Connection, event, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from tandem_core.errors import TandemError

_BUSY_TIMEOUT_SECONDS = 30
_POOL_TIMEOUT_SECONDS = 60
_COMMAND_TIMEOUT_SECONDS = 60
_READ_ONLY = "tandem_read_only"


class StorageError(TandemError):
    """The replay buffer cannot be read or written."""


@dataclass(frozen=True, slots=True)
class Database:
    """Where transactions come from. Two ways to commit, see `open_database`."""

    label: str
    """The address without the password, for errors."""
    fast: AsyncEngine
    durable: AsyncEngine

    @asynccontextmanager
    async def writing(self, *, durable: bool = False) -> AsyncIterator[AsyncConnection]:
        """A transaction: committed at the end of the block, rolled back on an error. Raises StorageError."""
        engine = self.durable if durable else self.fast
        with translated_errors(self.label):
            async with engine.begin() as connection:
                yield connection

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[AsyncConnection]:
        """A transaction that sees one state and does not keep writers out. Raises StorageError."""
        with translated_errors(self.label):
            async with self.fast.execution_options(**{_READ_ONLY: True}).connect() as connection:
                yield connection

    async def dispose(self) -> None:
        """Close all connections."""
        for engine in {self.fast, self.durable}:
            await engine.dispose()


def open_database(address: str, job_uid: str) -> Database:
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
            return Database(label, _sqlite_engine(url, "NORMAL"), _sqlite_engine(url, "FULL"))
        case "postgresql" | "postgres":
            engine = _postgresql_engine(url, job_uid)
            return Database(label, engine, engine)
        case other:
            raise StorageError(f"the replay buffer can be kept in sqlite or postgresql, not in {other!r} ({label})")


def schema_name(job_uid: str) -> str:
    """The PostgreSQL schema of a job."""
    return f"tandem_{job_uid.replace('-', '_')}"


@contextmanager
def translated_errors(label: str) -> Iterator[None]:
    """Turns the database's errors into StorageError with a remedy."""
    try:
        yield
    except (DBAPIError, OSError) as error:
        raise StorageError(f"the replay buffer {label} failed: {describe_error(error)}") from error
    except SQLAlchemyError as error:
        raise StorageError(f"the replay buffer {label} failed: {error}") from error


def describe_error(error: DBAPIError | OSError) -> str:
    """What the database said and what to do about it."""
    said = str(error.orig) if isinstance(error, DBAPIError) else str(error)
    remedies = {
        "disk is full": "the volume is full: make it larger (storage.size), then start the job again; nothing is lost",
        "No space left": "the volume is full: make it larger, then start the job again; nothing is lost",
        "disk I/O error": "the volume cannot be written: check that it is not full and its device healthy",
        "unable to open": "check that the directory exists and may be written",
        "readonly": "the file or its directory may not be written: check the volume's permissions",
        "locked": "another process holds the database: only one master may use it",
        "not a database": "the file is damaged or something else: move it away, or name another one",
        "malformed": "the file is damaged: restore it, or move it away and start the job anew",
    }
    for mark, remedy in remedies.items():
        if mark in said:
            return f"{said}; {remedy}"
    return f"{said}; check that the server is reachable and the user may create schemas and tables"


def _sqlite_engine(url: URL, synchronous: str) -> AsyncEngine:
    engine = create_async_engine(url, pool_size=2, max_overflow=0, pool_timeout=_POOL_TIMEOUT_SECONDS)

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
        pool_size=4,
        max_overflow=0,
        pool_timeout=_POOL_TIMEOUT_SECONDS,
        pool_pre_ping=True,
        connect_args={
            "server_settings": {"search_path": f'"{schema_name(job_uid)}"'},
            "command_timeout": _COMMAND_TIMEOUT_SECONDS,
        },
    )
