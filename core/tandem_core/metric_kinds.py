"""What a metric of Prometheus is before a process makes it: its name, what it means, its labels."""

from dataclasses import dataclass
from typing import ClassVar

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily


@dataclass(frozen=True)
class Description:
    """A metric; `build` makes it in a registry, `family` is for what is looked up when it is scraped."""

    name: str
    """Without the ending _total, which the client library gives to counters."""
    meaning: str
    labels: tuple[str, ...] = ()
    kind: ClassVar[str]

    @property
    def series(self) -> tuple[str, ...]:
        """Names of its time series."""
        return (self.name,)


@dataclass(frozen=True)
class CounterDescription(Description):
    """Only grows while its process lives."""

    kind: ClassVar[str] = "counter"

    @property
    def series(self) -> tuple[str, ...]:
        """With the ending that queries need."""
        return (f"{self.name}_total",)

    def build(self, registry: CollectorRegistry) -> Counter:
        """The counter of this process."""
        return Counter(self.name, self.meaning, self.labels, registry=registry)

    def family(self, value: float) -> CounterMetricFamily:
        """With one sample and no labels."""
        return CounterMetricFamily(self.name, self.meaning, value=value)


@dataclass(frozen=True)
class GaugeDescription(Description):
    """Goes up and down."""

    kind: ClassVar[str] = "gauge"

    def build(self, registry: CollectorRegistry) -> Gauge:
        """The gauge of this process."""
        return Gauge(self.name, self.meaning, self.labels, registry=registry)

    def family(self, value: float | None = None) -> GaugeMetricFamily:
        """With one sample and no labels; without a value, the caller adds the samples by their labels."""
        if value is None:
            return GaugeMetricFamily(self.name, self.meaning, labels=self.labels)
        return GaugeMetricFamily(self.name, self.meaning, value=value)


@dataclass(frozen=True)
class HistogramDescription(Description):
    """Counts how often a value was at most each bound."""

    bounds: tuple[float, ...] = ()
    """Upper ones of the buckets; infinity is always among them."""
    kind: ClassVar[str] = "histogram"

    @property
    def series(self) -> tuple[str, ...]:
        """Those of the buckets, the sum and the number of all."""
        return (f"{self.name}_bucket", f"{self.name}_sum", f"{self.name}_count")

    def build(self, registry: CollectorRegistry) -> Histogram:
        """The histogram of this process."""
        return Histogram(self.name, self.meaning, self.labels, registry=registry, buckets=self.bounds)


def new_registry() -> CollectorRegistry:
    """For the metrics of one part, with those of its process: processor time, memory, open files, start."""
    # Without it, each counter and histogram has one series more, which nobody asks for.
    disable_created_metrics()  # type: ignore[no-untyped-call]
    registry = CollectorRegistry(auto_describe=False)
    ProcessCollector(registry=registry)
    return registry
