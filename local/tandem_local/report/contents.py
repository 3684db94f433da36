"""What the report is given: plain data, as its scripts read it."""

from collections.abc import Sequence

from tandem_rollout.page.contents import Figure, PageModel, PhaseSeconds, Timeline


class Sample(PageModel):
    """An answer to show."""

    iteration: int
    group: str
    prompt: str
    text: str
    reward: float
    correct: bool
    tokens: int
    note: str
    """Why it ended and which versions made it, or the reference answer."""


class Contents(PageModel):
    """Everything on the page that scripts draw."""

    iterations: Sequence[int]
    figures: Sequence[Figure]
    more_figures: Sequence[Figure]
    phases: PhaseSeconds
    timeline: Timeline
    samples: Sequence[Sample]
    evaluation_samples: Sequence[Sample]
