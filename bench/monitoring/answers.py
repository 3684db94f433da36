"""What Prometheus answers to each panel of each dashboard."""

import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from tandem_operator.generate.monitoring import DASHBOARDS
from tandem_operator.generate.monitoring.panels import Dashboard, Panel

from bench.monitoring.prometheus import SCRAPE_SECONDS, Prometheus, Series, serve_prometheus
from bench.monitoring.watched import run_job, run_operator, run_sandbox


@dataclass(frozen=True)
class Line:
    """A series with its name."""

    name: str
    series: Series


@dataclass(frozen=True)
class Answers:
    """To all questions."""

    lines: Mapping[tuple[str, str], tuple[Line, ...]]
    """By the name of the dashboard and the panel's title."""
    rules: Mapping[str, str]
    """The health of each alert rule."""

    def of(self, dashboard: Dashboard, panel: Panel) -> tuple[Line, ...]:
        """The lines of one panel."""
        return self.lines[dashboard.name, panel.title]

    @property
    def unanswered(self) -> list[str]:
        """Panels that stayed empty."""
        return [f"{dashboard}: {title}" for (dashboard, title), lines in self.lines.items() if not lines]


def watch_job(directory: Path, iterations: int, warmup_steps: int) -> Answers:
    """Train the shortened example with a Prometheus beside it, and ask all questions afterwards.

    Needs root (for the sandbox), the programs of the test cluster, and Prometheus. Takes two minutes, and two seconds
    for each iteration. Raises TandemError.
    """
    with ExitStack() as stack:
        operator = stack.enter_context(run_operator(directory))
        sandbox = stack.enter_context(run_sandbox(directory / "sandbox"))
        job = stack.enter_context(run_job(directory, iterations, warmup_steps))
        started_at = time.time()
        targets = [*job.find_targets(), operator, sandbox.target]
        prometheus = stack.enter_context(serve_prometheus(directory, targets))
        while job.runs:
            sandbox.run_program()
            time.sleep(SCRAPE_SECONDS)
        return ask_all(prometheus, started_at, time.time())


def ask_all(prometheus: Prometheus, start: float, end: float) -> Answers:
    """All answers from `start` to `end`, Unix seconds."""
    lines = {
        (dashboard.name, panel.title): _ask(prometheus, panel, start, end)
        for dashboard in DASHBOARDS
        for panel in dashboard.panels
    }
    return Answers(lines, prometheus.observe_rules())


def _ask(prometheus: Prometheus, panel: Panel, start: float, end: float) -> tuple[Line, ...]:
    return tuple(
        Line(_name(query.legend, series.labels), series)
        for query in panel.queries
        for series in prometheus.query(query.expression, start, end)
    )


def _name(legend: str, labels: Mapping[str, str]) -> str:
    """As Grafana makes it."""
    for label, value in labels.items():
        legend = legend.replace(f"{{{{{label}}}}}", value)
    return legend
