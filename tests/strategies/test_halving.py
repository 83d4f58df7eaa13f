"""Who trains until when, and who goes on."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfnas.strategies.parts.halving import FINALISTS, Judged, Rung, ranking, rungs


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ((12, 20, 0.5, 0.2), [(12, 4), (6, 7), (3, 12), (2, 20)]),
        ((12, 20, 1 / 3, 0.15), [(12, 3), (4, 8), (2, 20)]),
        ((16, 3, 0.5, 0.2), [(16, 1), (4, 2), (2, 3)]),  # fewer epochs than cuts
        ((2, 5, 0.5, 0.2), [(2, 5)]),
        ((1, 5, 0.5, 0.2), [(1, 5)]),
        ((9, 1, 0.5, 0.2), [(9, 1)]),
    ],
)
def test_rungs(given: tuple[int, int, float, float], expected: list[tuple[int, int]]) -> None:
    assert rungs(*given) == tuple(Rung(*pair) for pair in expected)


@given(st.integers(1, 200), st.integers(1, 300), st.floats(0.1, 0.9), st.floats(0.01, 0.9))
def test_rungs_fall_and_rise(nets: int, epochs: int, keep: float, first_cut: float) -> None:
    found = rungs(nets, epochs, keep, first_cut)
    assert found[0].nets == nets
    assert found[-1].epochs == epochs
    assert len(found) == 1 or found[0].epochs >= first_cut * epochs - 1e-6
    for one, after in itertools.pairwise(found):
        assert FINALISTS <= after.nets < one.nets
        assert one.epochs < after.epochs


def test_ranking_by_top1_then_loss_then_order() -> None:
    judged = {
        "a": Judged(0.5, 1.0), "b": Judged(0.6, 9.0), "c": Judged(0.5, 0.9), "d": Judged(0.5, 1.0),
    }  # fmt: skip
    assert ranking(judged) == ("b", "c", "a", "d")
