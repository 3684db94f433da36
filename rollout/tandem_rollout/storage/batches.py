"""Batches in the database; each function works in the transaction it is given."""

import time
from collections.abc import Sequence

from sqlalchemy import delete, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from tandem_rollout.storage.tables import BatchPartRow, BatchRow, GroupRow, PromptRow, SegmentRow, TrajectoryRow
from tandem_rollout.storage.upsert import upsert
from tandem_rollout.trajectory import ScoredGroup

PART_BYTES = 256 << 20
"""Of a batch in one row."""
RECENT_SHARE = 0.5
"""Weight of a prompt's newest group in its success rate: the policy changes, so old answers count less and less."""


class BatchConflict(Exception):
    """A group is in another batch already, or the iteration is not the next one: nothing may be written."""


async def select_batch(connection: AsyncConnection, iteration: int) -> bytes | None:
    """The bytes recorded for `iteration`; None if there is no batch or it was pruned."""
    beginning = await connection.scalar(select(BatchRow.data).where(BatchRow.iteration == iteration))
    if beginning is None:
        return None
    following = select(BatchPartRow.data).where(BatchPartRow.iteration == iteration).order_by(BatchPartRow.position)
    return b"".join((beginning, *await connection.scalars(following)))


async def select_last_recorded(connection: AsyncConnection) -> int:
    """The newest iteration with a batch; 0: none."""
    return await connection.scalar(select(func.max(BatchRow.iteration))) or 0


async def select_last_trained(connection: AsyncConnection) -> int:
    """The newest iteration that was trained; 0: none."""
    trained = select(func.max(BatchRow.iteration)).where(BatchRow.trained_at.is_not(None))
    return await connection.scalar(trained) or 0


async def insert_batch(connection: AsyncConnection, iteration: int, data: bytes, groups: Sequence[ScoredGroup]) -> None:
    """Record the batch, take its groups out of what can be trained on, count the prompts' successes.

    Raises BatchConflict, and the transaction must be rolled back, if any of it was done before.
    """
    last = await select_last_recorded(connection)
    if iteration <= last:
        raise BatchConflict(f"the batch of iteration {iteration} was pruned; the newest is that of iteration {last}")
    if iteration != last + 1:
        raise BatchConflict(f"the next batch to record is that of iteration {last + 1}, not {iteration}")
    ids = [group.id for group in groups]
    taken = await connection.execute(
        update(GroupRow)
        .where(GroupRow.id.in_(ids), GroupRow.trained_iteration.is_(None))
        .values(trained_iteration=iteration)
    )
    if taken.rowcount != len(ids):
        raise BatchConflict(f"{len(ids) - taken.rowcount} of the {len(ids)} groups are in an earlier batch, or unknown")
    parts = [data[start : start + PART_BYTES] for start in range(0, max(1, len(data)), PART_BYTES)]
    await connection.execute(insert(BatchRow).values(iteration=iteration, data=parts[0], recorded_at=time.time()))
    for position, part in enumerate(parts[1:], 1):
        await connection.execute(insert(BatchPartRow).values(iteration=iteration, position=position, data=part))
    await _count_successes(connection, groups)


async def update_trained(connection: AsyncConnection, iteration: int) -> bool:
    """Note that all ranks have trained on the batch; False if there is none."""
    changed = await connection.execute(
        update(BatchRow).where(BatchRow.iteration == iteration).values(trained_at=time.time())
    )
    return changed.rowcount == 1


async def delete_old(connection: AsyncConnection, before_iteration: int) -> int:
    """Forget the bytes of batches before `before_iteration` and their answers' tokens; texts and rewards stay.

    Returns the number of batches.
    """
    pruned = await connection.execute(
        update(BatchRow).where(BatchRow.iteration < before_iteration, BatchRow.data.is_not(None)).values(data=None)
    )
    if pruned.rowcount:
        await connection.execute(delete(BatchPartRow).where(BatchPartRow.iteration < before_iteration))
        old = (
            select(TrajectoryRow.id)
            .join(GroupRow, GroupRow.id == TrajectoryRow.group_id)
            .where(GroupRow.trained_iteration < before_iteration)
        )
        await connection.execute(delete(SegmentRow).where(SegmentRow.trajectory_id.in_(old)))
    return pruned.rowcount


async def select_success_rates(connection: AsyncConnection) -> dict[int, float]:
    """Prompt id -> success rate, of all prompts ever trained on."""
    rows = await connection.execute(select(PromptRow.prompt_id, PromptRow.success_rate))
    return {row.prompt_id: row.success_rate for row in rows}


async def _count_successes(connection: AsyncConnection, groups: Sequence[ScoredGroup]) -> None:
    prompt_ids = {group.prompt_id for group in groups}
    known = await connection.execute(select(PromptRow).where(PromptRow.prompt_id.in_(prompt_ids)))
    statistics = {row.prompt_id: (row.attempts, row.successes, row.success_rate) for row in known}
    for group in groups:
        right = sum(sample.score.correct for sample in group.samples)
        share = right / len(group.samples)
        attempts, successes, rate = statistics.get(group.prompt_id, (0, 0, share))
        statistics[group.prompt_id] = (
            attempts + len(group.samples),
            successes + right,
            rate + RECENT_SHARE * (share - rate),
        )
    names = ("attempts", "successes", "success_rate")
    rows = [{"prompt_id": key, **dict(zip(names, value, strict=True))} for key, value in statistics.items()]
    await upsert(connection, PromptRow, rows)
