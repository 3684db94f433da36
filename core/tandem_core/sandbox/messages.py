"""Requests and answers of the code sandbox that run a program, and what it says of itself."""

import base64
import binascii
from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

MEBIBYTE = 1 << 20


class Message(BaseModel):
    """A frozen part of a request or an answer."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class Verdict(StrEnum):
    """What became of a program."""

    OK = "OK"
    """It ended with exit code 0; in a judgement: and the checker accepts its output."""
    WA = "WA"
    """Wrong answer."""
    TLE = "TLE"
    """It used more processor time than allowed, or was idle for too long."""
    MLE = "MLE"
    """It, or a process it started, was ended because it used more memory than allowed."""
    OLE = "OLE"
    """It wrote more than allowed."""
    RE = "RE"
    """It ended with another exit code than 0, or by a signal."""
    CE = "CE"
    """It does not compile."""
    IE = "IE"
    """The sandbox failed; this says nothing about the program. Worth another try."""


class CellLimits(Message):
    """What one run may use, or one cell of a session."""

    cpu_seconds: float = Field(default=10.0, gt=0, le=3600)
    """Processor time of all its processes together. Alone decides TLE, unless the program is idle."""
    wall_seconds: float | None = Field(default=None, gt=0, le=7200)
    """Longest time by the clock, to the point. None: a program is ended when it is idle, or ten times its processor
    time has passed, so that a busy machine changes no verdict."""
    output_bytes: int = Field(default=16 * MEBIBYTE, ge=0, le=256 * MEBIBYTE)
    """Most bytes on standard output, and on standard error; of a cell: of all its outputs together."""


class SessionLimits(Message):
    """What a container may hold, for one run or for all cells of a session."""

    memory_bytes: int = Field(default=512 * MEBIBYTE, ge=4 * MEBIBYTE)
    """Memory of all its processes, files in memory and page cache included; there is no swap."""
    processes: int = Field(default=64, ge=1, le=4096)
    """Processes and threads at a time."""
    cpus: float = Field(default=1.0, gt=0, le=256)
    """Processors it may use at a time."""
    disk_bytes: int = Field(default=64 * MEBIBYTE, ge=MEBIBYTE)
    """All files it writes. They are in memory, and count there too."""
    files: int = Field(default=4096, ge=64, le=1_000_000)
    """Files and folders it may make."""


class Limits(SessionLimits, CellLimits):
    """What one run may use."""


class File(Message):
    """A file's content: exactly one of text and base64."""

    text: str | None = None
    """Content in UTF-8."""
    base64: str | None = None
    """Content of any bytes."""
    executable: bool = False
    """Whether it may be run."""

    @classmethod
    def of(cls, data: bytes, *, executable: bool = False) -> Self:
        """The file with these bytes: as text where they are UTF-8."""
        try:
            return cls(text=data.decode(), executable=executable)
        except UnicodeDecodeError:
            return cls(base64=base64.b64encode(data).decode(), executable=executable)

    @property
    def data(self) -> bytes:
        """The bytes."""
        return self.text.encode() if self.text is not None else base64.b64decode(self.base64 or "")

    @model_validator(mode="after")
    def _one_content(self) -> Self:
        if (self.text is None) == (self.base64 is None):
            raise ValueError("a file needs exactly one of text and base64")
        try:
            base64.b64decode(self.base64 or "", validate=True)
            (self.text or "").encode()
        except (binascii.Error, UnicodeEncodeError) as error:
            raise ValueError(f"a file's content cannot be decoded: {error}") from error
        return self


def check_work_path(path: str) -> str:
    """The same path, if it stays below the working folder. Raises ValueError."""
    parts = path.split("/")
    if path.startswith("/") or any(part in ("", ".", "..") for part in parts) or "\0" in path or len(path) > 255:
        raise ValueError(f"{path!r} is not a path below the working folder: write it like data/input.txt")
    return path


WorkPath = Annotated[str, Field(min_length=1)]
"""A path below the working folder of the program."""


class Source(Message):
    """A program: source text in a language."""

    language: str
    """Name of the language, as /v1/languages lists it."""
    code: str
    """The source text."""
    image: str | None = None
    """The image to use; None: the first one that has the language."""


class RunRequest(Message):
    """Run a program, or a command of an image, once. Exactly one of source and command."""

    source: Source | None = None
    """A program; it is compiled first where its language needs that."""
    command: tuple[str, ...] | None = Field(default=None, min_length=1)
    """Program and arguments, with PATH of the image."""
    image: str | None = None
    """The image of the command; None: the service's default."""
    arguments: tuple[str, ...] = ()
    """More arguments for the program."""
    environment: Mapping[Annotated[str, Field(pattern=r"^[A-Za-z_]\w*$")], str] = Field(default_factory=dict)
    """More environment variables."""
    files: Mapping[WorkPath, File] = Field(default_factory=dict, max_length=1024)
    """Files to put into the working folder."""
    stdin: str = ""
    """Standard input."""
    limits: Limits = Limits()
    """What it may use."""
    outputs: tuple[WorkPath, ...] = Field(default=(), max_length=1024)
    """Files of the working folder to return; ** for all. Links are not followed."""

    @field_validator("files")
    @classmethod
    def _files_stay_below(cls, files: Mapping[str, File]) -> Mapping[str, File]:
        for path in files:
            check_work_path(path)
        return files

    @field_validator("outputs")
    @classmethod
    def _outputs_stay_below(cls, outputs: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(path if path == "**" else check_work_path(path) for path in outputs)

    @model_validator(mode="after")
    def _one_program(self) -> Self:
        if (self.source is None) == (self.command is None):
            raise ValueError("a run needs exactly one of source and command")
        if any("\0" in text for text in (*(self.command or ()), *self.arguments, *self.environment.values())):
            raise ValueError("arguments and environment cannot hold the character NUL")
        return self


class RunResult(Message):
    """What became of a run."""

    verdict: Verdict
    """OK, TLE, MLE, OLE, RE, CE or IE."""
    detail: str = ""
    """Why, in a sentence."""
    exit_code: int | None = None
    """The program's; 128 and more: a signal, as a shell tells it. None: it was ended."""
    stdout: str = ""
    """What it wrote; bytes that are not UTF-8 are replaced."""
    stderr: str = ""
    """What it wrote there; of a compiler if the verdict is CE."""
    cpu_seconds: float = 0.0
    """Processor time used."""
    wall_seconds: float = 0.0
    """Time by the clock."""
    memory_bytes: int = 0
    """Most memory used at a time, page cache included."""
    files: Mapping[str, File] = Field(default_factory=dict)
    """The outputs that were there."""
    left_out: tuple[str, ...] = ()
    """Outputs that are not returned: not there, no plain files, or too large."""


class LanguageDescription(Message):
    """A language that the service knows."""

    name: str
    """Its name in requests."""
    images: tuple[str, ...]
    """Images that have it."""
    compiled: bool
    """Whether there is a step that can fail with CE."""


class Holding(StrEnum):
    """How well a limit is held."""

    EXACT = "exact"
    """To the point, for all processes of a run together."""
    WATCHED = "watched"
    """By looks, up to 20 times a second, for all processes together; what happens in between is not seen."""
    NOT = "not"
    """Not at all."""


class LanguageList(Message):
    """Languages that can be used, and how the service holds the limits of runs."""

    languages: tuple[LanguageDescription, ...]
    """By name."""
    limits: Mapping[str, Holding]
    """Each field of Limits."""
    kernels: Mapping[str, tuple[str, ...]] = Field(default_factory=dict)
    """Jupyter kernels for sessions, and the images that have them."""


class Readiness(Message):
    """The service takes requests."""

    status: Literal["ready"] = "ready"
    """Always this."""
    limits: Mapping[str, Holding]
    """Each field of Limits, and how it is held."""
