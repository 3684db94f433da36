"""What the service and the driver in a session's container say to each other: a JSON object a line."""

import json
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter, ValidationError
from tandem_core.sandbox.messages import Message
from tandem_core.sandbox.sessions import CellOutput

DRIVER = (Path(__file__).parent / "driver.py").read_text()
"""Its program: it is handed to the image's Python."""


class Ready(Message):
    """The kernel answers."""

    kind: Literal["ready"]


class Failed(Message):
    """There is no kernel."""

    kind: Literal["failed"]
    reason: str


class Shown(Message):
    """A cell shows something."""

    kind: Literal["output"]
    cell: int
    output: CellOutput


class Overflow(Message):
    """A cell shows more than it may: the rest is left out, and the driver has interrupted it."""

    kind: Literal["overflow"]
    cell: int


class Done(Message):
    """A cell has ended."""

    kind: Literal["done"]
    cell: int
    ok: bool
    execution_count: int | None


class Died(Message):
    """The kernel has ended."""

    kind: Literal["died"]
    reason: str


Word = Ready | Failed | Shown | Overflow | Done | Died
_WORD: TypeAdapter[Word] = TypeAdapter(Annotated[Word, Field(discriminator="kind")])


def parse_word(line: bytes) -> Word | None:
    """What the driver says; None if the driver does not speak so: then somebody else does."""
    try:
        return _WORD.validate_json(line)
    except ValidationError:
        return None


def build_run(cell: int, code: str, output_bytes: int) -> bytes:
    """Have the driver run a cell; `output_bytes` counts its lines."""
    words = {"kind": "run", "cell": cell, "code": code, "output_bytes": output_bytes}
    return json.dumps(words).encode() + b"\n"


INTERRUPT = b'{"kind": "interrupt"}\n'
"""Have the driver interrupt the cell that runs, if there is one."""
