"""Batches of reference answers, and batches of scored groups."""

from collections import Counter

import numpy as np
import pytest
from tandem_core.batches import TrainingBatch
from tandem_core.job import RLJobSpec, parse_job
from tandem_core.model_files import prepare_model
from tandem_rollout.batch import build_batch, build_warmup_batch
from tandem_rollout.prompts import Prompt
from tandem_rollout.tokenization import Tokenizer, load_tokenizer
from tandem_rollout.trajectory import (
    FinishReason,
    Score,
    ScoredGroup,
    ScoredSample,
    Segment,
    Trajectory,
    VersionSpan,
)

JOB = """
apiVersion: tandem.dev/v1alpha1
kind: RLJob
metadata: {name: batches}
spec:
  iterations: 5
  seed: 3
  model: {scratch: {tokenizer: {tokens: ["Calculate ", " + ", ".", "0", "1", "2", "3", "4", "5", "6", "7", "8", "9"]}}}
  data: {reasoningGym: {task: basic_arithmetic}}
  warmup: {steps: 10, batchSize: 4}
  rewards: {scorers: [{type: exact}]}
  hybrid: {device: cpu, inference: {release: none, kvCacheBytes: 67108864}}
"""


@pytest.fixture(scope="module")
def spec() -> RLJobSpec:
    return parse_job(JOB).spec


@pytest.fixture(scope="module")
def tokenizer(spec: RLJobSpec, tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return load_tokenizer(prepare_model(spec.model, tmp_path_factory.mktemp("model")))


def addition(number: int, tokenizer: Tokenizer) -> Prompt:
    text, answer = f"Calculate {number} + 11.", str(number + 11)
    return Prompt(number, text, answer, {}, None, tuple(tokenizer.encode([text])[0]), answer)


def texts(batch: TrainingBatch, tokenizer: Tokenizer) -> list[str]:
    ends = np.cumsum(batch.lengths)
    return [tokenizer.decode(part.tolist()) for part in np.split(batch.tokens, ends[:-1])]


def test_a_warm_up_example_is_prompt_answer_and_end_with_the_loss_on_the_last_two(
    spec: RLJobSpec, tokenizer: Tokenizer
) -> None:
    prompts = [addition(20, tokenizer)]
    batch = build_warmup_batch(spec.model_copy(update={"warmup": _warmup(spec, 1)}), 0, prompts, tokenizer)
    # "Calculate ", 2, 0, " + ", 1, 1, "." then 3, 1, end
    assert batch.lengths.tolist() == [10]
    assert tokenizer.decode(batch.tokens.tolist()) == "Calculate 20 + 11.31"
    assert batch.tokens[-1] == tokenizer.eos_token_id
    assert batch.loss_mask.tolist() == [False] * 7 + [True] * 3
    assert batch.versions.tolist() == [-1] * 10
    assert batch.advantages.tolist() == [1.0]


def test_warm_up_steps_repeat_and_go_through_all_prompts(spec: RLJobSpec, tokenizer: Tokenizer) -> None:
    prompts = [addition(number, tokenizer) for number in range(10, 20)]
    steps = [build_warmup_batch(spec, step, prompts, tokenizer) for step in range(5)]
    assert [batch.encode() for batch in steps] == [
        build_warmup_batch(spec, step, prompts, tokenizer).encode() for step in range(5)
    ]
    seen = Counter(text for batch in steps for text in texts(batch, tokenizer))
    assert len(seen) == 10
    assert set(seen.values()) == {2}  # 5 steps of 4 are two epochs of 10
    other_seed = spec.model_copy(update={"seed": 4})
    assert build_warmup_batch(other_seed, 0, prompts, tokenizer).encode() != steps[0].encode()


def test_a_batch_larger_than_the_data_repeats_examples(spec: RLJobSpec, tokenizer: Tokenizer) -> None:
    batch = build_warmup_batch(spec, 0, [addition(10, tokenizer), addition(11, tokenizer)], tokenizer)
    assert sorted(Counter(texts(batch, tokenizer)).values()) == [2, 2]


def test_a_group_becomes_sequences_with_advantages_versions_and_logprobs(spec: RLJobSpec, tokenizer: Tokenizer) -> None:
    prompt = addition(20, tokenizer)
    right = _sample(1, 0, [_segment([8, 9], 4, iteration=1), _segment([1], 5, iteration=2)], reward=1.0)
    wrong = _sample(1, 1, [_segment([7], 5, iteration=2)], reward=0.0)
    batch = build_batch(spec, 2, [ScoredGroup(1, 20, 1, (right, wrong))], {20: prompt})
    assert TrainingBatch.decode(batch.encode()).tokens.tolist() == [*prompt.tokens, 8, 9, 1, *prompt.tokens, 7]
    assert batch.iteration == 2
    assert batch.lengths.tolist() == [10, 8]
    assert batch.advantages.tolist() == [0.5, -0.5]
    assert batch.rewards.tolist() == [1.0, 0.0]
    assert batch.groups.tolist() == [0, 0]
    assert batch.loss_mask.tolist() == [False] * 7 + [True] * 3 + [False] * 7 + [True]
    assert batch.versions.tolist() == [-1] * 7 + [4, 4, 5] + [-1] * 7 + [5]
    np.testing.assert_allclose(batch.behaviour_logprobs[7:10], [-0.5, -0.5, -0.5])
    assert not batch.behaviour_logprobs[:7].any()


def test_segments_of_earlier_iterations_can_be_left_out_of_the_loss(spec: RLJobSpec, tokenizer: Tokenizer) -> None:
    only_new = spec.model_copy(update={"algorithm": spec.algorithm.model_copy(update={"train_on_old_segments": False})})
    sample = _sample(1, 0, [_segment([8, 9], 4, iteration=1), _segment([1], 5, iteration=2)], reward=1.0)
    batch = build_batch(only_new, 2, [ScoredGroup(1, 20, 1, (sample,))], {20: addition(20, tokenizer)})
    assert batch.loss_mask.tolist() == [False] * 9 + [True]


def test_uninformative_groups_can_be_left_out_but_not_all_of_them(spec: RLJobSpec, tokenizer: Tokenizer) -> None:
    dropping = spec.model_copy(update={"rollout": spec.rollout.model_copy(update={"drop_uninformative": True})})
    prompts = {20: addition(20, tokenizer), 21: addition(21, tokenizer)}
    same = ScoredGroup(1, 20, 1, tuple(_sample(1, place, [_segment([3], 0, 1)], reward=1.0) for place in range(2)))
    mixed = ScoredGroup(2, 21, 1, tuple(_sample(2, place, [_segment([3], 0, 1)], reward=place) for place in range(2)))
    assert len(build_batch(spec, 1, [same, mixed], prompts).lengths) == 4
    kept = build_batch(dropping, 1, [same, mixed], prompts)
    assert kept.advantages.tolist() == [-0.5, 0.5]
    assert kept.groups.tolist() == [0, 0]
    assert len(build_batch(dropping, 1, [same], prompts).lengths) == 2


def test_no_groups_are_refused(spec: RLJobSpec) -> None:
    with pytest.raises(ValueError, match="iteration 3 has no answers"):
        build_batch(spec, 3, [], {})


def test_tokens_that_do_not_fit_their_logprobs_are_refused() -> None:
    with pytest.raises(ValueError, match="2 tokens, 1 log-probabilities and versions for 2"):
        Segment(np.array([1, 2], np.int32), np.array([0.0], np.float32), (VersionSpan(1, 2),), FinishReason.STOP, 1)


def test_a_finished_answer_cannot_be_continued() -> None:
    trajectory = Trajectory(5, 0, 0, 0)
    trajectory.append(Segment(*_arrays([1]), (VersionSpan(0, 1),), FinishReason.BUDGET, 1))
    trajectory.append(Segment(*_arrays([2]), (VersionSpan(1, 1),), FinishReason.STOP, 2))
    assert trajectory.versions.tolist() == [0, 1]
    with pytest.raises(ValueError, match="trajectory 5 is finished"):
        trajectory.append(Segment(*_arrays([3]), (VersionSpan(1, 1),), FinishReason.STOP, 2))


def _warmup(spec: RLJobSpec, batch_size: int) -> object:
    return spec.warmup.model_copy(update={"batch_size": batch_size})


def _arrays(tokens: list[int]) -> tuple[np.ndarray, np.ndarray]:
    return np.array(tokens, np.int32), np.full(len(tokens), -0.5, np.float32)


def _segment(tokens: list[int], version: int, iteration: int) -> Segment:
    return Segment(*_arrays(tokens), (VersionSpan(version, len(tokens)),), FinishReason.STOP, iteration)


def _sample(group: int, place: int, segments: list[Segment], reward: float) -> ScoredSample:
    trajectory = Trajectory(10 * group + place, 20, group, place, segments)
    return ScoredSample(trajectory, "", Score(reward, {"exact": reward}, reward == 1.0))
