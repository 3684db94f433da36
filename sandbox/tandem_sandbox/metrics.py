"""The sandbox's Prometheus metrics; tandem_core.metrics has their names."""

from collections.abc import Callable, Iterator

from prometheus_client.core import Metric
from prometheus_client.registry import Collector
from tandem_core.metric_kinds import new_registry
from tandem_core.metrics import Sandbox
from tandem_core.sandbox.judging import JudgeResult
from tandem_core.sandbox.messages import RunResult
from tandem_core.sandbox.sessions import CellResult, SessionDescription

from tandem_sandbox.service import Service

Answer = RunResult | JudgeResult | CellResult | SessionDescription


class ServiceCollector(Collector):
    """Looks at the service when it is scraped."""

    def __init__(self, observe_service: Callable[[], Service | None]) -> None:
        self._observe_service = observe_service

    def collect(self) -> Iterator[Metric]:
        """Nothing before the service is there."""
        service = self._observe_service()
        if service is None:
            return
        pool = service.pool
        yield Sandbox.RUNNING.family(pool.running)
        yield Sandbox.WAITING.family(pool.waiting)
        yield Sandbox.READY.family(pool.ready)
        yield Sandbox.FAILURES.family(pool.failures)
        yield Sandbox.SESSIONS.family(len(service.sessions))


class SandboxMetrics:
    """Counts requests and verdicts."""

    def __init__(self, observe_service: Callable[[], Service | None]) -> None:
        self.registry = new_registry()
        self.registry.register(ServiceCollector(observe_service))
        self._verdicts = Sandbox.VERDICTS.build(self.registry)
        self._seconds = Sandbox.REQUEST_SECONDS.build(self.registry)
        self.refused = Sandbox.REFUSED.build(self.registry)

    def note(self, path: str, seconds: float, result: Answer) -> None:
        """A request has been answered; `path` as the API describes it, with {id} in it."""
        self._seconds.labels(path).observe(seconds)
        match result:
            case RunResult() | CellResult():
                self._verdicts.labels(result.verdict).inc()
            case JudgeResult():
                for program in result.programs:
                    for each in program.cases or (program,):
                        self._verdicts.labels(each.verdict).inc()
