"""The sandbox's Prometheus metrics; tandem_core.metrics has their names."""

from collections.abc import Callable, Iterator

from prometheus_client.core import Metric
from prometheus_client.registry import Collector
from tandem_core.metric_kinds import new_registry
from tandem_core.metrics import Sandbox
from tandem_core.sandbox.judging import JudgeResult
from tandem_core.sandbox.messages import RunResult

from tandem_sandbox.pool import LanePool


class PoolCollector(Collector):
    """Looks at the pool when it is scraped."""

    def __init__(self, observe_pool: Callable[[], LanePool | None]) -> None:
        self._observe_pool = observe_pool

    def collect(self) -> Iterator[Metric]:
        """Nothing before the pool is there."""
        pool = self._observe_pool()
        if pool is None:
            return
        yield Sandbox.RUNNING.family(pool.running)
        yield Sandbox.WAITING.family(pool.waiting)
        yield Sandbox.READY.family(pool.ready)
        yield Sandbox.FAILURES.family(pool.failures)


class SandboxMetrics:
    """Counts requests and verdicts."""

    def __init__(self, observe_pool: Callable[[], LanePool | None]) -> None:
        self.registry = new_registry()
        self.registry.register(PoolCollector(observe_pool))
        self._verdicts = Sandbox.VERDICTS.build(self.registry)
        self._seconds = Sandbox.REQUEST_SECONDS.build(self.registry)
        self.refused = Sandbox.REFUSED.build(self.registry)

    def note(self, path: str, seconds: float, result: RunResult | JudgeResult) -> None:
        """A request has been answered."""
        self._seconds.labels(path).observe(seconds)
        if isinstance(result, RunResult):
            self._verdicts.labels(result.verdict).inc()
            return
        for program in result.programs:
            for each in program.cases or (program,):
                self._verdicts.labels(each.verdict).inc()
