"""Curves of a comparison: the mean over seeds as a line, their range as a band."""

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

import matplotlib as mpl
from matplotlib.figure import Figure

from bench.ablations.experiments import BASELINE, Comparison
from bench.ablations.runs import Run

_LABELS = {"accuracy": "held-out accuracy (greedy)", "length": "tokens of an answer"}


def draw_comparison(comparison: Comparison, runs: Sequence[Run], path: Path) -> None:
    """Write the figure as SVG: one panel for each metric. The same runs give the same bytes."""
    mpl.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": comparison.name, "font.size": 9})
    figure = Figure(figsize=(4.6 * len(comparison.metrics), 3.2), layout="constrained")
    panels = figure.subplots(1, len(comparison.metrics), squeeze=False)[0]
    for panel, metric in zip(panels, comparison.metrics, strict=True):
        for variant in (BASELINE, *comparison.variants):
            own = [run for run in runs if run.variant == variant]
            columns = list(zip(*(getattr(run, metric) for run in own), strict=True))
            (line,) = panel.plot(own[0].iterations, [fmean(values) for values in columns], label=variant)
            low, high = [min(values) for values in columns], [max(values) for values in columns]
            panel.fill_between(own[0].iterations, low, high, alpha=0.15, linewidth=0, color=line.get_color())
        panel.set(xlabel="iteration", ylabel=_LABELS[metric])
        panel.grid(alpha=0.3)
    panels[0].legend(frameon=False)
    figure.savefig(path, metadata={"Date": None}, facecolor="white")
