"""Builds what the trainer gets: from scored groups, or from reference answers for the warm-up. Pure functions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from tandem_core.batches import TrainingBatch
from tandem_core.job import RLJobSpec

from tandem_rollout.advantages import all_equal, group_advantages, total_rewards
from tandem_rollout.prompts import Prompt
from tandem_rollout.tokenization import Tokenizer
from tandem_rollout.trajectory import ScoredGroup, Trajectory

_NO_VERSION = -1


@dataclass(frozen=True, slots=True, eq=False)
class _Sequence:
    """One answer behind its prompt."""

    prompt: Sequence[int]
    answer: npt.NDArray[np.int32]
    learnt: npt.NDArray[np.bool_]
    logprobs: npt.NDArray[np.float32]
    versions: npt.NDArray[np.int32]
    advantage: float
    reward: float
    group: int


def build_batch(
    spec: RLJobSpec, iteration: int, groups: Sequence[ScoredGroup], prompts: Mapping[int, Prompt]
) -> TrainingBatch:
    """All answers of `groups` with rewards and advantages, groups in the given order.

    `prompts` finds a prompt by its id (PromptSet.by_id). With rollout.dropUninformative, groups whose answers all got
    the same reward are left out, unless that would leave nothing. Raises ValueError for no groups.
    """
    rewards = {
        group.id: total_rewards(
            [sample.score.reward for sample in group.samples],
            [sample.trajectory.length for sample in group.samples],
            [sample.score.correct for sample in group.samples],
            spec.rewards.length,
            iteration,
        )
        for group in groups
    }
    if spec.rollout.drop_uninformative:
        groups = [group for group in groups if not all_equal(rewards[group.id])] or groups
    sequences: list[_Sequence] = []
    for index, group in enumerate(groups):
        correct = [sample.score.correct for sample in group.samples]
        advantages = group_advantages(list(rewards[group.id]), correct, spec.algorithm)
        sequences += [
            _Sequence(
                prompt=prompts[group.prompt_id].tokens,
                answer=sample.trajectory.tokens,
                learnt=_learnt(sample.trajectory, iteration, old_segments=spec.algorithm.train_on_old_segments),
                logprobs=sample.trajectory.logprobs,
                versions=sample.trajectory.versions,
                advantage=advantage,
                reward=reward,
                group=index,
            )
            for sample, advantage, reward in zip(group.samples, advantages, rewards[group.id], strict=True)
        ]
    return _join(iteration, sequences)


def build_warmup_batch(spec: RLJobSpec, step: int, prompts: Sequence[Prompt], tokenizer: Tokenizer) -> TrainingBatch:
    """The examples of warm-up step `step` (from 0): prompt, reference answer and end, the loss on the last two.

    `prompts` are the training prompts. A function of spec, prompts and step only: shuffled epochs of warmup.batchSize
    examples, each a group of its own with advantage 1. The batch's iteration is 0.
    """
    chosen = [prompts[place] for place in _warmup_places(spec, step, len(prompts))]
    targets = tokenizer.encode([prompt.target for prompt in chosen], special_tokens=False)
    sequences = []
    for index, (prompt, target) in enumerate(zip(chosen, targets, strict=True)):
        answer = np.array([*target, tokenizer.eos_token_id], dtype=np.int32)
        sequences.append(
            _Sequence(
                prompt=prompt.tokens,
                answer=answer,
                learnt=np.ones(len(answer), dtype=bool),
                logprobs=np.zeros(len(answer), dtype=np.float32),
                versions=np.full(len(answer), _NO_VERSION, dtype=np.int32),
                advantage=1.0,
                reward=1.0,
                group=index,
            )
        )
    return _join(0, sequences)


def _warmup_places(spec: RLJobSpec, step: int, size: int) -> list[int]:
    places: list[int] = []
    first = step * spec.warmup.batch_size
    while len(places) < spec.warmup.batch_size:
        epoch, offset = divmod(first + len(places), size)
        # The third word keeps this order apart from the rollouts'.
        shuffled = np.random.default_rng([spec.seed, epoch, 1]).permutation(size)
        places += shuffled[offset : offset + spec.warmup.batch_size - len(places)].tolist()
    return places


def _learnt(trajectory: Trajectory, iteration: int, *, old_segments: bool) -> npt.NDArray[np.bool_]:
    """[length] which tokens are in the loss; segments of earlier iterations only if the job says so."""
    parts = [
        np.full(len(segment.tokens), old_segments or segment.iteration == iteration, dtype=bool)
        for segment in trajectory.segments
    ]
    return np.concatenate(parts) if parts else np.empty(0, dtype=bool)


def _join(iteration: int, sequences: Sequence[_Sequence]) -> TrainingBatch:
    if not sequences:
        raise ValueError(f"iteration {iteration} has no answers to train on")
    lengths = np.array([len(each.prompt) + len(each.answer) for each in sequences], dtype=np.int32)
    total = int(lengths.sum())
    tokens = np.empty(total, dtype=np.int32)
    loss_mask = np.zeros(total, dtype=bool)
    logprobs = np.zeros(total, dtype=np.float32)
    versions = np.full(total, _NO_VERSION, dtype=np.int32)
    end = 0
    for each in sequences:
        start, end = end + len(each.prompt), end + len(each.prompt) + len(each.answer)
        tokens[start - len(each.prompt) : start] = each.prompt
        tokens[start:end] = each.answer
        loss_mask[start:end] = each.learnt
        logprobs[start:end] = each.logprobs
        versions[start:end] = each.versions
    return TrainingBatch(
        iteration=iteration,
        tokens=tokens,
        lengths=lengths,
        loss_mask=loss_mask,
        behaviour_logprobs=logprobs,
        versions=versions,
        advantages=np.array([each.advantage for each in sequences], dtype=np.float32),
        rewards=np.array([each.reward for each in sequences], dtype=np.float32),
        groups=np.array([each.group for each in sequences], dtype=np.int32),
    )
