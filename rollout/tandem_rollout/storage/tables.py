"""The tables of the replay buffer."""

import math
from collections.abc import Mapping
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Dialect,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    String,
    Text,
    TypeDecorator,
    false,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

SCHEMA_VERSION = 1
"""Goes up with every change that older code cannot read."""

# In SQLite exactly this type makes the key the row's own number.
_Identity = BigInteger().with_variant(Integer, "sqlite")
_Double = Float(53)


class _Numbers(TypeDecorator[dict[str, float]]):
    """Numbers by name, as JSON. It has no word for those that are not finite: they are strings there."""

    impl = JSON
    cache_ok = True

    def process_bind_param(self, value: Mapping[str, float] | None, dialect: Dialect) -> Any:
        return value and {name: number if math.isfinite(number) else str(number) for name, number in value.items()}

    def process_result_value(self, value: Any, dialect: Dialect) -> dict[str, float] | None:
        return value and {name: float(number) for name, number in value.items()}


class Table(DeclarativeBase):
    """What all tables share."""


class InfoRow(Table):
    """Facts about the job and this database: job_uid, schema_version, and what the master adds."""

    __tablename__ = "info"
    key: Mapped[str] = mapped_column(String, primary_key=True)
    value: Mapped[Any] = mapped_column(JSON)


class GroupRow(Table):
    """One drawing of a prompt."""

    __tablename__ = "groups"
    id: Mapped[int] = mapped_column(_Identity, primary_key=True, autoincrement=False)
    prompt_id: Mapped[int] = mapped_column(BigInteger)
    prompt: Mapped[str] = mapped_column(Text, server_default="")
    """Its text, for reports."""
    created_iteration: Mapped[int] = mapped_column(Integer)
    trained_iteration: Mapped[int | None] = mapped_column(Integer, index=True)
    """The one iteration whose batch has it."""


class TrajectoryRow(Table):
    """One answer."""

    __tablename__ = "trajectories"
    id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    """From group and place (groups.trajectory_id)."""
    group_id: Mapped[int] = mapped_column(_Identity, ForeignKey("groups.id"), index=True)
    place: Mapped[int] = mapped_column(Integer)
    """Which of the group's answers it is, from 0."""
    state: Mapped[str] = mapped_column(String, server_default="unfinished")
    length: Mapped[int] = mapped_column(Integer, server_default="0")
    """Tokens; stays when the segments are pruned, as do the next three."""
    finish_reason: Mapped[str] = mapped_column(String, server_default="")
    first_version: Mapped[int] = mapped_column(Integer, server_default="-1")
    last_version: Mapped[int] = mapped_column(Integer, server_default="-1")
    text: Mapped[str] = mapped_column(Text, server_default="")
    reward: Mapped[float] = mapped_column(_Double, server_default="0")
    parts: Mapped[dict[str, float]] = mapped_column(JSON, server_default="{}")
    correct: Mapped[bool] = mapped_column(server_default=false())
    pieces: Mapped[list[list[Any]]] = mapped_column(JSON, server_default="[]")
    """trajectory.Piece as lists; stays when the segments are pruned. [] in replay buffers of an earlier Tandem."""


class SegmentRow(Table):
    """What one iteration added to an answer; arrays as little-endian bytes."""

    __tablename__ = "segments"
    trajectory_id: Mapped[int] = mapped_column(BigInteger, ForeignKey("trajectories.id"), primary_key=True)
    position: Mapped[int] = mapped_column(Integer, primary_key=True)
    iteration: Mapped[int] = mapped_column(Integer)
    finish_reason: Mapped[str] = mapped_column(String)
    tokens: Mapped[bytes] = mapped_column(LargeBinary)
    """int32 [n]"""
    logprobs: Mapped[bytes] = mapped_column(LargeBinary)
    """float32 [n]"""
    versions: Mapped[bytes] = mapped_column(LargeBinary)
    """int32 [spans, 2]: version, count"""


class BatchRow(Table):
    """What was given, or will be given, to the trainer in an iteration."""

    __tablename__ = "batches"
    iteration: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    data: Mapped[bytes | None] = mapped_column(LargeBinary)
    """TrainingBatch.encode(), or its beginning: BatchPartRow; NULL once pruned."""
    recorded_at: Mapped[float] = mapped_column(_Double)
    trained_at: Mapped[float | None] = mapped_column(_Double)


class BatchPartRow(Table):
    """What follows the beginning of a large batch: no database takes a value of more than 1 GB."""

    __tablename__ = "batch_parts"
    iteration: Mapped[int] = mapped_column(Integer, ForeignKey("batches.iteration"), primary_key=True)
    position: Mapped[int] = mapped_column(Integer, primary_key=True)
    data: Mapped[bytes] = mapped_column(LargeBinary)


class PromptRow(Table):
    """How a prompt went so far."""

    __tablename__ = "prompts"
    prompt_id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    attempts: Mapped[int] = mapped_column(BigInteger)
    successes: Mapped[int] = mapped_column(BigInteger)
    success_rate: Mapped[float] = mapped_column(_Double)
    """Moving average over the prompt's groups."""


class IterationRow(Table):
    """Metrics of an iteration."""

    __tablename__ = "iterations"
    iteration: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    version: Mapped[int] = mapped_column(Integer)
    metrics: Mapped[dict[str, float]] = mapped_column(_Numbers)
    phase_seconds: Mapped[dict[str, float]] = mapped_column(JSON)
    recorded_at: Mapped[float] = mapped_column(_Double)


class ActivityRow(Table):
    """A stretch of work of a pod."""

    __tablename__ = "activities"
    pod: Mapped[str] = mapped_column(String, primary_key=True)
    name: Mapped[str] = mapped_column(String, primary_key=True)
    started_at: Mapped[float] = mapped_column(_Double, primary_key=True)
    ended_at: Mapped[float] = mapped_column(_Double)
    iteration: Mapped[int] = mapped_column(Integer, index=True)


class ServedRow(Table):
    """A stretch of time in which an engine served a version."""

    __tablename__ = "served"
    pod: Mapped[str] = mapped_column(String, primary_key=True)
    started_at: Mapped[float] = mapped_column(_Double, primary_key=True)
    ended_at: Mapped[float] = mapped_column(_Double, index=True)
    version: Mapped[int] = mapped_column(Integer)


class EvaluationRow(Table):
    """An evaluation on held-out prompts."""

    __tablename__ = "evaluations"
    iteration: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    version: Mapped[int] = mapped_column(Integer)
    recorded_at: Mapped[float] = mapped_column(_Double)


class EvaluationSampleRow(Table):
    """One greedy answer."""

    __tablename__ = "evaluation_samples"
    iteration: Mapped[int] = mapped_column(Integer, ForeignKey("evaluations.iteration"), primary_key=True)
    position: Mapped[int] = mapped_column(Integer, primary_key=True)
    prompt_id: Mapped[int] = mapped_column(BigInteger)
    prompt: Mapped[str] = mapped_column(Text)
    answer: Mapped[str] = mapped_column(Text)
    text: Mapped[str] = mapped_column(Text)
    tokens: Mapped[bytes] = mapped_column(LargeBinary)
    """int32 [n]"""
    reward: Mapped[float] = mapped_column(_Double)
    correct: Mapped[bool] = mapped_column()


Index(
    "groups_untrained",
    GroupRow.id,
    sqlite_where=GroupRow.trained_iteration.is_(None),
    postgresql_where=GroupRow.trained_iteration.is_(None),
)
# For those who browse answers: each holds all that an answer is chosen by, so that only the chosen ones are read.
Index(
    "trajectories_newest",
    *(TrajectoryRow.state, TrajectoryRow.id, TrajectoryRow.reward, TrajectoryRow.length),
    *(TrajectoryRow.correct, TrajectoryRow.group_id),
)
Index(
    "trajectories_by_reward",
    *(TrajectoryRow.state, TrajectoryRow.reward, TrajectoryRow.id, TrajectoryRow.length),
    *(TrajectoryRow.correct, TrajectoryRow.group_id),
)
Index(
    "trajectories_by_length",
    *(TrajectoryRow.state, TrajectoryRow.length, TrajectoryRow.id, TrajectoryRow.reward),
    *(TrajectoryRow.correct, TrajectoryRow.group_id),
)
