"""SPOS: uniform single-path supernet, then evolution under the target (arXiv 1904.00420).

Every member of the population meets the target: children that miss it are moved to the nearest
subnet that meets it, where the paper draws again until one is under its bound.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from tfnas.derive import Derived
from tfnas.space import Subnet
from tfnas.strategies.contract import Found, Progress, Task
from tfnas.strategies.evaluate import (
    Genome,
    Scorer,
    WeightTraining,
    refuse_greedy,
    train_uniform,
)
from tfnas.strategies.training import check_knobs, new_supernet, weights_of


@dataclass(frozen=True)
class SPOS:
    """Knobs; values and sources stand in conf/strategy/spos.yaml."""

    population: int
    generations: int
    parents: int  # the best of all so far, that children come from
    mutation: float  # probability of drawing each gene anew
    score_images: int  # held-out images for each subnet
    weight_lr: float
    weight_momentum: float
    weight_decay: float
    clip: float

    def check(self, derive: str) -> None:
        refuse_greedy(derive)
        check_knobs(
            self,
            above_0=("population", "generations", "parents", "score_images", "weight_lr", "clip"),
            at_least_0=("weight_decay",),
            below_1=("weight_momentum",),
        )
        if not 0 < self.mutation <= 1:
            raise ValueError(f"strategy.mutation={self.mutation}: expected above 0 and at most 1")

    def run(self, task: Task) -> Iterator[Progress | Found]:
        """See `tfnas.strategies.contract.Strategy`."""
        rng = np.random.default_rng(task.seed)
        generator = torch.Generator().manual_seed(task.seed)
        net = new_supernet(task.space, task.budget.channel_factor, task.seed, task.device)
        how = WeightTraining(self.weight_lr, self.weight_momentum, self.weight_decay, self.clip)
        children = self.population * self.generations
        yield from train_uniform(task, net, how, generator, extra_steps=children)
        done = task.budget.epochs * len(task.train)
        scorer = Scorer.of(task, net, self.score_images)
        scored: dict[Subnet, tuple[float, Derived]] = {}
        born = 0
        for generation in range(self.generations):
            best = sorted(scored.values(), key=lambda pair: -pair[0])[: self.parents]
            for index in range(self.population):
                child = self._child(task, [d for _, d in best], index, generation, rng)
                derived = child.meet_target(task, rng)
                if derived.subnet not in scored:
                    scored[derived.subnet] = (scorer.top1(derived), derived)
                born += 1
                yield Progress(done + born, done + children, task.budget.epochs - 1)
        top1, found = max(scored.values(), key=lambda pair: pair[0])
        yield Found(
            found,
            None,
            weights_of(net, found.picks, range(len(task.space.blocks)), None),
            {
                "supernet_top1": top1,
                "subnets": len(scored),
                **scorer.spent(task, len(scored)),
            },
        )

    def _child(
        self,
        task: Task,
        parents: list[Derived],
        index: int,
        generation: int,
        rng: np.random.Generator,
    ) -> Genome:
        """Half of a generation by mutation, half by crossover; the first one at random."""
        fresh = Genome.random(task, rng)
        if generation == 0:
            return fresh
        one = Genome.of(parents[int(rng.integers(len(parents)))])
        if index < self.population // 2:
            return mix(one, fresh, self.mutation, rng)
        other = Genome.of(parents[int(rng.integers(len(parents)))])
        return mix(one, other, 0.5, rng)


def mix(one: Genome, other: Genome, share: float, rng: np.random.Generator) -> Genome:
    """One genome with each gene taken from the other with probability `share`.

    A block's op and width are one gene: a width belongs to its op.
    """
    stage_genes = rng.random(len(one.depths)) < share
    block_genes = rng.random(len(one.picks)) < share
    depths = tuple(
        b if take else a for a, b, take in zip(one.depths, other.depths, stage_genes, strict=True)
    )
    blocks = [
        (other.picks[i], other.widths[i]) if take else (one.picks[i], one.widths[i])
        for i, take in enumerate(block_genes)
    ]
    return Genome(depths, tuple(p for p, _ in blocks), tuple(w for _, w in blocks))
