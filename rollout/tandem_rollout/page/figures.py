"""Which metrics are drawn together, and how they are smoothed. Pure."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tandem_rollout.page.contents import Figure, Line, Points
from tandem_rollout.storage.history import AccuracyRecord, IterationRecord

AVERAGE_FACTOR = 0.1
"""Weight of the newest value in the moving average, as in the job's status."""


@dataclass(frozen=True)
class FigurePlan:
    """A figure by the names of its metrics (name, label)."""

    title: str
    note: str
    metrics: tuple[tuple[str, str], ...]
    averaged: bool = False
    wide: bool = False


REWARD = FigurePlan(
    "Reward",
    "Mean reward of each iteration's answers, its moving average, and greedy accuracy on held-out prompts.",
    (("reward", "reward"),),
    averaged=True,
    wide=True,
)
FIGURES = (
    REWARD,
    FigurePlan("Answer length", "Mean tokens in an answer.", (("response_tokens", "mean"),), averaged=True),
    FigurePlan("Longest answer", "Tokens in it.", (("response_tokens_max", "longest"),), averaged=True),
    FigurePlan("Loss", "The training loss.", (("loss", "loss"),), averaged=True),
    FigurePlan("Gradient norm", "Before clipping.", (("gradient_norm", "gradient norm"),), averaged=True),
    FigurePlan(
        "Trainer against engine",
        "Mean absolute difference between the log-probabilities of vLLM and Megatron for the same tokens.",
        (("logprob_difference_mean", "mean difference"),),
        averaged=True,
    ),
    FigurePlan(
        "How answers end",
        "Share of answers that reached the length limit, went in circles, or took more than one iteration.",
        (("truncated", "length limit"), ("repetitive", "circles"), ("continued", "continued")),
    ),
    FigurePlan(
        "Generation",
        "Tokens per second of all engines together.",
        (("tokens_per_second", "tokens/s"),),
        averaged=True,
    ),
    FigurePlan(
        "Off-policy",
        "How many versions old a generated token is when it is trained on.",
        (("versions_behind", "mean"), ("versions_behind_max", "oldest")),
    ),
)


def build_figures(
    records: Sequence[IterationRecord], accuracies: Sequence[AccuracyRecord], factor: float = AVERAGE_FACTOR
) -> list[Figure]:
    """The figures of which there is something to draw, in order; with moving averages if `factor` is below 1."""
    built = []
    for plan in FIGURES:
        average = "moving average" if len(plan.metrics) == 1 else "{}, moving average"
        lines = [
            line
            for name, label in plan.metrics
            for line in _build_lines(records, name, label, average.format(label) if plan.averaged else "", factor)
        ]
        points = _build_accuracy(accuracies) if plan is REWARD else None
        if lines or points:
            built.append(Figure(title=plan.title, note=plan.note, lines=lines, points=points, wide=plan.wide))
    return built


def build_more_figures(records: Sequence[IterationRecord]) -> list[Figure]:
    """A figure for each metric that `build_figures` leaves out, by name; constant ones are not drawn."""
    known = {name for plan in FIGURES for name, _ in plan.metrics}
    names = sorted({name for record in records for name in record.metrics} - known)
    drawn = [name for name in names if len({record.metrics.get(name) for record in records if record.iteration}) > 1]
    return [Figure(title=name.replace("_", " "), note="", lines=_build_lines(records, name, name)) for name in drawn]


def metric_values(records: Sequence[IterationRecord], name: str) -> list[float | None]:
    """The metric by iteration; None where it was not measured or is no number."""
    return [_finite(record.metrics.get(name)) for record in records]


def moving_average(values: Sequence[float | None], factor: float = AVERAGE_FACTOR) -> list[float | None]:
    """Exponential moving average that starts at the first value; gaps stay gaps."""
    averages: list[float | None] = []
    average: float | None = None
    for value in values:
        if value is not None:
            average = value if average is None else average + factor * (value - average)
        averages.append(None if value is None else average)
    return averages


def round_significant(value: float, digits: int = 5) -> float:
    """Enough digits to draw, few enough to keep the page small."""
    return float(f"{value:.{digits}g}")


def shown_iterations(records: Sequence[IterationRecord]) -> list[IterationRecord]:
    """Those with an axis position: the warm-up, iteration 0, is not one of the curve."""
    return [record for record in records if record.iteration > 0]


def describe_progress(iterations: int, records: Sequence[IterationRecord]) -> str:
    """How far a job of so many iterations is: 12 of 300."""
    done = max((record.iteration for record in records), default=0)
    return f"{done} of {iterations}"


def _build_lines(
    records: Sequence[IterationRecord], name: str, label: str, average: str = "", factor: float = 1.0
) -> list[Line]:
    """The metric's curve, and behind it the one labelled `average` unless that is empty or nothing is averaged."""
    values = metric_values(records, name)
    if not any(value is not None for value in values):
        return []
    averaged = bool(average) and factor < 1
    raw = Line(label=label, values=_rounded(values), faint=averaged)
    return [raw, Line(label=average, values=_rounded(moving_average(values, factor)))] if averaged else [raw]


def _build_accuracy(accuracies: Sequence[AccuracyRecord]) -> Points | None:
    if not accuracies:
        return None
    return Points(
        label="held-out accuracy",
        iterations=[record.iteration for record in accuracies],
        values=[round_significant(record.accuracy) for record in accuracies],
    )


def _rounded(values: Sequence[float | None]) -> list[float | None]:
    return [None if value is None else round_significant(value) for value in values]


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
