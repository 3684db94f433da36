"""The master's Prometheus metrics: all names stand here."""

from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from tandem_core.coordination.records import Summary

GAUGES = {
    "iteration": "Iteration of the phase.",
    "version": "Newest committed weight version, or the one that is being published or loaded; -1: none.",
    "reward": "Mean reward of the last iteration.",
    "reward_average": "Moving average of the mean reward.",
    "accuracy": "Newest greedy accuracy on held-out prompts.",
    "loss": "Loss of the last training step.",
    "tokens_per_second": "Tokens generated a second in the last rollout phase.",
    "response_tokens": "Mean length of the last iteration's answers.",
    "logprob_difference": "Mean absolute difference between the engine's and the trainer's log-probabilities.",
    "engines_serving": "Engines that may get prompts.",
    "carried_over": "Unfinished answers that wait for the next iteration.",
    "inference_tokens": "Tokens of the last iteration that inference pods generated.",
    "versions_behind": "How many versions the oldest token of the last batch is behind.",
}
"""Fields of Summary, each the gauge tandem_<name>."""


class SummaryCollector(Collector):
    """Reads the summary when it is scraped."""

    def __init__(self, observe_summary: Callable[[], Summary | None], observe_tokens: Callable[[], int]) -> None:
        self._observe_summary = observe_summary
        self._observe_tokens = observe_tokens

    def collect(self) -> Iterator[Metric]:
        """All metrics; only those of the process before the job has begun."""
        yield CounterMetricFamily(
            "tandem_generated_tokens", "Tokens generated since the master started.", value=self._observe_tokens()
        )
        summary = self._observe_summary()
        if summary is None:
            return
        for name, description in GAUGES.items():
            value = getattr(summary, name)
            if value is not None:
                yield GaugeMetricFamily(f"tandem_{name}", description, value=float(value))
        yield CounterMetricFamily("tandem_samples", "Answers trained on.", value=summary.samples)
        phases = CounterMetricFamily("tandem_phase_seconds", "Seconds spent in each phase.", labels=["phase"])
        for phase, seconds in summary.phase_seconds.items():
            phases.add_metric([phase], seconds)
        yield phases


def build_registry(collector: SummaryCollector) -> CollectorRegistry:
    """A registry with the master's metrics only."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(collector)
    return registry


def render_metrics(registry: CollectorRegistry) -> bytes:
    """The metrics in Prometheus' text format."""
    return generate_latest(registry)
