"""The learning rate over a job."""

import pytest
from tandem_core.job.algorithm import AlgorithmSpec
from tandem_trainer.learning_rate import plan_learning_rate


def test_a_constant_rate_stays() -> None:
    algorithm = AlgorithmSpec(learning_rate=0.5)
    assert {plan_learning_rate(algorithm, iteration, 10) for iteration in range(1, 11)} == {0.5}


def test_a_linear_rate_falls_evenly_to_a_tenth() -> None:
    algorithm = AlgorithmSpec(learning_rate=1.0, learning_rate_schedule="linear")
    rates = [plan_learning_rate(algorithm, iteration, 4) for iteration in (1, 2, 3, 4)]
    assert rates == pytest.approx([1.0, 0.7, 0.4, 0.1])
    assert plan_learning_rate(algorithm, 1, 1) == 1.0
    assert plan_learning_rate(algorithm, 9, 4) == pytest.approx(0.1)
