"""What a replay buffer of an earlier Tandem lacks, and older code does without."""

from sqlalchemy import Connection, inspect, text

from tandem_rollout.storage.tables import Table, TrajectoryRow


def add_what_is_new(connection: Connection) -> None:
    """Make the columns and indexes that are not there, after the tables. On a large SQLite file it takes seconds."""
    table = TrajectoryRow.__tablename__
    if "pieces" not in {column["name"] for column in inspect(connection).get_columns(table)}:
        connection.execute(text(f"ALTER TABLE {table} ADD COLUMN pieces JSON NOT NULL DEFAULT '[]'"))
    for each in Table.metadata.sorted_tables:
        for index in each.indexes:
            index.create(connection, checkfirst=True)
