"""The newest of a job's history: `python -m tandem_rollout.excerpt` prints it as JSON in the master's pod.

`kubectl tandem` runs it there: the replay buffer is reached from nowhere else.
"""

import argparse
import asyncio
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pydantic import TypeAdapter
from sqlalchemy import Row, Select
from sqlalchemy.ext.asyncio import AsyncConnection
from tandem_core.environment import PodEnvironment
from tandem_core.errors import TandemError
from tandem_core.job import load_job
from tandem_core.logs import configure_logs

from tandem_rollout.storage.address import replay_url
from tandem_rollout.storage.database import Database, open_database
from tandem_rollout.storage.history import (
    SELECT_ITERATIONS,
    IterationRecord,
    SampleRecord,
    read_iterations,
    read_samples,
    select_samples,
)

ITERATIONS = 20
PATIENCE_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Excerpt:
    """Some of a job's history."""

    iterations: tuple[IterationRecord, ...]
    """The newest, in order."""
    samples: tuple[SampleRecord, ...]
    """Answers that were trained on in one iteration."""


EXCERPT = TypeAdapter(Excerpt)


async def read_excerpt(database: Database, iteration: int | None, limit: int) -> Excerpt:
    """The newest iterations, and at most `limit` answers of `iteration` (None: of the newest one that has some).

    Raises StorageError.
    """
    records = read_iterations(await database.read(lambda connection: _all(connection, SELECT_ITERATIONS)))
    chosen = iteration if iteration is not None else newest_trained(records)
    statement = select_samples(chosen, limit)
    samples = read_samples(await database.read(lambda connection: _all(connection, statement)))
    return Excerpt(tuple(records[-ITERATIONS:]), tuple(samples))


def newest_trained(records: Sequence[IterationRecord]) -> int:
    """The newest iteration whose batch is recorded; 0: none is."""
    return max((record.iteration for record in records if "reward" in record.metrics), default=0)


async def _all(connection: AsyncConnection, statement: Select[Any]) -> Sequence[Row[Any]]:
    return (await connection.execute(statement)).all()


async def _read_own(iteration: int | None, limit: int) -> Excerpt:
    pod = PodEnvironment.from_environment()
    database = open_database(replay_url(load_job(pod.job_file), pod), pod.job_uid, PATIENCE_SECONDS)
    try:
        return await read_excerpt(database, iteration, limit)
    finally:
        await database.dispose()


def main() -> int:
    """Exit code: 1 if the replay buffer could not be read."""
    parser = argparse.ArgumentParser(prog="python -m tandem_rollout.excerpt", description=__doc__)
    parser.add_argument("--iteration", type=int, help="whose answers (default: the newest)")
    parser.add_argument("--samples", type=int, default=0, help="how many answers (0)")
    options = parser.parse_args()
    configure_logs(part="excerpt")  # to stderr: what is printed is read by a program
    try:
        excerpt = asyncio.run(_read_own(options.iteration, options.samples))
    except TandemError as error:
        print(error, file=sys.stderr)
        return 1
    print(json.dumps(asdict(excerpt)))  # a metric may be NaN, which pydantic would write as null
    return 0


if __name__ == "__main__":
    sys.exit(main())
