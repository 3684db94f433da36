"""What is compared with what."""

from collections.abc import Mapping
from dataclasses import dataclass

BASELINE = "omd, uniform"

VARIANTS: Mapping[str, tuple[str, ...]] = {
    BASELINE: (),
    "rest": ("spec.algorithm.loss=rest",),
    "curriculum": ("spec.data.sampling=curriculum", "spec.data.curriculumIterations=60"),
    "prioritised": ("spec.data.sampling=prioritised",),
    "length reward": ("spec.rewards.length.weight=0.5",),
    "length reward, late": ("spec.rewards.length.weight=0.5", "spec.rewards.length.warmupIterations=40"),
}
"""What each changes in job.yaml."""


@dataclass(frozen=True)
class Comparison:
    """One section of the page."""

    name: str
    """Of its figure."""
    title: str
    question: str
    variants: tuple[str, ...]
    """Compared with the baseline."""
    metrics: tuple[str, ...] = ("accuracy",)
    """Fields of a Run."""


COMPARISONS = (
    Comparison(
        "loss",
        "Online mirror descent against ReST",
        "ReST imitates right answers and learns nothing from wrong ones. Kimi k1.5 (3.5) reports that it needs more "
        "samples for the same accuracy.",
        ("rest",),
    ),
    Comparison(
        "sampling",
        "Curriculum and prioritised against uniform sampling",
        "Curriculum: problems with few terms first, all of them from half of the run on. Prioritised: in proportion to "
        "1 - success rate. Kimi k1.5 (3.5) reports that a curriculum learns faster and ends higher.",
        ("curriculum", "prioritised"),
    ),
    Comparison(
        "length",
        "The length reward",
        "The base model repeats its working once to three times before it answers. Kimi k1.5 (2.3.3) adds the length "
        "reward against such overthinking, later in the run because it slows learning at first.",
        ("length reward", "length reward, late"),
        ("accuracy", "length"),
    ),
)
