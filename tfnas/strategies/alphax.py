"""AlphaX: Monte Carlo tree search over partial nets (L. Wang et al., AAAI 2020).

A level of the tree is a position, the last first: late blocks matter most for accuracy. From a
node the branch of the highest upper bound is taken (UCT: L. Kocsis and C. Szepesvári, ECML 2006),
each once before any twice; what a path leaves open is drawn, and the exact optimum moves the whole
to the target. A node's value is half the mean of its nets' scores and half what a ridge regression
on items predicts of them, where the paper has a value network. Scores are scaled to 0..1 by what
was seen so far: with accuracies as they are the published constant is all exploration.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated

import numpy as np

from tfnas.process.checks import ABOVE_0
from tfnas.strategies.parts.proposing import (
    KEPT,
    Ground,
    Ints,
    Proposals,
    Proposer,
    nothing_asked,
)
from tfnas.strategies.parts.ridge import ridge


@dataclass
class Node:
    """A partial net: how often it was passed, the sum of scaled scores, and what follows."""

    visits: int = 0
    total: float = 0.0
    children: dict[int, Node] = field(default_factory=dict)


@dataclass(frozen=True)
class AlphaX(Proposer):
    """Knobs; values and sources stand in conf/strategy/alphax.yaml."""

    exploration: Annotated[float, ABOVE_0]  # factor of the bound's width
    levels: Annotated[int, ABOVE_0]  # positions that the tree decides, the last ones

    def propose(self, ground: Ground, rng: np.random.Generator, count: int) -> Proposals:
        """See `Proposer`."""
        root, nets, scores = Node(), nothing_asked(ground), np.zeros(0)
        while True:
            path = self._descend(root, ground, rng)
            net = _completed(ground, path, rng, nets)
            (score,) = yield net[None]
            nets, scores = np.concatenate([nets, net[None]]), np.append(scores, score)
            low, high = float(scores.min()), float(scores.max())
            scaled = (scores - low) / (high - low) if high > low else np.full(len(scores), 0.5)
            predicted = ridge(ground.counts, nets, scaled)(net[None])[0]
            worth, node = (float(scaled[-1]) + float(np.clip(predicted, 0, 1))) / 2, root
            node.visits, node.total = node.visits + 1, node.total + worth
            for item in path.values():
                node = node.children.setdefault(item, Node())
                node.visits, node.total = node.visits + 1, node.total + worth

    def _descend(self, root: Node, ground: Ground, rng: np.random.Generator) -> Mapping[int, int]:
        """Items by position, down to the first node that is new."""
        node = root
        path: dict[int, int] = {}
        for position in reversed(range(len(ground.counts))):
            if len(path) == self.levels:
                break
            item = choose(node, ground.counts[position], self.exploration, rng)
            path[position] = item
            if item not in node.children:
                break
            node = node.children[item]
        return path


def choose(node: Node, items: int, exploration: float, rng: np.random.Generator) -> int:
    """The branch of the highest bound; of those never taken any."""
    if fresh := [item for item in range(items) if item not in node.children]:
        return fresh[int(rng.integers(len(fresh)))]
    bounds = [
        child.total / child.visits
        + 2 * exploration * math.sqrt(2 * math.log(node.visits) / child.visits)
        for child in (node.children[item] for item in range(items))
    ]
    return int(np.argmax(bounds))


def _completed(
    ground: Ground, path: Mapping[int, int], rng: np.random.Generator, asked: Ints
) -> Ints:
    """The net at the target that has most of a path's items; the others are chance."""
    values = [rng.gumbel(size=count) for count in ground.counts]
    for position, item in path.items():
        values[position][item] += KEPT
    return ground.optimum(values, asked)
