"""Every token goes to exactly one place, whatever the lengths, ranks and limits."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tandem_core.batches import TrainingBatch
from tandem_trainer.packing import Minibatch, PackingLimits, pack_batch, place_in_rows, share_sequences, split_groups


def make_batch(lengths: list[int], group_size: int = 2) -> TrainingBatch:
    """Token t of the batch is the number t, so that each can be found again."""
    total = sum(lengths)
    starts = np.cumsum([0, *lengths])[:-1]
    mask = np.arange(total) % 3 != 0
    mask[[start for start, length in zip(starts, lengths, strict=True) if length]] = False
    count = len(lengths)
    return TrainingBatch(
        iteration=1,
        tokens=np.arange(total, dtype=np.int32),
        lengths=np.array(lengths, dtype=np.int32),
        loss_mask=mask,
        behaviour_logprobs=-np.arange(total, dtype=np.float32),
        versions=np.zeros(total, np.int32),
        advantages=np.zeros(count, np.float32),
        rewards=np.zeros(count, np.float32),
        groups=(np.arange(count) // group_size).astype(np.int32),
    )


def pack_all(batch: TrainingBatch, limits: PackingLimits, minibatches: int = 1) -> list[list[Minibatch]]:
    """By rank."""
    return [pack_batch(batch, limits, rank, minibatches) for rank in range(limits.data_size)]


lengths_strategy = st.lists(st.integers(1, 30), min_size=1, max_size=40)
limits_strategy = st.builds(
    PackingLimits,
    tokens_per_microbatch=st.integers(1, 200),
    data_size=st.integers(1, 4),
    row_multiple=st.sampled_from([1, 2, 8]),
    least_microbatches=st.integers(1, 4),
)


@given(lengths_strategy, limits_strategy, st.integers(1, 3))
def test_every_label_is_in_exactly_one_place_with_its_values(
    lengths: list[int], limits: PackingLimits, minibatches: int
) -> None:
    batch = make_batch(lengths)
    starts = np.cumsum([0, *lengths])
    expected = sorted(t for start, end in itertools.pairwise(starts) for t in range(start + 1, end))
    found: list[int] = []
    learnt = 0
    for rank in pack_all(batch, limits, minibatches):
        for minibatch in rank:
            for micro in minibatch.microbatches:
                assert micro.inputs.shape == (minibatch.rows, minibatch.row_length)
                used = micro.segments > 0
                assert not micro.loss_mask[~used].any()
                assert (micro.labels[used] == micro.inputs[used] + 1).all()
                sequence = micro.sequences[used]
                assert (micro.inputs[used] == starts[sequence] + micro.positions[used]).all()
                assert (micro.loss_mask[used] == batch.loss_mask[micro.labels[used]]).all()
                assert (micro.behaviour_logprobs[used] == -micro.labels[used]).all()
                found += micro.labels[used].tolist()
                learnt += int(micro.loss_mask.sum())
    assert sorted(found) == expected
    assert learnt == batch.loss_mask.sum()


@given(lengths_strategy, limits_strategy)
def test_all_ranks_do_the_same_number_of_passes_of_the_same_shape(lengths: list[int], limits: PackingLimits) -> None:
    ranks = pack_all(make_batch(lengths), limits)
    shapes = [[(len(m.microbatches), m.rows, m.row_length, m.tokens, m.sequences) for m in rank] for rank in ranks]
    assert all(shape == shapes[0] for shape in shapes)
    for minibatch in ranks[0]:
        assert minibatch.row_length % limits.row_multiple == 0
        assert minibatch.rows == 1 or minibatch.rows * minibatch.row_length <= limits.tokens_per_microbatch


@given(lengths_strategy, limits_strategy)
def test_sequences_of_a_row_stand_apart(lengths: list[int], limits: PackingLimits) -> None:
    for minibatch in pack_batch(make_batch(lengths), limits, 0):
        for micro in minibatch.microbatches:
            for segments, sequences in zip(micro.segments, micro.sequences, strict=True):
                for number in set(segments[segments > 0].tolist()):
                    places = np.flatnonzero(segments == number)
                    assert len(set(sequences[places].tolist())) == 1
                    assert (np.diff(places) == 1).all()


@given(st.lists(st.integers(1, 20), min_size=1, max_size=60))
def test_rows_are_filled_without_overlap_and_nearly_as_well_as_can_be(lengths: list[int]) -> None:
    lengths = sorted(lengths, reverse=True)
    rows, offsets, count = place_in_rows(lengths, 20)
    taken = np.zeros((count, 20), dtype=int)
    for length, row, offset in zip(lengths, rows, offsets, strict=True):
        taken[row, offset : offset + length] += 1
    assert taken.max() <= 1
    assert taken.sum() == sum(lengths)
    assert count <= 11 / 9 * -(-sum(lengths) // 20) + max(1, len([n for n in lengths if n > 10]))


def test_short_sequences_share_rows_with_long_ones() -> None:
    (minibatch,) = pack_batch(make_batch([11, 6, 6, 11, 4, 4, 3]), PackingLimits(1000), 0)
    (micro,) = minibatch.microbatches
    assert micro.inputs.shape == (4, 10)
    assert micro.shared
    (whole,) = pack_batch(make_batch([11, 10]), PackingLimits(1000), 0)
    assert not whole.microbatches[0].shared


def test_groups_stay_whole_and_are_split_evenly_in_order() -> None:
    groups = np.array([7, 7, 3, 3, 3, 9, 0, 0], dtype=np.int32)
    assert [part.tolist() for part in split_groups(groups, 2)] == [[0, 1, 2, 3, 4], [5, 6, 7]]
    assert [part.tolist() for part in split_groups(groups, 4)] == [[0, 1], [2, 3, 4], [5], [6, 7]]


def test_ranks_get_about_as_many_tokens() -> None:
    lengths = np.array([100, 1, 1, 1, 50, 49, 2, 2])
    shares = share_sequences(lengths, 2)
    assert sorted(np.concatenate(shares).tolist()) == list(range(8))
    assert [int(lengths[share].sum()) for share in shares] == [103, 103]


def test_a_sequence_longer_than_the_limit_gets_a_pass_of_its_own() -> None:
    (minibatch,) = pack_batch(make_batch([101, 101]), PackingLimits(10), 0)
    assert [micro.inputs.shape for micro in minibatch.microbatches] == [(1, 100), (1, 100)]


@pytest.mark.parametrize("lengths", [[], [1, 1]])
def test_a_batch_with_nothing_to_predict_makes_no_step(lengths: list[int]) -> None:
    assert pack_batch(make_batch(lengths), PackingLimits(10), 0) == []


def test_pipeline_stages_get_several_passes_even_if_one_would_do() -> None:
    (minibatch,) = pack_batch(make_batch([5] * 8), PackingLimits(1000, least_microbatches=4), 0)
    assert [micro.inputs.shape for micro in minibatch.microbatches] == [(2, 4)] * 4
