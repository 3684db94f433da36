"""What the errors of SQLite and PostgreSQL mean: whether they may pass, and what a person can do."""

from collections.abc import Iterator
from contextlib import contextmanager

import asyncpg
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from tandem_core.errors import TandemError

_PASSING_MARKS = ("disk is full", "disk I/O error", "locked")
"""In SQLite's messages."""
_PASSING_STATES = ("08", "40", "53", "55P03", "57P")
"""PostgreSQL's SQLSTATE: no connection, to be repeated, no room, locked, shutting down or starting."""


class StorageError(TandemError):
    """The replay buffer cannot be read or written."""


class StorageAway(StorageError):
    """The database's server is away, or its disk is full: that may pass."""


class NotOwner(StorageError):
    """Another master has taken the replay buffer over; nothing was written."""


@contextmanager
def translated_errors(label: str) -> Iterator[None]:
    """Turns the database's errors into StorageError, or StorageAway, with a remedy."""
    try:
        yield
    except (SQLAlchemyError, OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        kind = StorageAway if _may_pass(error) else StorageError
        raise kind(f"the replay buffer {label} failed: {describe_error(error)}") from error


def _may_pass(error: Exception) -> bool:
    if isinstance(error, OSError | PoolTimeout):
        return True
    if isinstance(error, DBAPIError) and error.connection_invalidated:
        return True
    original = error.orig if isinstance(error, DBAPIError) else error
    state = getattr(original, "sqlstate", None) or ""
    return state.startswith(_PASSING_STATES) or any(mark in str(original) for mark in _PASSING_MARKS)


def describe_error(error: Exception) -> str:
    """What the database said and what to do about it."""
    said = str(error.orig) if isinstance(error, DBAPIError) else str(error)
    remedies = {
        "disk is full": "the volume is full: make room, or make it larger (storage.size); nothing is lost",
        "No space left": "the volume is full: make room, or make it larger; nothing is lost",
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
