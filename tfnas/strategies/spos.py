"""SPOS: uniform single-path supernet, then evolution under the target (arXiv 1904.00420).

Every member of the population meets the target: children that miss it are moved to the nearest
subnet that meets it, where the paper draws again until one is under its bound.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from tfnas.derive.architecture import Derived
from tfnas.strategies.contract import Found, Progress, State, Task
from tfnas.strategies.parts.evaluate import Genome, SampledSearch, WeightTraining, refuse_greedy
from tfnas.strategies.parts.training import check_knobs


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

    def run(self, task: Task, state: State | None = None) -> Iterator[Progress | Found]:
        """See `tfnas.strategies.contract.Strategy`."""
        how = WeightTraining(self.weight_lr, self.weight_momentum, self.weight_decay, self.clip)
        search = SampledSearch(task, how, self.score_images)
        if state is not None:
            search.load(state)
        children = self.population * self.generations
        yield from search.train(children)
        while search.drawn < children:
            generation, index = divmod(search.drawn, self.population)
            if index == 0:
                search.generation = len(search.scored)
            parents = search.parents(self.parents)
            child = self._child(task, parents, index, generation, search.rng)
            search.add(child.meet_target(task, search.rng))
            yield search.progress(children, search.drawn)
        yield search.found()

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
