"""The checkpoint engine's Prometheus metrics; tandem_core.metrics has their names."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric
from prometheus_client.registry import Collector
from tandem_core.coordination.records import Activity, EngineState, EngineStatus
from tandem_core.metric_kinds import new_registry
from tandem_core.metrics import CheckpointEngine

from tandem_sidecar.receive import ReceivedVersion

REGISTRY = new_registry()
FAILURES = CheckpointEngine.FAILURES.build(REGISTRY)
_STEP_SECONDS = CheckpointEngine.STEP_SECONDS.build(REGISTRY)
_RECEIVED_BYTES = CheckpointEngine.RECEIVED_BYTES.build(REGISTRY)
_RECEIVE_SECONDS = CheckpointEngine.RECEIVE_SECONDS.build(REGISTRY)

# What has not happened yet is 0, not absent: a rate then begins with the first time.
for _source in ("own_pod", "other_pods", "replica"):
    _RECEIVED_BYTES.labels(_source)


@dataclass(frozen=True, slots=True)
class EngineView:
    """What the metrics say about the engine as it is now."""

    status: EngineStatus
    newest_version: int
    """The newest committed one; -1: none."""


class EngineCollector(Collector):
    """Looks at the engine when it is scraped."""

    def __init__(self, observe: Callable[[], EngineView | None]) -> None:
        self._observe = observe

    def collect(self) -> Iterator[Metric]:
        """Nothing before there is an engine; no lag of an engine without weights."""
        view = self._observe()
        if view is None:
            return
        states = CheckpointEngine.STATE.family()
        for state in EngineState:
            states.add_metric([state], float(state is view.status.state))
        yield states
        yield CheckpointEngine.VERSION.family(view.status.version)
        yield CheckpointEngine.RESTARTS.family(view.status.restarts)
        if view.status.version >= 0:
            yield CheckpointEngine.VERSION_LAG.family(max(0, view.newest_version - view.status.version))


def note_step(activity: Activity) -> None:
    """A part of a switch is over."""
    _STEP_SECONDS.labels(activity.name).observe(activity.ended_at - activity.started_at)


def note_received(received: ReceivedVersion) -> None:
    """A version has been received and verified."""
    _RECEIVED_BYTES.labels("own_pod").inc(received.local_bytes)
    _RECEIVED_BYTES.labels("other_pods").inc(received.fetched_bytes)
    _RECEIVED_BYTES.labels("replica").inc(received.refetched_bytes)
    _RECEIVE_SECONDS.labels("fetch").observe(received.fetch_seconds)
    _RECEIVE_SECONDS.labels("verify").observe(received.verify_seconds)


def render_metrics(observe: Callable[[], EngineView | None]) -> bytes:
    """All metrics in Prometheus' text format."""
    engine = CollectorRegistry(auto_describe=False)
    engine.register(EngineCollector(observe))
    return generate_latest(REGISTRY) + generate_latest(engine)
