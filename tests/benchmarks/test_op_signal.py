"""Estimates of what ops are worth, on a net that says what they are worth."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from benchmarks.quality import op_signal
from benchmarks.quality.op_signal import (
    Signal,
    correlation,
    gradients,
    measured,
    path_effects,
    table,
)
from tests.benchmarks.test_quality import TINY, images  # noqa: F401
from tests.support.searches import new_search
from tfnas.nets.supernet import Mix
from tfnas.strategies.contract import Task
from tfnas.strategies.tfnas import Search

pytestmark = pytest.mark.slow


class Planted:
    """Stands for a supernet whose cross-entropy for label 0 grows with what its ops cost."""

    def __init__(self, costs: Tensor):
        self.costs = costs  # (blocks, ops)

    def frozen(self) -> nullcontext[None]:
        return nullcontext()

    def __call__(self, x: Tensor, on: Sequence[Mix | int], *_: object) -> Tensor:
        cost = sum(
            row[pick] if isinstance(pick, int) else row[list(pick.picks)] @ pick.weights
            for row, pick in zip(self.costs, on, strict=True)
        )
        return torch.stack([-torch.as_tensor(cost), torch.zeros(())]).expand(len(x), 2)


@pytest.fixture
def planted(task: Task) -> tuple[Search, np.ndarray]:
    search = new_search(task)
    shape = len(search.alphas), len(search.alphas[0])
    costs = 0.1 * torch.randn(shape, generator=torch.Generator().manual_seed(0))
    search.net = Planted(costs)  # type: ignore[assignment]
    x, y = next(task.held_out.epoch(0))
    search.held_out = itertools.repeat((x, torch.zeros_like(y)))  # type: ignore[assignment]
    return search, costs.numpy()


def test_both_estimates_find_what_was_planted(planted: tuple[Search, np.ndarray]) -> None:
    search, costs = planted
    centred = costs - costs.mean(axis=1, keepdims=True)
    for temperature in op_signal.TEMPERATURES:
        halves = gradients(search, temperature)
        assert min(correlation(half, centred) for half in halves) > 0.9
    halves = path_effects(search)
    assert min(correlation(half, centred) for half in halves) > 0.99
    # The derivative of the cross-entropy of two classes by a small difference of logits is a half.
    assert np.polyfit(centred.ravel(), np.mean(halves, axis=0).ravel(), 1)[0] == pytest.approx(
        0.5, abs=0.1
    )


def test_two_supernets(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    monkeypatch.setattr(op_signal, "BUDGET", TINY)
    monkeypatch.setattr(op_signal, "STEPS", 2)
    monkeypatch.setattr(op_signal, "PATHS", 8)
    signals = {seed: measured(str(images), 100, 1, seed) for seed in (0, 1)}
    again = measured(str(images), 100, 1, 0)
    assert np.array_equal(again.whole("paths"), signals[0].whole("paths"))
    text = table(signals)
    assert text.count("\n| ") == 4
    assert "between supernets" in text


def test_correlations_of_a_table() -> None:
    up, down = np.array([[1.0, -1.0], [2.0, -2.0]]), np.array([[-1.0, 1.0], [-2.0, 2.0]])
    signals = {
        0: Signal(10.0, {"gradient": (up, up), "paths": (up, down * 0.5)}),
        1: Signal(20.0, {"gradient": (down, down), "paths": (up, up)}),
    }
    text = table(signals)
    assert "| gradient | +1.00, +1.00 | +1.00, -1.00 | -1.00 |" in text
    assert "| paths | -1.00, +1.00 |  | +1.00 |" in text
    assert "10.0, 20.0 %" in text
