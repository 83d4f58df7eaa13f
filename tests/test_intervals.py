"""Intervals cover what they claim to."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tfnas.intervals import (
    difference,
    mean_interval,
    paired_difference,
    plus_minus,
    spearman,
    spearman_bounds,
    student,
)


@pytest.mark.parametrize(
    ("freedom", "quantile"),  # tables of Student's distribution
    [(1, 12.706), (2, 4.303), (3, 3.182), (4, 2.776), (5, 2.571), (10, 2.228), (30, 2.042)],
)
def test_students_quantile(freedom: float, quantile: float) -> None:
    assert student(freedom) == pytest.approx(quantile, abs=0.02)


def test_quantiles_fall_with_the_degrees_of_freedom() -> None:
    values = [student(f) for f in np.linspace(1, 6, 101)]
    assert values == sorted(values, reverse=True)


def test_an_interval_covers_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    covered = [
        mean_interval(draw.tolist()).low <= 3 <= mean_interval(draw.tolist()).high
        for draw in rng.normal(3, 2, (2000, 4))
    ]
    assert np.mean(covered) == pytest.approx(0.95, abs=0.015)


def test_a_single_value_has_no_interval() -> None:
    assert mean_interval([0.5]).half_width == math.inf
    assert not mean_interval([0.5]).excludes_zero
    with pytest.raises(ValueError, match="no values"):
        mean_interval([])


def test_pairs_cancel_what_they_share() -> None:
    shared = np.array([0.0, 5.0, -3.0, 8.0])
    ours, theirs = (shared + np.array([1.0, 1.1, 0.9, 1.0])).tolist(), shared.tolist()
    assert paired_difference(ours, theirs).excludes_zero
    assert not difference(ours, theirs).excludes_zero
    assert difference(ours, theirs).mean == pytest.approx(paired_difference(ours, theirs).mean)
    with pytest.raises(ValueError, match="zip"):
        paired_difference([1.0, 2.0], [1.0])


def test_difference_of_unpaired_values() -> None:
    # Welch by hand: means 3 and 2, variances 1 and 4 over 3 values: 5/3, 2.94 degrees of freedom
    found = difference([2.0, 3.0, 4.0], [0.0, 2.0, 4.0])
    assert found.mean == pytest.approx(1)
    assert found.half_width == pytest.approx(3.22 * math.sqrt(5 / 3), rel=0.02)
    assert difference([1.0], [2.0, 3.0]).half_width == math.inf
    assert difference([1.0, 1.0], [0.0, 0.0]).half_width == 0


def test_ranks() -> None:
    assert spearman([1, 2, 3, 4], [10, 20, 30, 40]) == pytest.approx(1)
    assert spearman([1, 2, 3, 4], [4, 3, 2, 1]) == pytest.approx(-1)
    assert spearman([1, 2, 2, 3], [1, 2, 2, 9]) == pytest.approx(1)
    assert math.isnan(spearman([1, 1], [1, 2]))


@pytest.mark.parametrize("share", [0.0, 0.7])
def test_bounds_of_a_rank_correlation_cover_the_truth(share: float) -> None:
    rng = np.random.default_rng(1)

    def drawn(n: int) -> float:
        a, b = rng.normal(size=(2, n))
        return spearman(a.tolist(), (share * a + (1 - share) * b).tolist())

    truth = drawn(100_000)
    bounds = [spearman_bounds(drawn(20), 20) for _ in range(500)]
    assert np.mean([low <= truth <= high for low, high in bounds]) > 0.92
    assert all(-1 <= low < high <= 1 for low, high in bounds)
    assert spearman_bounds(0.9, 3) == (-1, 1)
    assert spearman_bounds(1.0, 20)[0] > 0.9


@pytest.mark.parametrize(
    ("interval", "told"),
    [((7.0, 9.0), "± 1"), ((0.0, 0.00015), "± 0.000075"), ((1.0, 1.0), "± 0"),
     ((0, 2469), "± 1200")],
)  # fmt: skip
def test_half_an_interval(interval: tuple[float, float], told: str) -> None:
    assert plus_minus(*interval) == told
