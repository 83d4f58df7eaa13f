"""How sure a mean, a difference or a rank correlation is: 95 % intervals from few values."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Interval:
    """An estimate with its 95 % interval; infinite where one value only is known."""

    mean: float
    half_width: float
    n: int

    @property
    def low(self) -> float:
        return self.mean - self.half_width

    @property
    def high(self) -> float:
        return self.mean + self.half_width

    @property
    def excludes_zero(self) -> bool:
        return abs(self.mean) > self.half_width


def plus_minus(low: float, high: float) -> str:
    """Half of an interval, to two digits."""
    half = np.format_float_positional((high - low) / 2, 2, fractional=False, trim="-")
    return f"± {half}"


def student(freedom: float) -> float:
    """The 97.5 % point of Student's distribution, to 0.02 at whole degrees of freedom."""
    if freedom < 1:
        return math.inf
    if freedom < 4:
        low, high = ((12.71, 4.303), (4.303, 3.182), (3.182, 2.776))[int(freedom) - 1]
        return float(low * (high / low) ** (freedom - int(freedom)))
    return 1.96 + 2.37 / freedom + 2.82 / freedom**2 + 2.6 / freedom**3


def mean_interval(values: Sequence[float]) -> Interval:
    """Of values that were drawn independently.

    Raises:
        ValueError: if there is no value.
    """
    if not values:
        raise ValueError("an interval of no values: expected one or more")
    n = len(values)
    mean = float(np.mean(values))
    if n == 1:
        return Interval(mean, math.inf, 1)
    return Interval(mean, student(n - 1) * float(np.std(values, ddof=1)) / math.sqrt(n), n)


def paired_difference(ours: Sequence[float], theirs: Sequence[float]) -> Interval:
    """Of the mean of `ours - theirs`, which share what they were drawn with, such as a seed."""
    return mean_interval([a - b for a, b in zip(ours, theirs, strict=True)])


def difference(ours: Sequence[float], theirs: Sequence[float]) -> Interval:
    """Of the difference of two means of independent values (Welch's)."""
    a, b = mean_interval(ours), mean_interval(theirs)
    if min(a.n, b.n) == 1:
        return Interval(a.mean - b.mean, math.inf, min(a.n, b.n))
    u, v = (float(np.var(x, ddof=1)) / len(x) for x in (ours, theirs))
    if u + v == 0:
        return Interval(a.mean - b.mean, 0.0, min(a.n, b.n))
    freedom = (u + v) ** 2 / (u**2 / (a.n - 1) + v**2 / (b.n - 1))
    return Interval(a.mean - b.mean, student(freedom) * math.sqrt(u + v), min(a.n, b.n))


def spearman(a: Sequence[float], b: Sequence[float]) -> float:
    """Rank correlation, ties by mean rank; nan for fewer than 2 values, or where all are equal."""
    if len(a) < 2:
        return math.nan
    x, y = _ranks(np.array(a)), _ranks(np.array(b))
    if x.std() == 0 or y.std() == 0:
        return math.nan
    return float(np.corrcoef(x, y)[0, 1])


def spearman_bounds(correlation: float, n: int) -> tuple[float, float]:
    """The 95 % interval of a rank correlation of n pairs (Bonett and Wright, Psychometrika 2000).

    All of -1 to 1 for fewer than 4 pairs.
    """
    if n < 4 or math.isnan(correlation):
        return -1.0, 1.0
    middle = math.atanh(min(max(correlation, -0.999999), 0.999999))
    half = 1.96 * math.sqrt((1 + correlation**2 / 2) / (n - 3))
    return math.tanh(middle - half), math.tanh(middle + half)


def _ranks(values: np.ndarray) -> np.ndarray:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[inverse]
