"""Policies of independent choices, learned by REINFORCE (R. J. Williams, Machine Learning 8, 1992).

`nas_rl` has logits for every position, as NATS-Bench's REINFORCE on the search by reinforcement of
Zoph and Le (ICLR 2017) has them: no controller is needed to say which of independent choices is
likely. `mnas` ties the choices within a stage (M. Tan et al., CVPR 2019, section 4.1), so that few
scores teach more. A net is a draw of the policy among those that meet the target (Gumbel noise and
the exact optimum), so the reward is the score alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np

from tfnas.derive.uniform import ABSENT
from tfnas.process.checks import ABOVE_0, INSIDE_0_1
from tfnas.strategies.parts.proposing import (
    Floats,
    Ground,
    Ints,
    Proposals,
    Proposer,
    nothing_asked,
    stage_of,
)


@dataclass(frozen=True)
class Reinforce(Proposer):
    """Knobs; values and sources stand in conf/strategy/nas_rl.yaml and mnas.yaml."""

    lr: Annotated[float, ABOVE_0]  # of Adam
    batch: Annotated[int, ABOVE_0]  # nets whose mean score is the baseline
    baseline: Annotated[float, INSIDE_0_1]  # of the running mean that a batch of one is held to
    tied: bool  # one choice for all positions of a stage

    def propose(self, ground: Ground, rng: np.random.Generator, count: int) -> Proposals:
        """See `Proposer`."""
        policy, adam = Policy(ground, self.tied), Adam(self.lr)
        mean, seen, asked = 0.0, 0.0, nothing_asked(ground)
        while True:
            nets = np.stack([policy.drawn(rng, asked) for _ in range(self.batch)])
            scores = yield nets
            mean = self.baseline * mean + (1 - self.baseline) * float(scores.mean())
            seen = self.baseline * seen + (1 - self.baseline)
            # One net is held to the running mean, without its bias towards 0; several to theirs.
            against = float(scores.mean()) if self.batch > 1 else mean / seen
            gradient = policy.gradient(nets, scores - against)
            policy.logits = [
                row + step for row, step in zip(policy.logits, adam.steps(gradient), strict=True)
            ]


class Policy:
    """A softmax of logits for each gene: the items of a position or, tied, of a stage.

    Attributes:
        genes: for each position, the number of its gene.
    """

    def __init__(self, ground: Ground, tied: bool) -> None:
        self.ground = ground
        self.genes = stage_of(ground) if tied else list(range(len(ground.counts)))
        sizes = [0] * (max(self.genes) + 1)
        for gene, count in zip(self.genes, ground.counts, strict=True):
            sizes[gene] = max(sizes[gene], count)
        self.logits: list[Floats] = [np.zeros(size) for size in sizes]

    def drawn(self, rng: np.random.Generator, asked: Ints) -> Ints:
        """A net of those that meet the target, by the probabilities."""
        noisy = [
            self.logits[gene][:count] + rng.gumbel(size=count)
            for gene, count in zip(self.genes, self.ground.counts, strict=True)
        ]
        return self.ground.optimum(noisy, asked)

    def gradient(self, nets: Ints, advantages: Floats) -> list[Floats]:
        """Of the mean of advantage times log-probability, over the items that a net has."""
        found = [np.zeros_like(row) for row in self.logits]
        for net, advantage in zip(nets, advantages, strict=True):
            for gene, count, item in zip(self.genes, self.ground.counts, net, strict=True):
                if item != ABSENT:
                    found[gene][:count] -= advantage * softmax(self.logits[gene][:count])
                    found[gene][item] += advantage
        return [row / len(nets) for row in found]


class Adam:
    """D. P. Kingma and J. Ba, ICLR 2015, uphill."""

    def __init__(self, lr: float, betas: tuple[float, float] = (0.9, 0.999)) -> None:
        self.lr, self.betas, self.count = lr, betas, 0
        self.first: list[Floats] = []
        self.second: list[Floats] = []

    def steps(self, gradient: Sequence[Floats]) -> list[Floats]:
        self.first = self.first or [np.zeros_like(row) for row in gradient]
        self.second = self.second or [np.zeros_like(row) for row in gradient]
        self.count += 1
        a, b = self.betas
        self.first = [a * m + (1 - a) * g for m, g in zip(self.first, gradient, strict=True)]
        self.second = [b * v + (1 - b) * g**2 for v, g in zip(self.second, gradient, strict=True)]
        fair_a, fair_b = 1 - a**self.count, 1 - b**self.count
        return [
            self.lr * (m / fair_a) / (np.sqrt(v / fair_b) + 1e-8)
            for m, v in zip(self.first, self.second, strict=True)
        ]


def softmax(logits: Floats) -> Floats:
    powers = np.exp(logits - logits.max())
    return np.asarray(powers / powers.sum())
