"""What items are worth, by a ridge regression on few scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tfnas.derive.uniform import ABSENT

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
PENALTY = 1.0


def ridge(counts: Sequence[int], nets: Ints, scores: Floats) -> Linear:
    """What items are worth, by a ridge regression of scores on which items nets have."""
    x, mean = one_hot(counts, nets), float(scores.mean())
    dual = np.linalg.solve(x @ x.T + PENALTY * np.eye(len(x)), scores - mean)
    return Linear(tuple(counts), x.T @ dual, mean)


@dataclass(frozen=True)
class Linear:
    counts: tuple[int, ...]
    weights: Floats
    mean: float

    def __call__(self, nets: Ints) -> Floats:
        return np.asarray(one_hot(self.counts, nets) @ self.weights + self.mean)


def one_hot(counts: Sequence[int], nets: Ints) -> Floats:
    """Which items nets have, (n, items of all positions)."""
    x = np.zeros((len(nets), sum(counts)))
    for position, first in enumerate(np.cumsum([0, *counts[:-1]])):
        kept = np.flatnonzero(nets[:, position] != ABSENT)
        x[kept, first + nets[kept, position]] = 1.0
    return x
