"""What has been done for a problem: a file that grows by a line for each step, and survives being killed."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter, ValidationError
from tandem_core.errors import TandemError
from tandem_core.sandbox.messages import Message, Verdict


class Written(Message):
    """The program that a model wrote to make inputs."""

    kind: Literal["written"] = "written"
    code: str | None
    """None: no program of its worked."""
    detail: str = ""
    """Why none worked, in the words that the model last read."""


class Made(Message):
    """An input that the generator made."""

    kind: Literal["made"] = "made"
    number: int
    """Of the case, from 1."""
    stdin: str | None
    """None: the generator failed."""
    detail: str = ""
    """Why it failed."""


class Voted(Message):
    """What the references answered to an input."""

    kind: Literal["voted"] = "voted"
    number: int
    """Of the case."""
    expected: str
    """The output that most of them gave."""
    agreeing: tuple[int, ...]
    """Which of them gave it, from 0."""
    verdicts: tuple[Verdict, ...]
    """What became of each, OK if it gave any output."""


Step = Written | Made | Voted
_STEP: TypeAdapter[Step] = TypeAdapter(Annotated[Step, Field(discriminator="kind")])


class Journal:
    """Steps in a file. One process at a time may write to it."""

    def __init__(self, file: Path) -> None:
        """Read what is there; half a line at its end, of a process that was killed, is removed. Raises TandemError."""
        self._file = file
        self.written: Written | None = None
        self._made: dict[int, Made] = {}
        self._voted: dict[int, Voted] = {}
        data = file.read_bytes() if file.exists() else b""
        whole = data[: data.rfind(b"\n") + 1]
        if len(whole) < len(data):
            os.truncate(file, len(whole))
        for number, line in enumerate(whole.splitlines(), start=1):
            try:
                self._take(_STEP.validate_json(line))
            except ValidationError as error:
                raise TandemError(
                    f"line {number} of {file} cannot be read: {error}; remove the file, and its problem is done anew"
                ) from error

    @property
    def made(self) -> Mapping[int, Made]:
        """Inputs, by the number of the case."""
        return self._made

    @property
    def voted(self) -> Mapping[int, Voted]:
        """Votes, by the number of the case."""
        return self._voted

    def add(self, step: Step) -> None:
        """Note a step; when this returns it is on the disk."""
        with self._file.open("ab") as file:
            file.write(step.model_dump_json().encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        self._take(step)

    def _take(self, step: Step) -> None:
        match step:
            case Written():
                self.written = step
            case Made():
                self._made[step.number] = step
            case Voted():
                self._voted[step.number] = step
