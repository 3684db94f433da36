"""What a job did, for reports: plain records and the queries that find them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Row, Select, case, func, select

from tandem_rollout.storage.segments import int32_tuple
from tandem_rollout.storage.tables import (
    ActivityRow,
    EvaluationRow,
    EvaluationSampleRow,
    GroupRow,
    InfoRow,
    IterationRow,
    ServedRow,
    TrajectoryRow,
)


@dataclass(frozen=True, slots=True)
class IterationRecord:
    """One iteration."""

    iteration: int
    version: int
    metrics: Mapping[str, float]
    phase_seconds: Mapping[str, float]
    recorded_at: float
    """Unix time in seconds of the newest change."""


@dataclass(frozen=True, slots=True)
class Extent:
    """Which iterations are recorded, and whether there is anything new."""

    first: int = 0
    last: int = 0
    """0 if none is recorded, or only the warm-up."""
    changed_at: float = 0.0
    """Unix time in seconds of the newest change."""


@dataclass(frozen=True, slots=True)
class ActivityRecord:
    """A stretch of work of one pod; Unix seconds."""

    pod: str
    name: str
    iteration: int
    started_at: float
    ended_at: float


@dataclass(frozen=True, slots=True)
class ServedRecord:
    """A stretch of time in which the engine of a pod served a version; Unix seconds."""

    pod: str
    version: int
    started_at: float
    ended_at: float


@dataclass(frozen=True, slots=True)
class AccuracyRecord:
    """What an evaluation came to."""

    iteration: int
    accuracy: float
    """Share of right answers."""
    prompts: int


@dataclass(frozen=True, slots=True)
class EvaluationSample:
    """One greedy answer to a held-out prompt."""

    prompt_id: int
    prompt: str
    answer: str
    """The reference answer."""
    text: str
    """The model's."""
    tokens: tuple[int, ...]
    """The model's, as tokens."""
    reward: float
    correct: bool


@dataclass(frozen=True, slots=True)
class EvaluationRecord:
    """One evaluation."""

    iteration: int
    version: int
    samples: tuple[EvaluationSample, ...]
    recorded_at: float
    """Unix time in seconds."""

    @property
    def accuracy(self) -> float:
        """Share of right answers; 0 if there are none."""
        return sum(sample.correct for sample in self.samples) / max(1, len(self.samples))


@dataclass(frozen=True, slots=True)
class SampleRecord:
    """One answer that was trained on."""

    iteration: int
    prompt_id: int
    prompt: str
    group_id: int
    index: int
    text: str
    reward: float
    parts: Mapping[str, float]
    correct: bool
    tokens: int
    """Length."""
    finish_reason: str
    first_version: int
    last_version: int


SELECT_INFO = select(InfoRow)
SELECT_ITERATIONS = select(IterationRow).order_by(IterationRow.iteration)
SELECT_EXTENT: Select[*tuple[Any, ...]] = select(
    func.min(IterationRow.iteration).label("first"),
    func.max(IterationRow.iteration).label("last"),
    func.max(IterationRow.recorded_at).label("changed_at"),
)
SELECT_ACTIVITIES = select(ActivityRow).order_by(ActivityRow.started_at)
SELECT_ACCURACIES = (
    select(
        EvaluationSampleRow.iteration,
        func.avg(case((EvaluationSampleRow.correct, 1.0), else_=0.0)).label("accuracy"),
        func.count().label("prompts"),
    )
    .group_by(EvaluationSampleRow.iteration)
    .order_by(EvaluationSampleRow.iteration)
)
SELECT_EVALUATIONS = select(EvaluationRow).order_by(EvaluationRow.iteration)
SELECT_EVALUATION_SAMPLES = select(EvaluationSampleRow).order_by(
    EvaluationSampleRow.iteration, EvaluationSampleRow.position
)


# Named, as replay buffers of an earlier Tandem lack the others.
_SAMPLE_COLUMNS = (
    *(TrajectoryRow.group_id, TrajectoryRow.place, TrajectoryRow.text, TrajectoryRow.reward, TrajectoryRow.parts),
    *(TrajectoryRow.correct, TrajectoryRow.length, TrajectoryRow.finish_reason),
    *(TrajectoryRow.first_version, TrajectoryRow.last_version),
)


def select_activities(first: int, last: int) -> Select[*tuple[Any, ...]]:
    """Activities of iterations `first` to `last`, by start."""
    return SELECT_ACTIVITIES.where(ActivityRow.iteration.between(first, last))


def select_served(started_at: float, ended_at: float) -> Select[*tuple[Any, ...]]:
    """Stretches that touch the time between the two, by start."""
    return (
        select(ServedRow)
        .where(ServedRow.started_at < ended_at, ServedRow.ended_at > started_at)
        .order_by(ServedRow.started_at)
    )


def select_samples(iteration: int, limit: int) -> Select[*tuple[Any, ...]]:
    """Answers that were trained on in `iteration`."""
    return (
        select(*_SAMPLE_COLUMNS, GroupRow.prompt_id, GroupRow.prompt, GroupRow.trained_iteration)
        .join(GroupRow, GroupRow.id == TrajectoryRow.group_id)
        .where(GroupRow.trained_iteration == iteration)
        .order_by(TrajectoryRow.id)
        .limit(limit)
    )


def read_info(rows: Sequence[Row[Any]]) -> dict[str, Any]:
    """Rows of SELECT_INFO."""
    return {row.key: row.value for row in rows}


def read_iterations(rows: Sequence[Row[Any]]) -> list[IterationRecord]:
    """Rows of SELECT_ITERATIONS."""
    return [
        IterationRecord(row.iteration, row.version, row.metrics, row.phase_seconds, row.recorded_at) for row in rows
    ]


def read_extent(rows: Sequence[Row[Any]]) -> Extent:
    """The row of SELECT_EXTENT."""
    (row,) = rows
    return Extent() if row.last is None else Extent(row.first, row.last, row.changed_at)


def read_activities(rows: Sequence[Row[Any]]) -> list[ActivityRecord]:
    """Rows of SELECT_ACTIVITIES."""
    return [ActivityRecord(row.pod, row.name, row.iteration, row.started_at, row.ended_at) for row in rows]


def read_served(rows: Sequence[Row[Any]]) -> list[ServedRecord]:
    """Rows of `select_served`."""
    return [ServedRecord(row.pod, row.version, row.started_at, row.ended_at) for row in rows]


def read_accuracies(rows: Sequence[Row[Any]]) -> list[AccuracyRecord]:
    """Rows of SELECT_ACCURACIES."""
    return [AccuracyRecord(row.iteration, float(row.accuracy), row.prompts) for row in rows]


def read_evaluations(rows: Sequence[Row[Any]], sample_rows: Sequence[Row[Any]]) -> list[EvaluationRecord]:
    """Rows of SELECT_EVALUATIONS and of SELECT_EVALUATION_SAMPLES."""
    samples: dict[int, list[EvaluationSample]] = {row.iteration: [] for row in rows}
    for row in sample_rows:
        samples[row.iteration].append(
            EvaluationSample(
                prompt_id=row.prompt_id,
                prompt=row.prompt,
                answer=row.answer,
                text=row.text,
                tokens=int32_tuple(row.tokens),
                reward=row.reward,
                correct=row.correct,
            )
        )
    return [
        EvaluationRecord(row.iteration, row.version, tuple(samples[row.iteration]), row.recorded_at) for row in rows
    ]


def read_samples(rows: Sequence[Row[Any]]) -> list[SampleRecord]:
    """Rows of `select_samples`."""
    return [
        SampleRecord(
            iteration=row.trained_iteration,
            prompt_id=row.prompt_id,
            prompt=row.prompt,
            group_id=row.group_id,
            index=row.place,
            text=row.text,
            reward=row.reward,
            parts=row.parts,
            correct=row.correct,
            tokens=row.length,
            finish_reason=row.finish_reason,
            first_version=row.first_version,
            last_version=row.last_version,
        )
        for row in rows
    ]
