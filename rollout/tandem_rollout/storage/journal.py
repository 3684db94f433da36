"""Metrics, activities and evaluations in the database; each function works in the transaction it is given."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict

from sqlalchemy import delete, insert, select
from sqlalchemy.ext.asyncio import AsyncConnection
from tandem_core.coordination.records import Activity

from tandem_rollout.storage.history import EvaluationSample, ServedRecord
from tandem_rollout.storage.segments import int32_bytes
from tandem_rollout.storage.tables import ActivityRow, EvaluationRow, EvaluationSampleRow, IterationRow, ServedRow
from tandem_rollout.storage.upsert import upsert


async def write_iteration(
    connection: AsyncConnection,
    iteration: int,
    *,
    version: int,
    metrics: Mapping[str, float],
    phase_seconds: Mapping[str, float],
) -> None:
    """Insert the iteration, or add names to it and replace the values of those it has."""
    known = (await connection.execute(select(IterationRow).where(IterationRow.iteration == iteration))).first()
    row = {
        "iteration": iteration,
        "version": version,
        "metrics": {**(known.metrics if known else {}), **metrics},
        "phase_seconds": {**(known.phase_seconds if known else {}), **phase_seconds},
        "recorded_at": time.time(),
    }
    await upsert(connection, IterationRow, [row])


async def write_activities(
    connection: AsyncConnection, pod: str, iteration: int, activities: Sequence[Activity]
) -> None:
    """Insert activities; one with the same name and start is replaced."""
    # By key, as one statement may not change a row twice.
    rows = {
        (activity.name, activity.started_at): {
            "pod": pod,
            "name": activity.name,
            "started_at": activity.started_at,
            "ended_at": activity.ended_at,
            "iteration": iteration,
        }
        for activity in activities
    }
    await upsert(connection, ActivityRow, list(rows.values()))


async def write_served(connection: AsyncConnection, served: Sequence[ServedRecord]) -> None:
    """Insert stretches of time; one of the same pod and start is replaced."""
    await upsert(connection, ServedRow, [asdict(record) for record in served])


async def write_evaluation(
    connection: AsyncConnection, iteration: int, version: int, samples: Sequence[EvaluationSample]
) -> None:
    """Insert the evaluation in place of an earlier one of the iteration."""
    await upsert(connection, EvaluationRow, [{"iteration": iteration, "version": version, "recorded_at": time.time()}])
    await connection.execute(delete(EvaluationSampleRow).where(EvaluationSampleRow.iteration == iteration))
    rows = [
        {
            "iteration": iteration,
            "position": position,
            "prompt_id": sample.prompt_id,
            "prompt": sample.prompt,
            "answer": sample.answer,
            "text": sample.text,
            "tokens": int32_bytes(sample.tokens),
            "reward": sample.reward,
            "correct": sample.correct,
        }
        for position, sample in enumerate(samples)
    ]
    if rows:
        await connection.execute(insert(EvaluationSampleRow), rows)
