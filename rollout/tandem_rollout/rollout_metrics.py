"""What is measured about an iteration's answers."""

from collections.abc import Sequence

import numpy as np
from tandem_core.batches import TrainingBatch

from tandem_rollout.trajectory import FinishReason, ScoredGroup


def measure_groups(groups: Sequence[ScoredGroup], batch: TrainingBatch) -> dict[str, float]:
    """Metrics of the groups that became `batch`: names with what they are, all per iteration.

    `reward` is the mean of the scorers' sum, length reward and dropped groups apart, so that it can be compared over a
    whole run.
    """
    samples = [sample for group in groups for sample in group.samples]
    lengths = [sample.trajectory.length for sample in samples]
    generated = batch.versions[batch.versions >= 0]
    reasons = [sample.trajectory.finish_reason for sample in samples]
    metrics = {
        "reward": float(np.mean([sample.score.reward for sample in samples])),
        "correct": float(np.mean([sample.score.correct for sample in samples])),
        "response_tokens": float(np.mean(lengths)),
        "response_tokens_max": float(np.max(lengths)),
        "samples": float(len(samples)),
        "trained_samples": float(len(batch.lengths)),
        "groups": float(len(groups)),
        "truncated": float(np.mean([reason is FinishReason.LENGTH for reason in reasons])),
        "repetitive": float(np.mean([reason is FinishReason.REPETITION for reason in reasons])),
        "continued": float(np.mean([len(sample.trajectory.segments) > 1 for sample in samples])),
        "versions_behind": float(np.mean(batch.iteration - 1 - generated)) if len(generated) else 0.0,
        "versions_behind_max": float(np.max(batch.iteration - 1 - generated)) if len(generated) else 0.0,
        "informative_groups": float(
            np.mean([len({sample.score.reward for sample in group.samples}) > 1 for group in groups])
        ),
    }
    names = sorted({name for sample in samples for name in sample.score.parts})
    for name in names:
        metrics[f"reward_{name}"] = float(np.mean([sample.score.parts.get(name, 0.0) for sample in samples]))
    return metrics
