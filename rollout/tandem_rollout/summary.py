"""What is told about the job: its Summary and Load records. Pure functions."""

import time
from collections.abc import Mapping, Sequence

from tandem_core.coordination.records import PhaseRecord, Summary
from tandem_core.phases import TO_INFERENCE, TO_TRAINING, Phase

from tandem_rollout.storage.history import EvaluationRecord, IterationRecord

REWARD_AVERAGE_FACTOR = 0.1


def restore_summary(
    iterations: Sequence[IterationRecord], evaluations: Sequence[EvaluationRecord], last_iteration: int
) -> Summary:
    """The summary of a job with this history: what a master that starts anew goes on with."""
    summary = Summary(phase=Phase.WARMUP, iteration=0, iterations=last_iteration, version=-1)
    for record in iterations:
        summary = add_batch(summary, record.metrics)
        summary = add_training(summary, record.metrics)
        seconds = {Phase(name): value for name, value in record.phase_seconds.items() if name in set(Phase)}
        summary = add_phases(summary, seconds).model_copy(update={"iteration": record.iteration})
        for phase in seconds:
            summary = add_switches(summary, phase, record.phase_seconds)
    for evaluation in evaluations:
        summary = add_evaluation(summary, evaluation.iteration, evaluation.accuracy)
    return summary


def add_batch(summary: Summary, metrics: Mapping[str, float]) -> Summary:
    """With the metrics of an iteration's rollouts."""
    reward = metrics.get("reward")
    if reward is None:
        return summary
    before = summary.reward_average
    average = reward if before is None else before + REWARD_AVERAGE_FACTOR * (reward - before)
    return summary.model_copy(
        update={
            "reward": reward,
            "reward_average": average,
            "samples": summary.samples + int(metrics.get("trained_samples", 0)),
            "tokens_per_second": metrics.get("tokens_per_second", summary.tokens_per_second),
            "response_tokens": metrics.get("response_tokens", summary.response_tokens),
            "carried_over": int(metrics.get("carried_over", 0)),
            "inference_tokens": int(metrics.get("inference_tokens", 0)),
            "versions_behind": int(metrics.get("versions_behind_max", 0)),
        }
    )


def add_training(summary: Summary, metrics: Mapping[str, float]) -> Summary:
    """With what the trainer measured."""
    return summary.model_copy(
        update={
            "loss": metrics.get("loss", summary.loss),
            "logprob_difference": metrics.get("logprob_difference_mean", summary.logprob_difference),
        }
    )


def add_phases(summary: Summary, seconds: Mapping[Phase, float]) -> Summary:
    """With more seconds of phases."""
    total = dict(summary.phase_seconds)
    for phase, more in seconds.items():
        total[phase] = total.get(phase, 0.0) + more
    return summary.model_copy(update={"phase_seconds": total})


def add_switches(summary: Summary, phase: Phase, seconds: Mapping[str, float]) -> Summary:
    """With what the switch took that `phase` ended: `seconds` are those of the iteration's phases.

    The warm-up's, in which engines start, is none.
    """
    costs = {"infer_to_train_seconds": TO_TRAINING, "train_to_infer_seconds": TO_INFERENCE}
    changes = {
        name: sum(seconds[each] for each in switch)
        for name, switch in costs.items()
        if phase == switch[-1] and summary.iteration > 0 and all(each in seconds for each in switch)
    }
    return summary.model_copy(update=changes)


def add_evaluation(summary: Summary, iteration: int, accuracy: float) -> Summary:
    """With an evaluation of version `iteration`."""
    before = accuracy if iteration == 0 else summary.accuracy_before
    return summary.model_copy(update={"accuracy": accuracy, "accuracy_before": before})


def at_phase(summary: Summary, record: PhaseRecord, last_iteration: int, problem: str = "") -> Summary:
    """As it is when `record` becomes the phase."""
    return summary.model_copy(
        update={
            "phase": record.phase,
            "iteration": record.iteration,
            "iterations": last_iteration,
            "version": record.version,
            "message": record.reason,
            "problem": problem,
            "updated_at": time.time(),
        }
    )
