"""PNAS: stage by stage, a beam of partial nets ranked by a surrogate (C. Liu et al., ECCV 2018).

The paper trains all small nets and grows the best by a block. Here a net has its size from the
start: a level decides one more stage, and what is open is chance that the exact optimum moves to
the target. The surrogate is a ridge regression on items, fitted anew after every level, where the
paper has a recurrent network. After the last stage it begins anew, with what was learned.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np

from tfnas.process.checks import ABOVE_0
from tfnas.strategies.parts.proposing import (
    Ground,
    Ints,
    Proposals,
    Proposer,
    nearest,
    nothing_asked,
)
from tfnas.strategies.parts.ridge import ridge


@dataclass(frozen=True)
class PNAS(Proposer):
    """Knobs; values and sources stand in conf/strategy/pnas.yaml."""

    beam: Annotated[int, ABOVE_0]  # partial nets that are kept, and nets that are scored a level
    expansions: Annotated[int, ABOVE_0]  # of each partial net, that the surrogate ranks

    def propose(self, ground: Ground, rng: np.random.Generator, count: int) -> Proposals:
        """See `Proposer`."""
        nets = np.concatenate([nothing_asked(ground), ground.random(self.beam, rng)])
        scores = yield nets
        begins = np.cumsum([0, *(length for length, _ in ground.stages[:-1])])
        while True:
            kept = nets[np.argsort(-scores, kind="stable")[: self.beam]]
            for begin in begins:
                grown = self._expanded(ground, kept, int(begin), rng, nets)
                predicted = ridge(ground.counts, nets, scores)(grown)
                chosen = grown[np.argsort(-predicted, kind="stable")[: self.beam]]
                found = yield chosen
                nets, scores = np.concatenate([nets, chosen]), np.concatenate([scores, found])
                kept = chosen[np.argsort(-found, kind="stable")]

    def _expanded(
        self, ground: Ground, kept: Ints, begin: int, rng: np.random.Generator, asked: Ints
    ) -> Ints:
        """Nets with the first stages of kept ones, and chance behind them."""
        grown = []
        for net in kept:
            for drawn in ground.random(self.expansions, rng):
                wanted = np.concatenate([net[:begin], drawn[begin:]])
                grown.append(nearest(ground, wanted, rng, asked))
        return np.unique(np.stack(grown), axis=0)
