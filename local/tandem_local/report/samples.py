"""Which answers the report shows."""

from collections.abc import Sequence

from tandem_rollout.page.figures import round_significant
from tandem_rollout.storage.history import EvaluationRecord, SampleRecord
from tandem_rollout.storage.history_file import History

from tandem_local.report.contents import Sample

MAX_ITERATIONS = 40
SAMPLES_PER_ITERATION = 16
EVALUATION_SAMPLES = 40
MAX_CHARACTERS = 3000
"""The middle of longer answers is left out."""


def load_samples(history: History, iterations: Sequence[int]) -> list[Sample]:
    """Answers that were trained on, from iterations spread over the run, the last one among them."""
    return [
        _build_sample(record)
        for iteration in choose_evenly(iterations, MAX_ITERATIONS)
        for record in history.samples(iteration, SAMPLES_PER_ITERATION)
    ]


def build_evaluation_samples(evaluations: Sequence[EvaluationRecord]) -> list[Sample]:
    """Greedy answers to held-out prompts: of each evaluation, wrong ones and right ones in turn."""
    samples = []
    for evaluation in evaluations:
        right = [sample for sample in evaluation.samples if sample.correct]
        wrong = [sample for sample in evaluation.samples if not sample.correct]
        half = EVALUATION_SAMPLES // 2
        chosen = wrong[: max(half, EVALUATION_SAMPLES - len(right))]
        chosen += right[: EVALUATION_SAMPLES - len(chosen)]
        samples += [
            Sample(
                iteration=evaluation.iteration,
                group=f"prompt {sample.prompt_id}",
                prompt=shorten(sample.prompt),
                text=shorten(sample.text),
                reward=round_significant(sample.reward),
                correct=sample.correct,
                tokens=len(sample.tokens),
                note=f"reference answer: {shorten(sample.answer)}",
            )
            for sample in chosen
        ]
    return samples


def choose_evenly(values: Sequence[int], count: int) -> list[int]:
    """At most `count` of `values`, evenly spread, first and last among them."""
    if len(values) <= count:
        return list(values)
    step = (len(values) - 1) / (count - 1)
    return [values[round(number * step)] for number in range(count)]


def shorten(text: str) -> str:
    """`text`, without its middle if it is longer than MAX_CHARACTERS."""
    if len(text) <= MAX_CHARACTERS:
        return text
    half = MAX_CHARACTERS // 2
    return f"{text[:half]}\n[{len(text) - 2 * half} characters left out]\n{text[-half:]}"


def _build_sample(record: SampleRecord) -> Sample:
    versions = (
        f"version {record.first_version}"
        if record.first_version == record.last_version
        else f"versions {record.first_version} to {record.last_version}"
    )
    parts = ", ".join(f"{name} {value:.3g}" for name, value in record.parts.items()) if len(record.parts) > 1 else ""
    return Sample(
        iteration=record.iteration,
        group=f"group {record.group_id}, answer {record.index + 1}, prompt {record.prompt_id}",
        prompt=shorten(record.prompt),
        text=shorten(record.text),
        reward=round_significant(record.reward),
        correct=record.correct,
        tokens=record.tokens,
        note="; ".join(part for part in (f"ended by {record.finish_reason}", versions, parts) if part),
    )
