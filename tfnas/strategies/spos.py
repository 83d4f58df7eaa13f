"""SPOS: uniform single-path supernet, then evolution under the target (arXiv 1904.00420).

Every member of the population meets the target: children that miss it are moved to the nearest
subnet that meets it, where the paper draws again until one is under its bound.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np

from tfnas.derive.architecture import Derived
from tfnas.process.checks import ABOVE_0, Allowed, check_fields
from tfnas.strategies.contract import Found, Progress, State, Task
from tfnas.strategies.parts.evaluate import Genome, SampledSearch, refuse_greedy
from tfnas.strategies.parts.training import WeightKnobs

PROBABILITY = Allowed("above 0 and at most 1", lambda v: 0 < v <= 1)


@dataclass(frozen=True)
class SPOS(WeightKnobs):
    """Knobs; values and sources stand in conf/strategy/spos.yaml."""

    SCORED: ClassVar[tuple[str, ...]] = ("generations", "population")

    population: Annotated[int, ABOVE_0]
    generations: Annotated[int, ABOVE_0]
    parents: Annotated[int, ABOVE_0]  # the best of all so far, that children come from
    mutation: Annotated[float, PROBABILITY]  # of drawing each gene anew
    score_images: Annotated[int, ABOVE_0]  # held-out images for each subnet

    def check(self, derive: str) -> None:
        refuse_greedy(derive)
        check_fields("strategy", self)

    def run(self, task: Task, state: State | None = None) -> Iterator[Progress | Found]:
        """See `tfnas.strategies.contract.Strategy`."""
        children = self.population * self.generations
        search = SampledSearch(task, self, self.score_images, children)
        if state is not None:
            search.load(state)
        yield from search.train()
        while search.drawn < children:
            generation, index = divmod(search.drawn, self.population)
            if index == 0:
                search.generation = len(search.scored)
            parents = search.parents(self.parents)
            child = self._child(task, parents, index, generation, search.rng)
            search.add(child.meet_target(task, search.rng))
            yield search.progress(search.drawn)
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
