"""What scores were worth, and what the winner won against."""

from __future__ import annotations

import pytest

from tfnas.intervals import mean_interval, spearman
from tfnas.runs.finals import FinalsRow, evidence, margins, ordered

CUTS = (1, 3)


def rows() -> list[FinalsRow]:
    firsts = [0.50, 0.48, 0.40, 0.44, 0.42, 0.47]
    sources = ["search", "search", "random", "random", "random", "hand-made"]
    curves = [(a,) for a in firsts]
    curves[0], curves[1] = (0.50, 0.6, 0.65), (0.48, 0.6, 0.7)
    curves[3], curves[5] = (0.44, 0.5, 0.55), (0.47, 0.5, 0.6)
    return [
        FinalsRow(f"{source}-{i}", source, 8.0, {"proxy": float(-a)} if i else {}, curve)
        for i, (a, source, curve) in enumerate(zip(firsts, sources, curves, strict=True))
    ]


def test_scores_are_compared_after_as_many_epochs() -> None:
    found = {(e.score, e.epochs): e for e in evidence(rows(), CUTS)}
    assert set(found) == {("proxy", 1), ("top-1 after epoch 1", 3)}
    assert found["proxy", 1].nets == 5  # one net has no such score
    assert found["proxy", 1].correlation == pytest.approx(-1)
    assert found["proxy", 1].ranks is False
    first, last = [0.50, 0.48, 0.44, 0.47], [0.65, 0.7, 0.55, 0.6]
    early = found["top-1 after epoch 1", 3]
    assert (early.nets, early.correlation) == (4, pytest.approx(spearman(first, last)))
    assert early.ranks is None  # so few nets show nothing


def test_nothing_is_told_of_three_nets_or_equal_ones() -> None:
    assert evidence(rows()[:3], CUTS) == ()
    equal = [FinalsRow(str(i), "random", 8.0, {"proxy": i}, (0.5,)) for i in range(6)]
    assert evidence(equal, (1,)) == ()


def test_margins_are_those_of_the_last_common_cut() -> None:
    over_random, over_made = margins(rows(), "search-1", CUTS, images=1000)
    gains = mean_interval([0.08, 0.04, 0.06])
    assert (over_random.epochs, over_random.nets) == (1, 3)
    assert over_random.mean == pytest.approx(0.06)
    assert over_random.interval == pytest.approx((gains.low, gains.high))
    assert over_made.epochs == 3
    assert over_made.mean == pytest.approx(0.1)
    low, high = over_made.interval or (0, 0)
    assert low < over_made.mean < high
    assert "hand-made-5" in over_made.over


def test_a_random_winner_is_compared_with_the_others() -> None:
    over_random, _ = margins(rows(), "random-3", CUTS, images=1000)
    assert over_random.nets == 2


def test_rows_stand_by_how_far_they_came() -> None:
    names = [row.name for row in ordered(rows(), "search-1")]
    assert names == ["search-1", "search-0", "hand-made-5", "random-3", "random-4", "random-2"]
