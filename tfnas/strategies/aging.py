"""Regularized evolution: the oldest net dies, however good (E. Real et al., AAAI 2019).

With noisy scores that is the point: a lucky one doesn't live for ever. Children change one gene and
are then moved to the nearest net that meets the target.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Annotated

import numpy as np

from tfnas.process.checks import ABOVE_0
from tfnas.strategies.parts.proposing import (
    Ground,
    Proposals,
    Proposer,
    mutated,
    nearest,
    nothing_asked,
)


@dataclass(frozen=True)
class Aging(Proposer):
    """Knobs; values and sources stand in conf/strategy/aging.yaml."""

    population: Annotated[int, ABOVE_0]
    sample: Annotated[int, ABOVE_0]  # of the population, whose best is the parent

    def propose(self, ground: Ground, rng: np.random.Generator, count: int) -> Proposals:
        """See `Proposer`."""
        first = ground.random(min(self.population, count), rng)
        scores = yield first
        living = deque(zip(first, scores, strict=True), maxlen=self.population)
        asked = np.concatenate([nothing_asked(ground), first])
        while True:
            drawn = [living[int(rng.integers(len(living)))] for _ in range(self.sample)]
            parent, _ = max(drawn, key=lambda pair: float(pair[1]))
            child = nearest(ground, mutated(ground, parent, rng), rng, asked)
            asked = np.concatenate([asked, child[None]])
            (score,) = yield child[None]
            living.append((child, score))  # and the oldest leaves
