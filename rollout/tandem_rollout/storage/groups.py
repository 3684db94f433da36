"""Groups and their answers in the database; each function works in the transaction it is given."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, cast

from sqlalchemy import Row, bindparam, exists, func, select, update
from sqlalchemy import Table as SqlTable
from sqlalchemy.ext.asyncio import AsyncConnection

from tandem_rollout.storage.segments import (
    new_segment_rows,
    progress_row,
    read_scored_group,
    read_segments,
    read_trajectory,
    score_row,
)
from tandem_rollout.storage.tables import GroupRow, SegmentRow, TrajectoryRow
from tandem_rollout.storage.upsert import upsert
from tandem_rollout.trajectory import Group, ScoredGroup, ScoredSample, Trajectory, TrajectoryState

_TRAJECTORIES = cast("SqlTable", TrajectoryRow.__table__)
_INDEX_BITS = 16
_PROGRESS = ("state", "length", "finish_reason", "first_version", "last_version")
_SCORE = ("text", "reward", "parts", "correct", "pieces")


def trajectory_id(group_id: int, index: int) -> int:
    """The id of a group's answer. Raises ValueError if the index is too large for it."""
    if index >> _INDEX_BITS:
        raise ValueError(f"a group can have at most {1 << _INDEX_BITS} answers (rollout.groupSize)")
    return group_id << _INDEX_BITS | index


async def insert_groups(
    connection: AsyncConnection,
    last_id: int,
    iteration: int,
    prompt_ids: Sequence[int],
    group_size: int,
    texts: Mapping[int, str],
) -> list[Group]:
    """New groups with `group_size` empty answers each, in order of `prompt_ids`; `texts` are the prompts', by id.

    Their ids follow `last_id`, so that doing it twice changes nothing.
    """
    groups = [
        Group(
            group_id,
            prompt_id,
            iteration,
            [Trajectory(trajectory_id(group_id, index), prompt_id, group_id, index) for index in range(group_size)],
        )
        for group_id, prompt_id in enumerate(prompt_ids, last_id + 1)
    ]
    await upsert(
        connection,
        GroupRow,
        [
            {
                "id": group.id,
                "prompt_id": group.prompt_id,
                "prompt": texts.get(group.prompt_id, ""),
                "created_iteration": iteration,
            }
            for group in groups
        ],
    )
    await upsert(
        connection,
        TrajectoryRow,
        [
            {"id": each.id, "group_id": each.group_id, "place": each.index}
            for group in groups
            for each in group.trajectories
        ],
    )
    return groups


async def select_last_id(connection: AsyncConnection) -> int:
    """The id of the newest group; 0: none."""
    return await connection.scalar(select(func.max(GroupRow.id))) or 0


async def count_groups(connection: AsyncConnection) -> int:
    """All groups there ever were."""
    return await connection.scalar(select(func.count()).select_from(GroupRow)) or 0


async def write(
    connection: AsyncConnection, samples: Sequence[ScoredSample], trajectories: Sequence[Trajectory]
) -> None:
    """New segments and the state of each answer; for `samples` the scores, and the state SCORED."""
    await _insert_segments(connection, [*trajectories, *(sample.trajectory for sample in samples)])
    await _update(connection, _PROGRESS, [progress_row(each, each.state) for each in trajectories])
    rows = [progress_row(sample.trajectory, TrajectoryState.SCORED) | score_row(sample) for sample in samples]
    await _update(connection, (*_PROGRESS, *_SCORE), rows)


async def select_open_groups(connection: AsyncConnection) -> list[Group]:
    """Groups with an answer that is not scored yet, oldest first, with all their answers."""
    groups, _ = await _select_groups(connection, scored=False)
    return groups


async def select_scored_groups(connection: AsyncConnection) -> list[ScoredGroup]:
    """Groups that are all scored and in no batch, oldest first."""
    groups, rows = await _select_groups(connection, scored=True)
    return [read_scored_group(group, rows) for group in groups]


async def _insert_segments(connection: AsyncConnection, trajectories: Sequence[Trajectory]) -> None:
    rows = [row for trajectory in trajectories for row in new_segment_rows(trajectory)]
    await upsert(connection, SegmentRow, rows)


async def _update(connection: AsyncConnection, columns: Sequence[str], rows: list[dict[str, Any]]) -> None:
    if rows:
        values: dict[str, Any] = {column: bindparam(column) for column in columns}
        # The table and not the class: a plain executemany.
        await connection.execute(
            update(_TRAJECTORIES).where(_TRAJECTORIES.c.id == bindparam("row_id")).values(values), rows
        )


async def _select_groups(connection: AsyncConnection, *, scored: bool) -> tuple[list[Group], dict[int, Row[Any]]]:
    """Untrained groups with their answers, and the answers' rows by id."""
    unscored = exists().where(
        TrajectoryRow.group_id == GroupRow.id, TrajectoryRow.state != TrajectoryState.SCORED.value
    )
    wanted = (GroupRow.trained_iteration.is_(None), ~unscored if scored else unscored)
    group_rows = (await connection.execute(select(GroupRow).where(*wanted).order_by(GroupRow.id))).all()
    ids = select(GroupRow.id).where(*wanted)
    rows = (
        await connection.execute(
            select(TrajectoryRow).where(TrajectoryRow.group_id.in_(ids)).order_by(TrajectoryRow.id)
        )
    ).all()
    segment_rows = await connection.execute(
        select(SegmentRow)
        .join(TrajectoryRow, TrajectoryRow.id == SegmentRow.trajectory_id)
        .where(TrajectoryRow.group_id.in_(ids))
        .order_by(SegmentRow.trajectory_id, SegmentRow.position)
    )
    segments = read_segments(segment_rows)
    members: defaultdict[int, list[Row[Any]]] = defaultdict(list)
    for row in rows:
        members[row.group_id].append(row)
    groups = [
        Group(
            group.id,
            group.prompt_id,
            group.created_iteration,
            [read_trajectory(row, group.prompt_id, segments.get(row.id, [])) for row in members[group.id]],
        )
        for group in group_rows
    ]
    return groups, {row.id: row for row in rows}
