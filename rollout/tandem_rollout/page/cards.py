"""The numbers at the top of the page. Pure."""

import statistics
from collections.abc import Sequence

from tandem_core.phases import TO_INFERENCE, TO_TRAINING

from tandem_rollout.page.contents import Card
from tandem_rollout.page.figures import describe_progress, metric_values, moving_average
from tandem_rollout.page.phase_times import format_seconds, percentile, switch_seconds
from tandem_rollout.storage.history import AccuracyRecord, IterationRecord


def build_cards(
    iterations: int, records: Sequence[IterationRecord], accuracies: Sequence[AccuracyRecord]
) -> list[Card]:
    """What was reached, how fast, and what switching cost; cards without data are left out.

    `iterations`: how many the job is to have.
    """
    cards = [
        *_build_accuracy(accuracies),
        *_build_reward(records),
        Card(label="Iterations", value=describe_progress(iterations, records), note=_elapsed(records)),
        *_build_throughput(records),
        *_build_switch("Inference to training", switch_seconds(records, TO_TRAINING)),
        *_build_switch("Training to inference", switch_seconds(records, TO_INFERENCE)),
    ]
    return cards


def _build_accuracy(accuracies: Sequence[AccuracyRecord]) -> list[Card]:
    if not accuracies:
        return []
    first, last = accuracies[0], accuracies[-1]
    value = f"{last.accuracy:.1%}"
    if len(accuracies) > 1:
        value = f"{first.accuracy:.1%} → {value}"
    return [Card(label="Held-out accuracy", value=value, note=f"greedy, {last.prompts} prompts")]


def _build_reward(records: Sequence[IterationRecord]) -> list[Card]:
    averages = [value for value in moving_average(metric_values(records, "reward")) if value is not None]
    if not averages:
        return []
    return [Card(label="Reward", value=f"{averages[0]:.3g} → {averages[-1]:.3g}", note="first, moving average now")]


def _build_throughput(records: Sequence[IterationRecord]) -> list[Card]:
    speeds = [value for value in metric_values(records, "tokens_per_second") if value]
    trained = sum(value for value in metric_values(records, "samples") if value)
    if not speeds:
        return []
    note = f"median; {trained:,.0f} answers in all" if trained else "median"
    return [Card(label="Generation", value=f"{statistics.median(speeds):,.0f} tokens/s", note=note)]


def _build_switch(label: str, seconds: Sequence[float]) -> list[Card]:
    if not seconds:
        return []
    median, slow = statistics.median(seconds), percentile(seconds, 0.95)
    return [Card(label=label, value=format_seconds(median), note=f"median; 95 % within {format_seconds(slow)}")]


def _elapsed(records: Sequence[IterationRecord]) -> str:
    return f"{format_seconds(sum(sum(record.phase_seconds.values()) for record in records))} in all phases"
