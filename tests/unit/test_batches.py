"""The batch that goes from master to trainer."""

from dataclasses import fields, replace

import numpy as np
import pytest
from tandem_core.batches import TrainingBatch


def batch() -> TrainingBatch:
    return TrainingBatch(
        iteration=3,
        tokens=np.arange(5, dtype=np.int32),
        lengths=np.array([2, 3], dtype=np.int32),
        loss_mask=np.array([0, 1, 0, 1, 1], dtype=np.bool_),
        behaviour_logprobs=np.array([0, -1.5, 0, -0.25, -3], dtype=np.float32),
        versions=np.array([-1, 2, -1, 2, 3], dtype=np.int32),
        advantages=np.array([0.5, -0.5], dtype=np.float32),
        rewards=np.array([1, 0], dtype=np.float32),
        groups=np.array([0, 0], dtype=np.int32),
    )


def test_a_batch_survives_its_encoding() -> None:
    sent = batch()
    received = TrainingBatch.decode(sent.encode())
    for field in fields(sent):
        np.testing.assert_array_equal(getattr(received, field.name), getattr(sent, field.name), strict=True)


def test_arrays_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="lengths add up to 5"):
        replace(batch(), tokens=np.arange(4, dtype=np.int32))
    with pytest.raises(ValueError, match="2 sequences"):
        replace(batch(), rewards=np.zeros(3, dtype=np.float32))
