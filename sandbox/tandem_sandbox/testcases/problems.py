"""Reads problems: one JSON object a line, with reference solutions and where its generator is."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from tandem_core.errors import TandemError
from tandem_core.sandbox.messages import Source

from tandem_sandbox.testcases.rules import Rules


class _Row(BaseModel):
    """The columns that count here; others are handed on."""

    model_config = ConfigDict(extra="allow", frozen=True)

    id: str | int | None = None
    prompt: str = ""
    references: tuple[Source | str, ...] = Field(min_length=1)
    generator: str | None = None


@dataclass(frozen=True, slots=True)
class Problem:
    """A row of the input."""

    name: str
    """Its column `id`, or `line N`."""
    row: Mapping[str, Any]
    """All its columns."""
    statement: str
    """What is asked for: the column `prompt`."""
    references: tuple[Source, ...]
    """Solutions that are probably right."""
    generator: str | None
    """The Python program that makes its inputs; None: a model is to write it."""

    def identify(self, rules: Rules, author: str) -> str:
        """A name for all that its inputs and outputs depend on; `author` says which model and prompt it would be.

        What merely decides about them (how many must agree) is left out: that may change without a new run.
        """
        parts = [
            [source.model_dump() for source in self.references[: rules.references]],
            self.generator if self.generator is not None else [author, self.statement],
            [rules.cases, rules.seed, rules.checker, rules.cpu_seconds, rules.memory_bytes],
        ]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:20]


def load_problems(file: Path, language: str) -> list[Problem]:
    """All rows; `language` is that of references that are plain text. Raises TandemError."""
    try:
        lines = file.read_text().split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise TandemError(f"cannot read the problems {file}: {error}") from error
    problems = [_read_row(file, number, line, language) for number, line in enumerate(lines, start=1) if line.strip()]
    if not problems:
        raise TandemError(f"{file} holds no problem: write a JSON object with prompt and references on each line")
    return problems


def check_generators(problems: Sequence[Problem]) -> None:
    """For use without a model. Raises TandemError for a problem that names no generator."""
    for problem in problems:
        if problem.generator is None:
            raise TandemError(
                f"{problem.name} names no generator: write its file name into the column generator, or name a model "
                "that writes one with --model-url and --model"
            )


def _read_row(file: Path, number: int, line: str, language: str) -> Problem:
    try:
        row = json.loads(line)
        read = _Row.model_validate(row)
    except (json.JSONDecodeError, ValidationError) as error:
        raise TandemError(
            f"line {number} of {file} is no problem: {error}; it must be a JSON object like "
            '{"prompt": "...", "references": [{"language": "cpp", "code": "..."}], "generator": "sum.py"}'
        ) from error
    return Problem(
        name=str(read.id) if read.id is not None else f"line {number}",
        row=row,
        statement=read.prompt,
        references=tuple(
            Source(language=language, code=each) if isinstance(each, str) else each for each in read.references
        ),
        generator=None if read.generator is None else _read_generator(file, number, read.generator),
    )


def _read_generator(file: Path, number: int, name: str) -> str:
    try:
        return (file.parent / name).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise TandemError(
            f"line {number} of {file} names the generator {name}, which cannot be read: {error}; names are relative "
            f"to {file.parent}"
        ) from error
