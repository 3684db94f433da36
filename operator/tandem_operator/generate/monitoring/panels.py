"""What a dashboard consists of: panels whose titles are questions, each with the queries that answer it."""

from dataclasses import dataclass
from typing import Literal

from tandem_core.metric_kinds import CounterDescription, HistogramDescription

OF_JOB = 'namespace=~"$namespace", rljob=~"$rljob"'
"""Chooses the series of the job, or jobs, that the reader has chosen."""
JOB_NAME = "{{namespace}}/{{rljob}}"
"""A legend."""

Kind = Literal["lines", "stacked", "number", "bars"]
Unit = Literal["short", "s", "bytes", "Bps", "percentunit", "none"]
"""Grafana's names of units; short: a number with k, M; none: as it is."""


@dataclass(frozen=True)
class Query:
    """An expression, and what each of its lines is called."""

    expression: str
    legend: str


@dataclass(frozen=True)
class Panel:
    """A question and its answer."""

    title: str
    queries: tuple[Query, ...]
    unit: Unit = "short"
    kind: Kind = "lines"
    description: str = ""
    width: int = 12
    """Of 24."""


@dataclass(frozen=True)
class Row:
    """Panels under a heading."""

    title: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True)
class Dashboard:
    """A page of Grafana."""

    name: str
    """Of its file, and in addresses."""
    title: str
    description: str
    rows: tuple[Row, ...]
    chooses_job: bool = True
    """Whether it shows jobs, which the reader then chooses."""

    @property
    def panels(self) -> tuple[Panel, ...]:
        """All of them."""
        return tuple(panel for row in self.rows for panel in row.panels)


def per_second(counter: CounterDescription, chosen: str = OF_JOB) -> str:
    """How fast it grows."""
    return f"rate({counter.series[0]}{_braced(chosen)}[$__rate_interval])"


def quantile(share: float, histogram: HistogramDescription, by: str = "", chosen: str = OF_JOB) -> str:
    """The value below which that share of a histogram lies, for each value of the labels `by`."""
    labels = ", ".join(filter(None, ("le", by)))
    buckets = f"{histogram.name}_bucket{_braced(chosen)}"
    return f"histogram_quantile({share}, sum by ({labels}) (rate({buckets}[$__rate_interval])))"


def quantiles(
    shares: tuple[float, ...], histogram: HistogramDescription, by: str = "", chosen: str = OF_JOB, legend: str = ""
) -> tuple[Query, ...]:
    """A line for each share, called `legend` and its percentile."""
    return tuple(
        Query(quantile(share, histogram, by, chosen), f"{legend} p{share * 100:.0f}".lstrip()) for share in shares
    )


def mean(histogram: HistogramDescription, by: str, chosen: str = OF_JOB) -> str:
    """The mean of a histogram's values, for each value of the labels `by`."""
    total, count = (
        f"sum by ({by}) (rate({histogram.name}_{part}{_braced(chosen)}[$__rate_interval]))" for part in ("sum", "count")
    )
    return f"{total} / ({count} > 0)"


def _braced(chosen: str) -> str:
    return f"{{{chosen}}}" if chosen else ""
