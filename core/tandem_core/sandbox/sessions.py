"""Requests and answers of the code sandbox's sessions: cells that run one after the other and share state."""

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Literal

from pydantic import Field, JsonValue, field_validator

from tandem_core.sandbox.messages import CellLimits, File, Message, SessionLimits, Verdict, WorkPath, check_work_path

KERNEL_NAME = r"^[A-Za-z0-9._-]{1,64}$"


class SessionRequest(Message):
    """Start a Jupyter kernel in a container of its own."""

    kernel: str = Field(default="python3", pattern=KERNEL_NAME)
    """Name of the kernel, as /v1/languages lists it."""
    image: str | None = None
    """The image to use; None: the first one that has the kernel."""
    files: Mapping[WorkPath, File] = Field(default_factory=dict, max_length=1024)
    """Files to put into the working folder."""
    limits: SessionLimits = SessionLimits()
    """What all cells together may hold at a time; the kernel needs about 100 MB of the memory."""
    ttl_seconds: float = Field(default=3600.0, gt=0, le=86_400)
    """The session ends so long after it was made, whatever it does then."""
    idle_seconds: float = Field(default=600.0, gt=0, le=86_400)
    """It ends earlier when no cell has run for so long."""

    @field_validator("files")
    @classmethod
    def _files_stay_below(cls, files: Mapping[str, File]) -> Mapping[str, File]:
        for path in files:
            check_work_path(path)
        return files


class SessionDescription(Message):
    """A session that is there."""

    id: str
    """What its paths hold: /v1/sessions/ID."""
    kernel: str
    """Name of its kernel."""
    image: str
    """The image it is made of."""
    created: datetime
    """When it was made."""
    expires: datetime
    """When it ends at the latest."""
    cells: int
    """Cells that have run."""
    busy: bool
    """Whether a cell runs, or waits for its turn."""


class SessionList(Message):
    """All sessions of the service."""

    sessions: tuple[SessionDescription, ...]
    """In the order in which they were made."""
    most: int
    """So many can be there at a time."""


class CellRequest(Message):
    """Run a cell."""

    code: str
    """Source text in the kernel's language."""
    limits: CellLimits = CellLimits()
    """What this cell may use. Beyond it, it is interrupted; the session ends if it goes on nevertheless."""


class StreamOutput(Message):
    """Text on standard output or standard error."""

    output_type: Literal["stream"] = "stream"
    name: Literal["stdout", "stderr"]
    """Which one."""
    text: str
    """The text."""


class DisplayOutput(Message):
    """Something shown by the cell."""

    output_type: Literal["display_data"] = "display_data"
    data: Mapping[str, JsonValue]
    """By MIME type; bytes, as those of image/png, in base64."""
    metadata: Mapping[str, JsonValue] = Field(default_factory=dict)
    """By MIME type too."""


class ResultOutput(Message):
    """The value of the cell's last expression."""

    output_type: Literal["execute_result"] = "execute_result"
    execution_count: int | None = None
    """Number of the cell."""
    data: Mapping[str, JsonValue]
    """By MIME type."""
    metadata: Mapping[str, JsonValue] = Field(default_factory=dict)
    """By MIME type too."""


class ErrorOutput(Message):
    """What the cell raised."""

    output_type: Literal["error"] = "error"
    ename: str
    """Kind of the error."""
    evalue: str
    """Its text."""
    traceback: tuple[str, ...] = ()
    """For people, with colours of a terminal."""


CellOutput = Annotated[StreamOutput | DisplayOutput | ResultOutput | ErrorOutput, Field(discriminator="output_type")]
"""As in a notebook's file (nbformat 4)."""


class CellResult(Message):
    """What became of a cell."""

    verdict: Verdict
    """OK, or RE (it raised an error, or its kernel died), TLE, MLE, OLE; IE: it says nothing about the cell."""
    detail: str = ""
    """Why, in a sentence."""
    alive: bool
    """Whether the session goes on: with all its state."""
    outputs: tuple[CellOutput, ...] = ()
    """In order; neighbouring texts of one stream are one output."""
    execution_count: int | None = None
    """The kernel's number of the cell."""
    cpu_seconds: float = 0.0
    """Processor time used by this cell, and by threads that earlier ones left."""
    wall_seconds: float = 0.0
    """Time by the clock."""
    memory_bytes: int = 0
    """Most memory that the session has used at a time so far."""

    @property
    def stdout(self) -> str:
        """Everything on standard output."""
        return self._join("stdout")

    @property
    def stderr(self) -> str:
        """Everything on standard error."""
        return self._join("stderr")

    @property
    def result(self) -> str | None:
        """The value of the last expression, as text; None if it has none."""
        for output in self.outputs:
            if isinstance(output, ResultOutput):
                return str(output.data.get("text/plain", ""))
        return None

    def _join(self, name: str) -> str:
        return "".join(each.text for each in self.outputs if isinstance(each, StreamOutput) and each.name == name)
