"""The learning rate over a job."""

from tandem_core.job.algorithm import AlgorithmSpec

_LAST_SHARE = 0.1
"""Of a linear schedule: the last iteration's share of the first one's learning rate."""


def plan_learning_rate(algorithm: AlgorithmSpec, iteration: int, iterations: int) -> float:
    """The learning rate of `iteration`, the first of `iterations` being 1: a function of these alone, so that a
    resumed job goes on with the same one."""
    if algorithm.learning_rate_schedule == "constant" or iterations == 1:
        return algorithm.learning_rate
    progress = min(1.0, (iteration - 1) / (iterations - 1))
    return algorithm.learning_rate * (1.0 - (1.0 - _LAST_SHARE) * progress)
