"""Draws what a dashboard shows."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, PercentFormatter
from tandem_operator.generate.monitoring.panels import Dashboard, Panel

from bench.monitoring.answers import Answers, Line

COLUMNS = 3
_MOST_LINES = 10
_WIDTH, _HEIGHT = 4.4, 2.5
"""Of a panel, in inches."""
_FORMATS = {"s": EngFormatter("s"), "bytes": EngFormatter("B"), "Bps": EngFormatter("B/s"), "short": EngFormatter()}


def draw_dashboard(dashboard: Dashboard, answers: Answers, path: Path) -> None:
    """Write the picture as PNG."""
    panels = dashboard.panels
    rows = -(-len(panels) // COLUMNS)
    figure = Figure(figsize=(_WIDTH * COLUMNS, _HEIGHT * rows + 0.4), layout="constrained", dpi=75)
    figure.suptitle(f"Tandem / {dashboard.title}", fontweight="bold")
    places = list(figure.subplots(rows, COLUMNS, squeeze=False).flat)
    start = min(line.series.times[0] for lines in answers.lines.values() for line in lines)
    for place, panel in zip(places, panels, strict=False):
        _draw_panel(place, panel, answers.of(dashboard, panel), start)
    for place in places[len(panels) :]:
        place.axis("off")
    figure.savefig(path, facecolor="white")


def _draw_panel(place: Any, panel: Panel, lines: Sequence[Line], start: float) -> None:
    place.set_title(panel.title, fontsize=8.5, loc="left")
    place.tick_params(labelsize=7)
    if panel.kind == "number" and len(lines) == 1:
        value = lines[0].series.values[-1]
        place.axis("off")
        text = f"{value:.0%}" if panel.unit == "percentunit" else f"{value:,.4g}"
        place.text(0.5, 0.5, text, ha="center", va="center", fontsize=24, transform=place.transAxes)
        return
    if panel.kind == "stacked":
        _draw_stacked(place, lines, start)
    else:
        for line in lines[:_MOST_LINES]:
            place.plot([at - start for at in line.series.times], line.series.values, label=line.name, linewidth=1)
    if panel.unit == "percentunit":
        place.yaxis.set_major_formatter(PercentFormatter(1.0))
    elif panel.unit in _FORMATS:
        place.yaxis.set_major_formatter(_FORMATS[panel.unit])
    if panel.unit != "none":
        place.set_ylim(bottom=0)
    place.set_xlabel("s", fontsize=7)
    place.grid(alpha=0.3)
    if lines:
        place.legend(fontsize=6, frameon=False, loc="best")


def _draw_stacked(place: Any, lines: Sequence[Line], start: float) -> None:
    times = sorted({at for line in lines for at in line.series.times})
    known = [dict(zip(line.series.times, line.series.values, strict=True)) for line in lines]
    values = [[each.get(at, 0.0) for at in times] for each in known]
    place.stackplot([at - start for at in times], values, labels=[line.name for line in lines], alpha=0.7)
