"""How sure a difference between variants is: pure functions."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import sqrt
from statistics import fmean, stdev

_T_QUANTILES = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
"""97.5 % quantile of Student's t with 1, 2, ... degrees of freedom."""


@dataclass(frozen=True)
class Difference:
    """Mean of paired differences and the half-width of its 95 % interval."""

    mean: float
    half_width: float

    @property
    def decided(self) -> bool:
        """Whether 0 is outside of the interval."""
        return abs(self.mean) > self.half_width


def paired_difference(values: Sequence[float], references: Sequence[float]) -> Difference:
    """Of `values` minus `references`, seed by seed; 2 to 10 seeds."""
    differences = [value - reference for value, reference in zip(values, references, strict=True)]
    quantile = _T_QUANTILES[len(differences) - 2]
    return Difference(fmean(differences), quantile * stdev(differences) / sqrt(len(differences)))


def mean_over_run(iterations: Sequence[int], values: Sequence[float]) -> float:
    """Area under the curve over its length: high for what learns fast (trapezoids)."""
    pairs = list(zip(iterations, values, strict=True))
    area = sum((b - a) * (x + y) / 2 for (a, x), (b, y) in pairwise(pairs))
    return area / (iterations[-1] - iterations[0])
