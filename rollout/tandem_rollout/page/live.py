"""What the job's own page is given, beside what it shares with the report: plain data, as its scripts read it."""

from collections.abc import Sequence

from tandem_core.coordination.records import EngineState, Summary

from tandem_rollout.page.contents import Card, Figure, PageModel, PhaseSeconds, Timeline


class EngineNow(PageModel):
    """An engine as it is."""

    pod: str
    kind: str
    """hybrid or inference."""
    state: EngineState
    version: int
    """The weight version it serves; -1: none."""
    behind: int
    """How many versions older that is than the newest; 0 if it serves none."""
    restarts: int
    problem: str
    """What it waits for; empty: nothing."""


class Overview(PageModel):
    """What the page asks for every few seconds."""

    job: str
    iterations: int
    """How many the job is to have."""
    live: bool
    """Whether a master leads the job; else only what is recorded is there."""
    summary: Summary | None
    """None: it is not live, or has not begun."""
    engines: Sequence[EngineNow]
    """By kind and pod; empty if it is not live."""
    first_iteration: int
    """The first recorded one; 0: the warm-up."""
    last_iteration: int
    """The last recorded one; 0: none, or only the warm-up."""
    changed_at: float
    """Unix time in seconds of the newest change in what is recorded: time to ask for it again."""


class Curves(PageModel):
    """What was learnt, and where the time went."""

    cards: Sequence[Card]
    iterations: Sequence[int]
    """Those that `figures` show: of very many, every second, third or so."""
    figures: Sequence[Figure]
    more_figures: Sequence[Figure]
    phases: PhaseSeconds


class VersionBar(PageModel):
    """A stretch in which an engine served a version; seconds from the timeline's origin."""

    lane: int
    version: int
    start: float
    end: float


class Versions(PageModel):
    """Which engine served which version when."""

    pods: Sequence[str]
    """The lanes."""
    bars: Sequence[VersionBar]
    """By start."""


class Window(PageModel):
    """What the pods did in some iterations."""

    timeline: Timeline
    versions: Versions
