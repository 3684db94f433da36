"""How an answer is scored."""

import re
from typing import Annotated, Literal, Self

from pydantic import Field, JsonValue, field_validator, model_validator

from tandem_core.job.schema import Count, SpecModel, Text


class RewardModel(SpecModel):
    """What every reward has."""

    weight: float = 1.0
    """Factor of this reward in the sum."""
    name: Annotated[Text, Field(max_length=64)] | None = None
    """Name in reports and metrics; the type if left out."""


class ReasoningGymReward(RewardModel):
    """The scorer that belongs to the reasoning-gym task."""

    type: Literal["reasoning-gym"]
    """reasoning-gym"""


class MathReward(RewardModel):
    """Whether the answer is mathematically equal to the reference (math-verify)."""

    type: Literal["math"]
    """math"""


class ExactReward(RewardModel):
    """Whether the answer equals the reference, surrounding white space apart."""

    type: Literal["exact"]
    """exact"""
    ignore_case: bool = False
    """Whether capitals matter not."""


class RegexReward(RewardModel):
    """1 where the pattern is found. With a group named answer, that group must equal the reference."""

    type: Literal["regex"]
    """regex"""
    pattern: Text
    """A Python regular expression."""

    @field_validator("pattern")
    @classmethod
    def _compiles(cls, pattern: str) -> str:
        try:
            re.compile(pattern)
        except re.error as error:
            raise ValueError(f"{pattern!r} is not a regular expression: {error}") from error
        return pattern


class HttpReward(RewardModel):
    """A reward model behind HTTP: POST of {"samples": [{prompt, response, answer}]} gives {"rewards": [number]}."""

    type: Literal["http"]
    """http"""
    url: Text = Field(pattern=r"^https?://")
    """Address of the service."""
    batch_size: Count = Field(default=64, ge=1)
    """Most samples in one request."""


class FunctionReward(RewardModel):
    """A Python function (prompt, response, answer, row) -> float, found as module:function on PYTHONPATH."""

    type: Literal["function"]
    """function"""
    function: Text = Field(pattern=r"^[A-Za-z_][A-Za-z0-9_.]*:[A-Za-z_][A-Za-z0-9_]*$")
    """module:function"""
    arguments: dict[str, JsonValue] = {}
    """Keyword arguments handed to each call."""


class CodeReward(RewardModel):
    """Whether the program in the answer passes its test cases in the code sandbox. The last block between ``` fences
    counts; without any, the whole answer. An answer that the sandbox itself fails at is left out, never worth 0."""

    type: Literal["code"]
    """code"""
    language: Text = Field(default="python", pattern=r"^[a-z][a-z0-9]*$")
    """Language of the programs; the sandbox's /v1/languages lists them."""
    sandbox_url: Annotated[Text, Field(pattern=r"^https?://")] | None = None
    """Address of a sandbox; TANDEM_SANDBOX_TOKEN in the master's pod is its token. Left out: the master starts one of
    its own, for which it needs root and crun."""
    program: str = "{{ response }}"
    """Jinja template of the program; sees response and every column of the row."""
    cases_field: Text | None = None
    """Column with the test cases, a list of {stdin, expected}. Left out: no input, and the reference answer is the
    expected output."""
    checker: Literal["tokens", "exact", "floats"] = "tokens"
    """How outputs are compared: word by word, byte by byte, or numbers with a tolerance of 1e-6."""
    partial: bool = False
    """Whether the share of passed cases is the reward; else all must pass."""
    cpu_seconds: float = Field(default=10.0, gt=0, le=3600)
    """Processor time for each case."""
    memory_bytes: Count = Field(default=512 << 20, ge=4 << 20)
    """Memory for each case."""


Reward = Annotated[
    ReasoningGymReward | MathReward | ExactReward | RegexReward | HttpReward | FunctionReward | CodeReward,
    Field(discriminator="type"),
]


class LengthReward(SpecModel):
    """Kimi k1.5, 2.3.3: among the samples of one prompt, shorter right answers get more, longer wrong ones less."""

    weight: float = Field(default=0.0, ge=0)
    """Factor of the length reward; 0 turns it off."""
    warmup_iterations: Count = Field(default=0, ge=0)
    """Iterations before it starts."""


class RewardSpec(SpecModel):
    """The sum of several scorers, each between 0 and 1 before its weight."""

    scorers: list[Reward] = Field(min_length=1, max_length=32)
    """The scorers."""
    length: LengthReward = Field(default_factory=LengthReward)
    """The length reward."""
    correct_at: float = 0.99
    """From which reward on (length reward apart) an answer counts as right."""
    repetition_penalty: float = Field(default=0.0, ge=0)
    """Subtracted from the reward of an answer that was ended because it went in circles."""
    timeout_seconds: float = Field(default=30.0, gt=0)
    """Longest time for scoring one sample."""

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        names = [scorer.name or scorer.type for scorer in self.scorers]
        if len(set(names)) != len(names):
            raise ValueError(f"each of rewards.scorers needs a name of its own, found {names}: set name")
        return self
