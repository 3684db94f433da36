"""Rows of prompts and answers, from reasoning-gym or the `datasets` library."""

import dataclasses
import difflib
import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tandem_core.errors import TandemError
from tandem_core.job.data import DatasetSource, DataSpec, ReasoningGymSource

_FILE_FORMATS = {".jsonl": "json", ".json": "json", ".parquet": "parquet"}
_SHOWN = 200  # characters of a row in an error


class SourceError(TandemError):
    """The prompts cannot be had, or a row of them cannot be used."""


@dataclass(frozen=True, slots=True)
class SourceRow:
    """One row before any template."""

    id: int
    """Its place in the source, from 0."""
    prompt: str
    answer: str
    row: Mapping[str, Any]
    difficulty: float | None


def load_rows(data: DataSpec, seed: int) -> list[SourceRow]:
    """All rows of the job's source; at least one. Raises SourceError that names the remedy."""
    if data.reasoning_gym is not None:
        return _load_reasoning_gym(data.reasoning_gym, seed, with_difficulty=data.sampling == "curriculum")
    if data.dataset is None:
        raise SourceError("data needs exactly one of reasoningGym and dataset")
    return _load_dataset(data.dataset)


def check_source(data: DataSpec, seed: int) -> None:
    """Raise SourceError for what shows before any row is read: no such task, option or file."""
    if data.reasoning_gym is not None:
        build_reasoning_gym(data.reasoning_gym, seed)
    elif data.dataset is not None and Path(data.dataset.path).suffix in _FILE_FORMATS:
        _check_file(Path(data.dataset.path))


def build_reasoning_gym(source: ReasoningGymSource, seed: int) -> Any:
    """The reasoning-gym dataset of the task: it makes entries and scores answers. Raises SourceError."""
    import reasoning_gym  # seconds to import: only for jobs that use it
    from reasoning_gym.factory import DATASETS

    if source.task not in DATASETS:
        close = difflib.get_close_matches(source.task, DATASETS, n=3, cutoff=0.4)
        hint = f"did you mean {' or '.join(close)}?" if close else f"there are {len(DATASETS)}, such as chain_sum"
        raise SourceError(f"data.reasoningGym.task {source.task!r} is not a task of reasoning-gym: {hint}")
    known = [field.name for field in dataclasses.fields(DATASETS[source.task][1]) if field.name not in ("seed", "size")]
    unknown = sorted(set(source.config) - set(known))
    if unknown:
        raise SourceError(
            f"data.reasoningGym.config: {source.task} has no option {', '.join(unknown)}; "
            f"options: {', '.join(sorted(known))}. data.reasoningGym.size and spec.seed set size and seed"
        )
    try:
        return reasoning_gym.create_dataset(source.task, size=source.size, seed=seed, **source.config)
    except (AssertionError, TypeError, ValueError) as error:
        raise SourceError(f"data.reasoningGym.config of {source.task} is refused by the task: {error!r}") from error


def _load_reasoning_gym(source: ReasoningGymSource, seed: int, *, with_difficulty: bool) -> list[SourceRow]:
    dataset = build_reasoning_gym(source, seed)
    entries = [dataset[index] for index in range(len(dataset))]
    difficulties = _task_difficulties(source.task, entries) if with_difficulty else [None] * len(entries)
    return [
        SourceRow(index, entry["question"], _text("answer", index, entry["answer"], optional=True), entry, difficulty)
        for index, (entry, difficulty) in enumerate(zip(entries, difficulties, strict=True))
    ]


def _task_difficulties(task: str, entries: list[dict[str, Any]]) -> list[float]:
    """The mean over the task's own difficulty parameters, each scaled to 0..1 over all entries."""
    names = [
        name
        for name in entries[0]["metadata"].get("difficulty", {})
        if all(isinstance(entry["metadata"].get(name), int | float) for entry in entries)
    ]
    columns = [[float(entry["metadata"][name]) for entry in entries] for name in names]
    varying = [(column, min(column), max(column)) for column in columns if min(column) < max(column)]
    if not varying:
        raise SourceError(
            f"data.sampling: curriculum needs prompts of different difficulty, but the reasoning-gym task {task} with "
            "this config gives none: widen the ranges in data.reasoningGym.config, or use prioritised or uniform"
        )
    return [
        sum((column[index] - low) / (high - low) for column, low, high in varying) / len(varying)
        for index in range(len(entries))
    ]


def _load_dataset(source: DatasetSource) -> list[SourceRow]:
    rows = _read_dataset(source)
    if not rows:
        raise SourceError(f"data.dataset {source.path!r} (split {source.split}) has no rows")
    wanted = [source.prompt_field, source.answer_field, source.difficulty_field]
    for field, name in zip(("promptField", "answerField", "difficultyField"), wanted, strict=True):
        if name is not None and name not in rows[0]:
            raise SourceError(
                f"data.dataset {source.path!r} has no column {name!r} (data.dataset.{field}); "
                f"its columns: {', '.join(rows[0])}"
            )
    return [
        SourceRow(
            index,
            _text(source.prompt_field, index, row[source.prompt_field]),
            _text(source.answer_field, index, row[source.answer_field]),
            row,
            _number(source.difficulty_field, index, row),
        )
        for index, row in enumerate(rows)
    ]


def _read_dataset(source: DatasetSource) -> list[dict[str, Any]]:
    import datasets  # a second to import: only for jobs that use it
    from datasets.exceptions import DatasetGenerationError, DatasetsError

    file_format = _FILE_FORMATS.get(Path(source.path).suffix)
    if file_format is not None:
        _check_file(Path(source.path))
    try:
        if file_format is None:
            return list(datasets.load_dataset(source.path, source.name, split=source.split))
        # The library caches by path and date; a folder of its own rules out an older state of the file.
        with tempfile.TemporaryDirectory() as cache:
            files = {source.split: source.path}
            return list(
                datasets.load_dataset(
                    file_format, data_files=files, split=source.split, cache_dir=cache, keep_in_memory=True
                )
            )
    except (DatasetsError, DatasetGenerationError, OSError, ValueError) as error:
        cause = error.__cause__ or error
        where = (
            "check that it is well-formed" if file_format else "check path, name and split, the network and HF_TOKEN"
        )
        raise SourceError(
            f"cannot read data.dataset {source.path!r} (split {source.split}): {cause}; {where}"
        ) from error


def _check_file(path: Path) -> None:
    if not path.is_file():
        raise SourceError(f"data.dataset.path {str(path)!r} is not a file: it must be there in the master's pod")
    if path.stat().st_size == 0:
        raise SourceError(f"data.dataset.path {str(path)!r} is an empty file")


def _text(column: str, index: int, value: Any, *, optional: bool = False) -> str:
    """Texts as they are; numbers, lists and objects as JSON writes them."""
    if isinstance(value, str):
        return value
    if value is None:
        if optional:
            return ""
        raise SourceError(f"row {index} of the dataset has nothing in column {column!r}: remove it or fill it in")
    return json.dumps(value, ensure_ascii=False, default=str)


def _number(column: str | None, index: int, row: Mapping[str, Any]) -> float | None:
    if column is None:
        return None
    value = row[column]
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value:
        raise SourceError(f"row {index}: column {column!r} must hold a number (difficulty), found {value!r}")
    return float(value)


def show(text: str) -> str:
    """`text` as an error names it: quoted, not too long."""
    return repr(text if len(text) <= _SHOWN else text[:_SHOWN] + "...")
