"""Reads the history of a job from its SQLite file, without the master."""

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from sqlalchemy import Connection, Row, Select, create_engine

from tandem_rollout.storage.errors import StorageError, translated_errors
from tandem_rollout.storage.history import (
    SELECT_ACTIVITIES,
    SELECT_EVALUATION_SAMPLES,
    SELECT_EVALUATIONS,
    SELECT_INFO,
    SELECT_ITERATIONS,
    ActivityRecord,
    EvaluationRecord,
    IterationRecord,
    SampleRecord,
    read_activities,
    read_evaluations,
    read_info,
    read_iterations,
    read_samples,
    select_samples,
)


class History:
    """Reads a job's SQLite file, also while the master writes it: `with open_history(path) as history`."""

    def __init__(self, connection: Connection, label: str) -> None:
        self._connection = connection
        self._label = label

    def __enter__(self) -> Self:
        """Itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the file."""
        self._connection.close()
        self._connection.engine.dispose()

    def info(self) -> dict[str, Any]:
        """job_uid, schema_version and what the master noted."""
        return read_info(self._all(SELECT_INFO))

    def iterations(self) -> list[IterationRecord]:
        """All iterations, in order."""
        return read_iterations(self._all(SELECT_ITERATIONS))

    def activities(self) -> list[ActivityRecord]:
        """All activities, by start."""
        return read_activities(self._all(SELECT_ACTIVITIES))

    def evaluations(self) -> list[EvaluationRecord]:
        """All evaluations, by iteration."""
        return read_evaluations(self._all(SELECT_EVALUATIONS), self._all(SELECT_EVALUATION_SAMPLES))

    def samples(self, iteration: int, limit: int = 100) -> list[SampleRecord]:
        """Answers that were trained on in `iteration`."""
        return read_samples(self._all(select_samples(iteration, limit)))

    def _all(self, statement: Select[Any]) -> Sequence[Row[Any]]:
        with translated_errors(self._label):
            rows = self._connection.execute(statement).all()
            self._connection.rollback()  # the next read is to see what was written since
            return rows


def open_history(path: Path) -> History:
    """Open the replay buffer's file for reading only. Raises StorageError if it is not there."""
    if not path.is_file():
        raise StorageError(f"there is no replay buffer at {path}: the job has not started, or ran elsewhere")
    engine = create_engine(f"sqlite:///file:{path}?mode=ro&uri=true")
    with translated_errors(str(path)):
        return History(engine.connect(), str(path))
