"""Insert or replace, in SQLite's and PostgreSQL's words."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import inspect
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from tandem_rollout.storage.tables import Table


async def upsert(connection: AsyncConnection, table: type[Table], rows: Sequence[dict[str, Any]]) -> None:
    """Insert `rows`; where the primary key is there already, the row's other columns take the new values."""
    if not rows:
        return
    keys = [column.name for column in inspect(table).primary_key]
    values = [name for name in rows[0] if name not in keys]
    insert = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
    statement = insert(table)
    await connection.execute(
        statement.on_conflict_do_update(index_elements=keys, set_={name: statement.excluded[name] for name in values}),
        list(rows),
    )
