"""Sequences of a batch into rows, rows into microbatches, for each data-parallel rank. Pure: arrays in, arrays out.

Every rank computes the same plan from the same batch and takes its own part. Rows of all ranks have the same length and
every rank gets as many microbatches of as many rows, filled up with empty rows: pipeline stages and expert exchange
need it so.
"""

import bisect
import heapq
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from tandem_core.batches import TrainingBatch

Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Microbatch:
    """One forward pass of a rank; all arrays are [rows, row length].

    Position p of a sequence holds token p as input and token p + 1 as label; mask and log-probability are the label's.
    """

    inputs: Integers
    labels: Integers
    positions: Integers
    """Place in the sequence, from 0."""
    segments: Integers
    """1, 2, ... for the sequences of a row; 0 for padding."""
    sequences: Integers
    """Index of the sequence in the batch; 0 for padding, where the mask is False."""
    loss_mask: Flags
    behaviour_logprobs: Floats

    @property
    def shared(self) -> bool:
        """Whether any row holds several sequences."""
        return bool((self.segments > 1).any())


@dataclass(frozen=True, eq=False)
class Minibatch:
    """What one rank computes for one optimiser step."""

    microbatches: tuple[Microbatch, ...]
    rows: int
    """Rows of each microbatch."""
    row_length: int
    tokens: int
    """Tokens to learn from, of all ranks."""
    sequences: int
    """Sequences, of all ranks."""


@dataclass(frozen=True)
class PackingLimits:
    """What the rows have to fit."""

    tokens_per_microbatch: int
    """Most positions in a forward pass. A longer sequence gets a pass of its own."""
    data_size: int = 1
    """Data-parallel ranks."""
    row_multiple: int = 1
    """The row length is a multiple of this."""
    least_microbatches: int = 1
    """How many microbatches are wanted even if fewer would fit: pipeline stages need some to work at the same time."""


def pack_batch(batch: TrainingBatch, limits: PackingLimits, data_rank: int, minibatches: int = 1) -> list[Minibatch]:
    """The minibatches of data-parallel rank `data_rank`, in order; none without sequences. Groups stay whole."""
    starts = np.concatenate([[0], np.cumsum(batch.lengths)])
    usable = batch.lengths > 1  # a single token has nothing to predict
    if not usable.any():
        return []
    parts = [part[usable[part]] for part in split_groups(batch.groups, minibatches)]
    return [_pack_minibatch(batch, starts, part, limits, data_rank) for part in parts if len(part)]


def split_groups(groups: npt.NDArray[np.int32], parts: int) -> list[Integers]:
    """Indices of the sequences of each part: whole groups, evenly by number of groups, in order."""
    _, first = np.unique(groups, return_index=True)
    in_order = groups[np.sort(first)]
    rank_of = np.empty(int(groups.max(initial=0)) + 1, dtype=np.int64)
    rank_of[in_order] = np.arange(len(in_order))
    part_of = rank_of[groups] * parts // len(in_order)
    return [np.flatnonzero(part_of == part) for part in range(parts)]


def share_sequences(lengths: Integers, ranks: int) -> list[Integers]:
    """Indices of `lengths` for each rank: longest first to the rank with the fewest tokens so far."""
    order = np.argsort(-lengths, kind="stable")
    if ranks == 1:
        return [order]
    shares: list[list[int]] = [[] for _ in range(ranks)]
    load = [(0, rank) for rank in range(ranks)]
    for index in order.tolist():
        tokens, rank = heapq.heappop(load)
        shares[rank].append(index)
        heapq.heappush(load, (tokens + int(lengths[index]), rank))
    return [np.array(share, dtype=np.int64) for share in shares]


def place_in_rows(lengths: Sequence[int], row_length: int) -> tuple[list[int], list[int], int]:
    """Row and offset of each sequence, and the number of rows: each goes where the least room is left over.

    Expects lengths in falling order (best fit decreasing: at most 22 % more rows than the best packing).
    """
    rows: list[int] = []
    offsets: list[int] = []
    room: list[tuple[int, int]] = []  # (positions left, row), sorted
    count = 0
    for length in lengths:
        at = bisect.bisect_left(room, (length, -1))
        if at < len(room):
            left, row = room.pop(at)
        else:
            left, row = row_length, count
            count += 1
        rows.append(row)
        offsets.append(row_length - left)
        if left > length:
            bisect.insort(room, (left - length, row))
    return rows, offsets, count


def _pack_minibatch(
    batch: TrainingBatch, starts: Integers, part: Integers, limits: PackingLimits, data_rank: int
) -> Minibatch:
    lengths = batch.lengths[part].astype(np.int64) - 1
    row_length = _round_up(int(lengths.max()), limits.row_multiple)
    shares = share_sequences(lengths, limits.data_size)
    placed = [place_in_rows(lengths[share].tolist(), row_length) for share in shares]
    most_rows = max(count for _, _, count in placed)
    microbatches, rows = _divide_rows(most_rows, row_length, limits)
    own_rows, offsets, _ = placed[data_rank]
    filled = _fill(batch, starts, part[shares[data_rank]], own_rows, offsets, (microbatches * rows, row_length))
    return Minibatch(
        microbatches=tuple(_take_rows(filled, slice(i * rows, (i + 1) * rows)) for i in range(microbatches)),
        rows=rows,
        row_length=row_length,
        tokens=int(np.add.reduceat(batch.loss_mask, starts[:-1], dtype=np.int64)[part].sum()),
        sequences=len(part),
    )


def _divide_rows(rows: int, row_length: int, limits: PackingLimits) -> tuple[int, int]:
    """Number of microbatches and the rows of each: as few as fit, evenly filled."""
    fit = max(1, limits.tokens_per_microbatch // row_length)
    microbatches = max(-(-rows // fit), min(limits.least_microbatches, rows))
    each = -(-rows // microbatches)
    return -(-rows // each), each


def _fill(
    batch: TrainingBatch,
    starts: Integers,
    own: Integers,
    rows: Sequence[int],
    offsets: Sequence[int],
    shape: tuple[int, int],
) -> Microbatch:
    """All rows of a rank at once; `own` are its sequences in the order of `rows` and `offsets`."""
    lengths = batch.lengths[own].astype(np.int64) - 1
    row = np.asarray(rows, dtype=np.int64)
    within = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    source = np.repeat(starts[own], lengths) + within
    target = np.repeat(row * shape[1] + np.asarray(offsets, dtype=np.int64), lengths) + within

    def spread[Scalar: np.generic](values: npt.NDArray[Scalar]) -> npt.NDArray[Scalar]:
        flat = np.zeros(shape[0] * shape[1], dtype=values.dtype)
        flat[target] = values
        return flat.reshape(shape)

    return Microbatch(
        inputs=spread(batch.tokens[source].astype(np.int64)),
        labels=spread(batch.tokens[source + 1].astype(np.int64)),
        positions=spread(within),
        segments=spread(np.repeat(_number_in_row(row, shape[0]), lengths)),
        sequences=spread(np.repeat(own, lengths)),
        loss_mask=spread(batch.loss_mask[source + 1]),
        behaviour_logprobs=spread(batch.behaviour_logprobs[source + 1]),
    )


def _number_in_row(row: Integers, rows: int) -> Integers:
    """1, 2, ... for the sequences of each row, in order."""
    order = np.argsort(row, kind="stable")
    counts = np.bincount(row, minlength=rows)
    first = np.cumsum(counts) - counts
    number = np.empty(len(row), dtype=np.int64)
    number[order] = np.arange(len(row)) - np.repeat(first, counts) + 1
    return number


def _take_rows(filled: Microbatch, rows: slice) -> Microbatch:
    return Microbatch(**{name: getattr(filled, name)[rows] for name in Microbatch.__dataclass_fields__})


def _round_up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple
