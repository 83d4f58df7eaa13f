"""MANAS: an adversarial bandit at every position, all with one reward (M. Lopes et al., ICLR 2020).

Each plays by Exp3 (P. Auer et al., SIAM J. Comput. 32, 2002, section 3): the weight of the item
that was played grows by exp(rate · reward / probability). Rewards are scaled to 0..1 by what was
seen so far. A net is a draw among those that meet the target. The paper's variant by least squares
is nearly `strategy=surrogate` with random nets.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np

from tfnas.derive.uniform import ABSENT
from tfnas.process.checks import INSIDE_0_1
from tfnas.strategies.parts.proposing import (
    Floats,
    Ground,
    Proposals,
    Proposer,
    nothing_asked,
)


@dataclass(frozen=True)
class MANAS(Proposer):
    """Knobs; values and sources stand in conf/strategy/manas.yaml."""

    exploration: Annotated[float, INSIDE_0_1]  # share of plays that are uniform

    def propose(self, ground: Ground, rng: np.random.Generator, count: int) -> Proposals:
        """See `Proposer`."""
        agents = [Exp3(items, self.exploration) for items in ground.counts]
        low, high, asked = np.inf, -np.inf, nothing_asked(ground)
        while True:
            values = [np.log(a.probabilities) + rng.gumbel(size=len(a.logs)) for a in agents]
            net = ground.optimum(values, asked)
            (score,) = yield net[None]
            low, high = min(low, float(score)), max(high, float(score))
            reward = (float(score) - low) / (high - low) if high > low else 0.5
            for agent, item in zip(agents, net, strict=True):
                if item != ABSENT:
                    agent.learn(int(item), reward)


class Exp3:
    """One agent.

    Attributes:
        logs: logarithms of its weights, whose common part is taken out.
    """

    def __init__(self, items: int, exploration: float) -> None:
        self.logs, self.exploration = np.zeros(items), exploration

    @property
    def probabilities(self) -> Floats:
        weights = np.exp(self.logs)
        uniform = self.exploration / len(weights)
        return np.asarray((1 - self.exploration) * weights / weights.sum() + uniform)

    def learn(self, item: int, reward: float) -> None:
        """Take the reward, 0 to 1, of the item that was played."""
        estimate = reward / self.probabilities[item]
        self.logs[item] += self.exploration * estimate / len(self.logs)
        self.logs -= self.logs.max()
