"""The master's Prometheus metrics; tandem_core.metrics has their names.

What happens is noted where it happens, in metrics of this process. What the job is like is looked up when it is
scraped, so that a master that has taken over says the same as the one before.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric
from prometheus_client.registry import Collector
from tandem_core.coordination.records import Ack, PhaseRecord, Role, Summary
from tandem_core.metric_kinds import GaugeDescription, new_registry
from tandem_core.metrics import Master
from tandem_core.phases import TO_INFERENCE, TO_TRAINING, Phase

from tandem_rollout.trajectory import FinishReason, ScoredSample, Segment

REGISTRY = new_registry()
_PHASE_SECONDS = Master.PHASE_SECONDS.build(REGISTRY)
_SWITCH_SECONDS = Master.SWITCH_SECONDS.build(REGISTRY)
_GENERATED_TOKENS = Master.GENERATED_TOKENS.build(REGISTRY)
_SEGMENTS = Master.SEGMENTS.build(REGISTRY)
_ANSWER_TOKENS = Master.ANSWER_TOKENS.build(REGISTRY)
_ANSWER_REWARD = Master.ANSWER_REWARD.build(REGISTRY)
SCORING_SECONDS = Master.SCORING_SECONDS.build(REGISTRY)
SCORING_FAILURES = Master.SCORING_FAILURES.build(REGISTRY)
_TRAINED_TOKENS = Master.TRAINED_TOKENS.build(REGISTRY)
_TRAINING_SECONDS = Master.TRAINING_SECONDS.build(REGISTRY)
_PUBLISHED_BYTES = Master.PUBLISHED_BYTES.build(REGISTRY)
_PUBLISH_SECONDS = Master.PUBLISH_SECONDS.build(REGISTRY)

# What has not happened yet is 0, not absent: a rate then begins with the first time.
for _engines in ("hybrid", "inference"):
    _GENERATED_TOKENS.labels(_engines)
for _reason in FinishReason:
    _SEGMENTS.labels(_reason)

_OF_SUMMARY: Mapping[GaugeDescription, str] = {
    Master.ITERATION: "iteration",
    Master.ITERATIONS: "iterations",
    Master.VERSION: "version",
    Master.REWARD: "reward",
    Master.REWARD_AVERAGE: "reward_average",
    Master.ACCURACY: "accuracy",
    Master.TOKENS_PER_SECOND: "tokens_per_second",
    Master.CARRIED_OVER: "carried_over",
    Master.VERSIONS_BEHIND: "versions_behind",
    Master.ENGINES_SERVING: "engines_serving",
}
"""The field of Summary that each shows."""
_OF_TRAINING: Mapping[GaugeDescription, str] = {
    Master.LOSS: "loss",
    Master.GRADIENT_NORM: "gradient_norm",
    Master.LOGPROB_DIFFERENCE: "logprob_difference_mean",
    Master.LOGPROB_DIFFERENCE_MAX: "logprob_difference_max",
    Master.DIVERGENCE: "kl",
    Master.UTILISATION: "model_flops_utilisation",
}
"""The trainer's measurement that each shows."""


@dataclass(frozen=True, slots=True)
class JobState:
    """What the metrics say about the job as it is now."""

    summary: Summary
    record: PhaseRecord | None = None
    deadline_seconds: float | None = None
    """Of the phase; None: it has none."""
    missing: int = 0
    """Members that the phase waits for."""
    training: Mapping[str, float] = field(default_factory=dict)
    """Measurements of the newest training; empty: none since this master began."""
    groups: Mapping[str, int] = field(default_factory=dict)
    """Groups in no batch yet, by state."""


class JobCollector(Collector):
    """Looks at the job when it is scraped."""

    def __init__(self, observe: Callable[[], JobState | None]) -> None:
        self._observe = observe

    def collect(self) -> Iterator[Metric]:
        """Nothing before the job has begun; of what is not known yet, nothing."""
        state = self._observe()
        if state is None:
            return
        yield from _fill(_OF_SUMMARY, dict(state.summary))
        yield from _fill(_OF_TRAINING, state.training)
        yield Master.SAMPLES.family(state.summary.samples)
        yield Master.MISSING_MEMBERS.family(state.missing)
        groups = Master.BUFFER_GROUPS.family()
        for name, count in state.groups.items():
            groups.add_metric([name], count)
        yield groups
        if state.record is not None:
            yield from _collect_phase(state.record, state.deadline_seconds)


def _fill(gauges: Mapping[GaugeDescription, str], values: Mapping[str, float | None]) -> Iterator[Metric]:
    for gauge, name in gauges.items():
        value = values.get(name)
        if value is not None:
            yield gauge.family(float(value))


def _collect_phase(record: PhaseRecord, deadline_seconds: float | None) -> Iterator[Metric]:
    phases = Master.PHASE.family()
    for phase in Phase:
        phases.add_metric([phase], float(phase is record.phase))
    yield phases
    yield Master.PHASE_STARTED.family(record.started_at)
    if deadline_seconds is not None:
        yield Master.PHASE_DEADLINE.family(deadline_seconds)


def note_phase(phase: Phase, seconds: float) -> None:
    """A phase is over."""
    _PHASE_SECONDS.labels(phase).observe(seconds)


def note_switch(phase: Phase, seconds: Mapping[str, float]) -> None:
    """`phase` has ended; `seconds` are those of the iteration's phases. Counts if a switch ended with it."""
    for name, switch in (("training", TO_TRAINING), ("inference", TO_INFERENCE)):
        if phase is switch[-1] and all(each in seconds for each in switch):
            _SWITCH_SECONDS.labels(name).observe(sum(seconds[each] for each in switch))


def note_generated(role: Role, tokens: int) -> None:
    """Tokens have come back from an engine."""
    _GENERATED_TOKENS.labels("inference" if role is Role.INFERENCE else "hybrid").inc(tokens)


def note_segments(segments: Sequence[Segment]) -> None:
    """Answers have grown by these."""
    for segment in segments:
        _SEGMENTS.labels(segment.finish_reason).inc()


def note_scores(samples: Sequence[ScoredSample]) -> None:
    """Answers have been scored."""
    for sample in samples:
        _ANSWER_TOKENS.observe(sample.trajectory.length)
        _ANSWER_REWARD.observe(sample.score.reward)


def note_training(measurements: Mapping[str, float]) -> None:
    """An iteration has been trained."""
    _TRAINED_TOKENS.inc(measurements.get("tokens", 0.0))
    _TRAINING_SECONDS.inc(measurements.get("train_seconds", 0.0))


def note_publication(acks: Sequence[Ack]) -> None:
    """All ranks have published a version; a rank that had done so before tells no numbers."""
    for ack in acks:
        if "publish_seconds" in ack.measurements:
            _PUBLISH_SECONDS.observe(ack.measurements["publish_seconds"])
            _PUBLISHED_BYTES.inc(ack.measurements.get("published_bytes", 0.0))


def render_metrics(observe: Callable[[], JobState | None]) -> bytes:
    """All metrics in Prometheus' text format."""
    job = CollectorRegistry(auto_describe=False)
    job.register(JobCollector(observe))
    return generate_latest(REGISTRY) + generate_latest(job)
