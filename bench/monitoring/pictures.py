"""Draws what a dashboard shows."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, Formatter, PercentFormatter, StrMethodFormatter
from tandem_operator.generate.monitoring.panels import Dashboard, Panel

from bench.monitoring.answers import Answers, Line

COLUMNS = 3
_MOST_LINES = 10
_WIDTH, _HEIGHT = 4.4, 2.5
"""Of a panel, in inches."""
_LONG_TEXT = 10
_FORMATS: dict[str, Formatter] = {
    "s": EngFormatter("s"),
    "bytes": EngFormatter("B"),
    "Bps": EngFormatter("B/s"),
    "percentunit": PercentFormatter(1.0),
    "short": StrMethodFormatter("{x:,.4g}"),
}


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
    if panel.kind in ("number", "bars"):
        _write_numbers(place, panel, lines)
        return
    if panel.kind == "stacked":
        _draw_stacked(place, lines, start)
    else:
        for line in lines[:_MOST_LINES]:
            place.plot([at - start for at in line.series.times], line.series.values, label=line.name, linewidth=1)
    if panel.unit in _FORMATS:
        place.yaxis.set_major_formatter(_FORMATS[panel.unit])
    if panel.unit != "none":
        top = place.get_ylim()[1]
        place.set_ylim(-0.02 * top, 1.05 * top)  # lines at 0 and at the top are to be seen
    place.set_xlabel("s", fontsize=7)
    place.grid(alpha=0.3)
    place.legend(fontsize=6, frameon=False, loc="best")


def _write_numbers(place: Any, panel: Panel, lines: Sequence[Line]) -> None:
    """The newest values, with their names where there are several."""
    place.axis("off")
    newest = max(line.series.times[-1] for line in lines)
    shown = [line for line in lines if line.series.times[-1] == newest]
    texts = [f"{value:.0%}" if panel.unit == "percentunit" else f"{value:,.4g}" for value in map(_last, shown)]
    if len(shown) > 1 or "{{" in panel.queries[0].legend:
        texts = [f"{line.name}  {text}" for line, text in zip(shown, texts, strict=True)]
    size = 24 if max(map(len, texts)) < _LONG_TEXT else 13
    place.text(0.5, 0.5, "\n".join(texts), ha="center", va="center", fontsize=size, transform=place.transAxes)


def _last(line: Line) -> float:
    return line.series.values[-1]


def _draw_stacked(place: Any, lines: Sequence[Line], start: float) -> None:
    times = sorted({at for line in lines for at in line.series.times})
    known = [dict(zip(line.series.times, line.series.values, strict=True)) for line in lines]
    values = [[each.get(at, 0.0) for at in times] for each in known]
    place.stackplot([at - start for at in times], values, labels=[line.name for line in lines], alpha=0.7)
