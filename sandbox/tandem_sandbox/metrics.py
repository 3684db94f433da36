"""The sandbox's Prometheus metrics: all names stand here."""

from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from tandem_core.sandbox.deployment import QUEUE_METRIC
from tandem_core.sandbox.judging import JudgeResult
from tandem_core.sandbox.messages import RunResult

from tandem_sandbox.pool import LanePool

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)


class PoolCollector(Collector):
    """Looks at the pool when it is scraped."""

    def __init__(self, observe_pool: Callable[[], LanePool | None]) -> None:
        self._observe_pool = observe_pool

    def collect(self) -> Iterator[Metric]:
        """Nothing before the pool is there."""
        pool = self._observe_pool()
        if pool is None:
            return
        yield GaugeMetricFamily("tandem_sandbox_running", "Containers that run a program.", value=pool.running)
        yield GaugeMetricFamily(QUEUE_METRIC, "Runs that wait for a container.", value=pool.waiting)
        yield GaugeMetricFamily("tandem_sandbox_ready", "Containers that wait for a run.", value=pool.ready)
        yield CounterMetricFamily(
            "tandem_sandbox_failures", "Containers that the sandbox failed at.", value=pool.failures
        )


class SandboxMetrics:
    """Counts requests and verdicts."""

    def __init__(self, observe_pool: Callable[[], LanePool | None]) -> None:
        self.registry = CollectorRegistry(auto_describe=False)
        self.registry.register(PoolCollector(observe_pool))
        self._verdicts = Counter(
            "tandem_sandbox_verdicts", "Runs and judged cases.", ["verdict"], registry=self.registry
        )
        self._seconds = Histogram(
            "tandem_sandbox_request_seconds", "Time of requests.", ["path"], buckets=_SECONDS, registry=self.registry
        )
        self.refused = Counter("tandem_sandbox_refused", "Requests refused for overload.", registry=self.registry)

    def note(self, path: str, seconds: float, result: RunResult | JudgeResult) -> None:
        """A request has been answered."""
        self._seconds.labels(path).observe(seconds)
        if isinstance(result, RunResult):
            self._verdicts.labels(result.verdict).inc()
            return
        for program in result.programs:
            for each in program.cases or (program,):
                self._verdicts.labels(each.verdict).inc()
