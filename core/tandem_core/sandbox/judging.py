"""Requests and answers of the code sandbox that judge programs by test cases."""

from typing import Annotated, Literal

from pydantic import Field

from tandem_core.sandbox.messages import Limits, Message, Source, Verdict


class ExactChecker(Message):
    """The same bytes, white space at the very end apart."""

    kind: Literal["exact"] = "exact"


class TokensChecker(Message):
    """The same words in the same order, white space apart."""

    kind: Literal["tokens"] = "tokens"
    ignore_case: bool = False
    """Whether capitals matter not."""


class FloatsChecker(Message):
    """The same words; where both are numbers, they may differ by a tolerance."""

    kind: Literal["floats"] = "floats"
    absolute: float = Field(default=1e-6, ge=0)
    """Allowed absolute difference."""
    relative: float = Field(default=1e-6, ge=0)
    """Allowed difference relative to the expected number. One of both is enough."""


class ProgramChecker(Message):
    """A program that gets the names of three files: input, output, expected answer. Exit code 0: right, 1 or 2:
    wrong."""

    kind: Literal["program"] = "program"
    source: Source
    """The checker."""
    limits: Limits = Limits()
    """What the checker may use."""


Checker = Annotated[
    ExactChecker | TokensChecker | FloatsChecker | ProgramChecker,
    Field(discriminator="kind", default_factory=TokensChecker),
]


class Case(Message):
    """One test case."""

    stdin: str = ""
    """Standard input."""
    expected: str = ""
    """The expected output; never enters the program's container."""


class JudgeRequest(Message):
    """Judge programs by the same test cases. Each program is compiled once; each case runs in a new container."""

    programs: tuple[Source, ...] = Field(min_length=1, max_length=256)
    """The programs."""
    cases: tuple[Case, ...] = Field(min_length=1, max_length=10_000)
    """The test cases, in order."""
    checker: Checker
    """How an output is compared."""
    limits: Limits = Limits()
    """What each case may use."""
    stop_early: bool = False
    """Whether a program's cases after its first failed one are left out."""
    outputs: bool = False
    """Whether to return what programs wrote (the first 4 KiB)."""


class CaseResult(Message):
    """What became of one case."""

    verdict: Verdict
    """The verdict."""
    detail: str = ""
    """Why, in a sentence."""
    cpu_seconds: float = 0.0
    """Processor time used."""
    wall_seconds: float = 0.0
    """Time by the clock."""
    memory_bytes: int = 0
    """Most memory used at a time."""
    stdout: str | None = None
    """The start of the output, where asked for."""


class ProgramResult(Message):
    """What became of one program."""

    verdict: Verdict
    """OK if all cases are; else that of the first case that is not, or CE. IE if any case is: it may yet be right."""
    detail: str = ""
    """Why, in a sentence; what the compiler says, if the verdict is CE."""
    cases: tuple[CaseResult, ...] = ()
    """Cases that were judged, in order: up to the first failed one with stop_early, none if it does not compile."""

    @property
    def passed(self) -> int:
        """Cases with the verdict OK."""
        return sum(case.verdict == Verdict.OK for case in self.cases)


class JudgeResult(Message):
    """What became of a judgement."""

    programs: tuple[ProgramResult, ...]
    """One for each program, in order."""
