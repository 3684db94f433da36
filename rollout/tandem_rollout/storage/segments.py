"""Answers as rows and back."""

from collections.abc import Iterable, Mapping
from dataclasses import astuple
from typing import Any

import numpy as np
from sqlalchemy import Row

from tandem_rollout.trajectory import (
    FinishReason,
    Group,
    Piece,
    Score,
    ScoredGroup,
    ScoredSample,
    Segment,
    Trajectory,
    TrajectoryState,
    VersionSpan,
)

_INT32, _FLOAT32 = np.dtype("<i4"), np.dtype("<f4")


def int32_bytes(values: Any) -> bytes:
    """Integers as little-endian int32."""
    return np.asarray(values, dtype=_INT32).tobytes()


def int32_tuple(data: bytes) -> tuple[int, ...]:
    """What `int32_bytes` wrote."""
    return tuple(np.frombuffer(data, dtype=_INT32).tolist())


def new_segment_rows(trajectory: Trajectory) -> list[dict[str, Any]]:
    """Rows of the segments that are not saved yet."""
    return [
        {
            "trajectory_id": trajectory.id,
            "position": position,
            "iteration": segment.iteration,
            "finish_reason": segment.finish_reason.value,
            "tokens": int32_bytes(segment.tokens),
            "logprobs": np.asarray(segment.logprobs, dtype=_FLOAT32).tobytes(),
            "versions": int32_bytes([(span.version, span.count) for span in segment.versions]),
        }
        for position, segment in enumerate(trajectory.segments)
        if position >= trajectory.saved_segments
    ]


def progress_row(trajectory: Trajectory, state: TrajectoryState) -> dict[str, Any]:
    """The values of an answer that change as it grows; `row_id` says which."""
    spans = [span for segment in trajectory.segments for span in segment.versions]
    return {
        "row_id": trajectory.id,
        "state": state.value,
        "length": trajectory.length,
        "finish_reason": trajectory.finish_reason or "",
        "first_version": spans[0].version if spans else -1,
        "last_version": spans[-1].version if spans else -1,
    }


def score_row(sample: ScoredSample) -> dict[str, Any]:
    """The values that scoring adds."""
    return {
        "text": sample.text,
        "reward": sample.score.reward,
        "parts": dict(sample.score.parts),
        "correct": sample.score.correct,
        "pieces": [list(astuple(piece)) for piece in sample.pieces],
    }


def read_segments(rows: Iterable[Row[Any]]) -> dict[int, list[Segment]]:
    """Trajectory id -> its segments; rows are in order of position."""
    segments: dict[int, list[Segment]] = {}
    for row in rows:
        spans = np.frombuffer(row.versions, dtype=_INT32).reshape(-1, 2).tolist()
        segments.setdefault(row.trajectory_id, []).append(
            Segment(
                tokens=np.frombuffer(row.tokens, dtype=_INT32),
                logprobs=np.frombuffer(row.logprobs, dtype=_FLOAT32),
                versions=tuple(VersionSpan(*span) for span in spans),
                finish_reason=FinishReason(row.finish_reason),
                iteration=row.iteration,
            )
        )
    return segments


def read_pieces(values: Iterable[Iterable[Any]]) -> tuple[Piece, ...]:
    """What `score_row` wrote."""
    return tuple(Piece(*value) for value in values)


def read_trajectory(row: Row[Any], prompt_id: int, segments: list[Segment]) -> Trajectory:
    """One answer."""
    return Trajectory(
        id=row.id,
        prompt_id=prompt_id,
        group_id=row.group_id,
        index=row.place,
        segments=segments,
        state=TrajectoryState(row.state),
        saved_segments=len(segments),
    )


def read_scored_group(group: Group, rows: Mapping[int, Row[Any]]) -> ScoredGroup:
    """A group with what scoring added; `rows` by trajectory id."""
    return ScoredGroup(
        id=group.id,
        prompt_id=group.prompt_id,
        created_iteration=group.created_iteration,
        samples=tuple(
            ScoredSample(trajectory, row.text, Score(row.reward, row.parts, row.correct), read_pieces(row.pieces))
            for trajectory in group.trajectories
            for row in (rows[trajectory.id],)
        ),
    )
