"""What pages are given: plain data, as their scripts read it."""

from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict


class PageModel(BaseModel):
    """A part of what a page is given."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class Card(PageModel):
    """A number to see first."""

    label: str
    value: str
    note: str = ""


class Line(PageModel):
    """One curve over the iterations; None: not measured."""

    label: str
    values: Sequence[float | None]
    faint: bool = False
    """Drawn in the background: the raw values behind an average."""


class Points(PageModel):
    """Single measurements, each at an iteration."""

    label: str
    iterations: Sequence[int]
    values: Sequence[float]


class Figure(PageModel):
    """Curves that share an axis."""

    title: str
    note: str
    lines: Sequence[Line]
    points: Points | None = None
    wide: bool = False
    """Takes the whole width."""


class PhaseRow(PageModel):
    """Seconds of one phase over the run."""

    phase: str
    total: float
    share: float
    """Of all phases' seconds."""
    median: float
    """Of one iteration."""
    p95: float
    longest: float


class PhaseSeconds(PageModel):
    """Seconds of each phase by iteration, from iteration 1 on: the warm-up would hide the rest."""

    names: Sequence[str]
    seconds: Sequence[Sequence[float]]
    """By phase, then by iteration."""
    iterations: Sequence[int]
    rows: Sequence[PhaseRow]
    """The whole run, warm-up and all."""


class Lane(PageModel):
    """A row of the timeline."""

    pod: str
    names: Sequence[str]
    """Activities shown in it; none of them overlap."""


class Bar(PageModel):
    """A stretch of work; seconds from the timeline's origin."""

    lane: int
    name: str
    iteration: int
    start: float
    end: float


class Timeline(PageModel):
    """What each pod did when."""

    lanes: Sequence[Lane]
    names: Sequence[str]
    bars: Sequence[Bar]
    """By start."""
    left_out: str = ""
    """What is not shown, in words; empty: nothing."""
    origin: float = 0.0
    """Unix time in seconds from which the bars' times count."""
