"""The page's curves from a job's history. Pure."""

import math
from collections.abc import Sequence

from tandem_rollout.page.cards import build_cards
from tandem_rollout.page.contents import Figure, PhaseSeconds
from tandem_rollout.page.figures import build_figures, build_more_figures, shown_iterations
from tandem_rollout.page.live import Curves
from tandem_rollout.page.phase_times import build_phase_seconds
from tandem_rollout.storage.history import AccuracyRecord, IterationRecord

MOST_POINTS = 2000
"""Of a curve; a wide screen has no more pixels."""


def build_curves(
    iterations: int, records: Sequence[IterationRecord], accuracies: Sequence[AccuracyRecord], smoothing: float
) -> Curves:
    """All curves of a job that is to have so many iterations.

    `smoothing` is the weight of what was before in the moving averages, from 0 (no averages) to below 1.
    """
    shown = shown_iterations(records)
    step = max(1, math.ceil(len(shown) / MOST_POINTS))
    phases = build_phase_seconds(records)
    return Curves(
        cards=build_cards(iterations, records, accuracies),
        iterations=_thin([record.iteration for record in shown], step),
        figures=[thin_figure(figure, step) for figure in build_figures(shown, accuracies, 1 - smoothing)],
        more_figures=[thin_figure(figure, step) for figure in build_more_figures(shown)],
        phases=_thin_phases(phases, step),
    )


def thin_figure(figure: Figure, step: int) -> Figure:
    """Every `step`-th value of each curve, the newest among them; averages are of all values nevertheless."""
    lines = [line.model_copy(update={"values": _thin(line.values, step)}) for line in figure.lines]
    return figure.model_copy(update={"lines": lines})


def _thin_phases(phases: PhaseSeconds, step: int) -> PhaseSeconds:
    seconds = [_thin(values, step) for values in phases.seconds]
    return phases.model_copy(update={"iterations": _thin(phases.iterations, step), "seconds": seconds})


def _thin[T](values: Sequence[T], step: int) -> list[T]:
    return list(values[(len(values) - 1) % step :: step]) if values else []
