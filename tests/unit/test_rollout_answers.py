"""Answers in progress: requests, replies, budgets."""

import itertools
import json

import numpy as np
import pytest
from tandem_core.job.rollout import RepetitionSpec, RolloutSpec
from tandem_rollout.answers import (
    Answer,
    Sampling,
    apply_generated,
    build_request,
    build_sampling,
    build_works,
    outstanding_tokens,
)
from tandem_rollout.engine_client import EngineLost, Generated, parse_generated
from tandem_rollout.trajectory import FinishReason, Trajectory, TrajectoryState, VersionSpan

SAMPLING = Sampling(temperature=0.7, top_p=0.9, max_tokens=10, repetition=RepetitionSpec(), seed=5)


def answer(index: int = 0, group: int = 1, allowance: int = 6, sampling: Sampling = SAMPLING) -> Answer:
    trajectory = Trajectory(id=group * 100 + index, prompt_id=9, group_id=group, index=index)
    return Answer(trajectory, (11, 12), sampling, 3, allowance, lambda _: None)


def generated(tokens: list[int], reason: FinishReason) -> Generated:
    spans = (VersionSpan(2, len(tokens)),) if tokens else ()
    return Generated(np.array(tokens, dtype=np.int32), np.full(len(tokens), -0.5, dtype=np.float32), spans, reason)


def test_new_answers_of_a_group_are_asked_for_together_and_continued_ones_alone() -> None:
    answers = [answer(0), answer(1), answer(2), answer(0, group=2)]
    assert [len(work) for work in build_works(answers)] == [3, 1]
    apply_generated(answers[1], generated([4], FinishReason.ABORTED), iteration=3, engine="e")
    works = build_works(answers)
    assert [[each.trajectory.id for each in work] for work in works] == [[100], [101], [102], [200]]


def test_a_request_asks_for_what_is_left_of_budget_and_length() -> None:
    first = answer(allowance=6)
    assert build_request([first]).max_tokens == 6
    apply_generated(first, generated([4, 5, 6, 7, 8, 9], FinishReason.LENGTH), iteration=3, engine="e")
    assert first.settled
    first.renew(4, 6)
    request = build_request([first])
    assert (request.max_tokens, request.prompt) == (4, [11, 12, 4, 5, 6, 7, 8, 9])
    assert first.engine == "e"


def test_no_two_answers_and_no_two_parts_of_one_share_a_seed() -> None:
    seeds = set()
    for group, index, length in itertools.product(range(20), range(8), range(20)):
        mine = answer(index, group, allowance=99)
        if length:
            apply_generated(mine, generated([4] * length, FinishReason.ABORTED), iteration=3, engine="e")
        seeds.add(build_request([mine]).seed)
    assert len({seed % 2**32 for seed in seeds}) == 20 * 8 * 20  # a CPU's generator takes 32 bits
    assert all(0 <= seed < 2**62 + 8 for seed in seeds)


def test_a_lost_request_samples_the_same_way_again_whoever_its_neighbours_are() -> None:
    """vLLM samples the i-th answer of a request with seed + i."""
    group = [answer(index) for index in range(8)]
    (together,) = build_works(group)
    first = build_request(together).seed
    del group[2]
    later = [each for each in group if each.iteration == 3]
    for each in later:
        each.renew(4, 6)
    works = build_works(later)
    assert [len(work) for work in works] == [2, 5]
    assert [build_request(work).seed - first for work in works] == [0, 3]


def test_greedy_answers_are_asked_for_one_by_one() -> None:
    greedy = build_sampling(RolloutSpec(temperature=0), 1)
    assert [len(work) for work in build_works([answer(index, sampling=greedy) for index in range(3)])] == [1, 1, 1]


def test_a_resumed_iteration_goes_on_with_what_is_left_of_its_budget() -> None:
    mine = answer(allowance=6)
    apply_generated(mine, generated([4] * 4, FinishReason.ABORTED), iteration=3, engine="e")
    mine.renew(3, 6)
    assert mine.allowance == 2
    mine.renew(4, 6)
    assert mine.allowance == 6
    assert mine.oldest_version == 3


def test_the_request_body_is_vllms() -> None:
    looping = Sampling(1.0, 1.0, 10, RepetitionSpec(max_pattern_tokens=4, min_pattern_tokens=2, repeats=3), 5)
    body = build_request([answer(sampling=looping), answer(1, sampling=looping)]).body()
    assert body["token_ids"] == [11, 12]
    sampling = body["sampling_params"]
    assert (sampling["n"], sampling["logprobs"]) == (2, 0)
    assert sampling["repetition_detection"] == {"max_pattern_size": 4, "min_pattern_size": 2, "min_count": 3}
    assert "repetition_detection" not in build_request([answer()]).body()["sampling_params"]


@pytest.mark.parametrize(
    ("tokens", "reason", "state", "kept"),
    [
        ([4, 1], FinishReason.STOP, TrajectoryState.FINISHED, FinishReason.STOP),
        ([4, 4], FinishReason.REPETITION, TrajectoryState.FINISHED, FinishReason.REPETITION),
        ([4] * 6, FinishReason.LENGTH, TrajectoryState.UNFINISHED, FinishReason.BUDGET),
        ([4] * 10, FinishReason.LENGTH, TrajectoryState.FINISHED, FinishReason.LENGTH),
        ([4], FinishReason.ABORTED, TrajectoryState.UNFINISHED, FinishReason.ABORTED),
        ([], FinishReason.ABORTED, TrajectoryState.UNFINISHED, None),
    ],
)
def test_what_a_reply_makes_of_an_answer(
    tokens: list[int], reason: FinishReason, state: TrajectoryState, kept: FinishReason | None
) -> None:
    mine = answer()
    apply_generated(mine, generated(tokens, reason), iteration=3, engine="e")
    assert (mine.trajectory.state, mine.trajectory.finish_reason) == (state, kept)
    assert mine.allowance == 6 - len(tokens)


def test_a_cut_answer_ends_where_the_whole_one_would_have_gone_in_circles() -> None:
    looping = Sampling(1.0, 1.0, 100, RepetitionSpec(max_pattern_tokens=1, repeats=4), 5)
    mine = answer(sampling=looping)
    apply_generated(mine, generated([7, 7], FinishReason.LENGTH), iteration=3, engine="e")
    assert mine.trajectory.finish_reason is FinishReason.BUDGET
    apply_generated(mine, generated([7, 7, 3, 1], FinishReason.STOP), iteration=4, engine="e")
    assert mine.trajectory.finish_reason is FinishReason.REPETITION
    assert mine.trajectory.tokens.tolist() == [7, 7, 7, 7]
    assert mine.trajectory.versions.tolist() == [2] * 4
    assert mine.finished


def test_greedy_sampling_takes_the_most_likely_token() -> None:
    sampling = build_sampling(RolloutSpec(temperature=0.8, top_p=0.5), 1, greedy=True)
    assert (sampling.temperature, sampling.top_p) == (0.0, 1.0)


def test_outstanding_tokens_are_bounded_by_budget_and_length() -> None:
    fresh, begun = answer(allowance=6), answer(1, allowance=6)
    apply_generated(begun, generated([4, 5], FinishReason.ABORTED), iteration=3, engine="e")
    assert outstanding_tokens([fresh, begun], expected_length=5) == 5 + 3
    assert outstanding_tokens([fresh, begun], expected_length=100) == 6 + 4
    assert outstanding_tokens([begun], expected_length=1) == 1


def choice(index: int, tokens: list[int], **changes: object) -> dict[str, object]:
    return {
        "index": index,
        "token_ids": tokens,
        "logprobs": {"content": [{"token_id": token, "logprob": -0.25} for token in tokens]},
        "finish_reason": "stop",
        "weight_versions": [{"version": "default", "start": 0, "end": len(tokens)}],
    } | changes


def body(*choices: dict[str, object]) -> bytes:
    return json.dumps({"choices": choices}).encode()


def test_replies_are_put_in_order_and_labelled_with_versions() -> None:
    spans = [{"version": "6", "start": 0, "end": 1}, {"version": "7", "start": 1, "end": 3}]
    first, second = parse_generated(body(choice(1, [5, 6, 7], weight_versions=spans), choice(0, [4])), 2, 3)
    assert (first.tokens.tolist(), first.versions) == ([4], (VersionSpan(3, 1),))
    assert second.versions == (VersionSpan(6, 1), VersionSpan(7, 2))
    assert second.logprobs.tolist() == [-0.25] * 3


@pytest.mark.parametrize(
    "content",
    [
        b"not json",
        b"{}",
        body(choice(0, [4], finish_reason="error")),
        body(choice(0, [4], logprobs=None)),
        body(),
    ],
)
def test_an_unusable_reply_counts_as_a_lost_engine(content: bytes) -> None:
    with pytest.raises(EngineLost):
        parse_generated(content, 1, 3)
