"""A surrogate with the exact solver: an additive value of nets, learned from few evaluations.

A supernet is trained on sampled paths. Then nets are asked for and scored, batch by batch: each is
the exact optimum, under the target, of values drawn from what the scores so far tell of them. Near
in kind: LANA (arXiv 2107.10624), which values layers one by one and solves an integer program.
`tfnas.strategies.parts.surrogate` has the model and its sources.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, ClassVar

import numpy as np

from tfnas.process.checks import ABOVE_0, check_fields, one_of
from tfnas.process.errors import DivergedError
from tfnas.strategies.contract import Found, Progress, State, Task
from tfnas.strategies.parts.evaluate import PATHS, SampledSearch, refuse_greedy
from tfnas.strategies.parts.items import Items
from tfnas.strategies.parts.scoring import VALUES
from tfnas.strategies.parts.surrogate import Features, Search, Settings
from tfnas.strategies.parts.training import WeightKnobs

REFERENCE_NETS = 100  # random ones at the target, which tell how much each feature varies
APART = 0.02  # see `Settings`: nets that differ in a few channels alone are not worth two scores


@dataclass(frozen=True)
class Surrogate(WeightKnobs):
    """Knobs; values and sources stand in conf/strategy/surrogate.yaml."""

    SCORED: ClassVar[tuple[str, ...]] = ("evaluations",)

    paths: Annotated[str, one_of(PATHS)]  # that the supernet trains on
    evaluations: Annotated[int, ABOVE_0]  # subnets that are scored
    batch: Annotated[int, ABOVE_0]  # of them from one fit to the next
    score: Annotated[str, one_of(VALUES)]
    score_images: Annotated[int, ABOVE_0]  # held-out images for each subnet

    def check(self, derive: str) -> None:
        refuse_greedy(derive)
        check_fields("strategy", self)

    def run(self, task: Task, state: State | None = None) -> Iterator[Progress | Found]:
        """See `tfnas.strategies.contract.Strategy`."""
        search = SurrogateSearch(task, self)
        if state is not None:
            search.load(state)
        yield from search.train()
        while search.drawn < self.evaluations:
            if not search.pending:
                search.ask(min(self.batch, self.evaluations - search.drawn))
            search.score_next()
            yield search.progress(search.drawn)
        yield search.found(search.estimates())


class SurrogateSearch(SampledSearch):
    """What is scored, and what is to be scored next.

    Attributes:
        pending: items of nets that were asked for and not scored yet.
        center: see `tfnas.strategies.parts.surrogate.Search`; empty before the first scores.
    """

    STATE = (*SampledSearch.STATE, "pending", "center")

    def __init__(self, task: Task, knobs: Surrogate):
        super().__init__(
            task, knobs, knobs.score_images, knobs.evaluations, by=knobs.score, paths=knobs.paths
        )
        self.items = Items(task.space, task.constraints)
        self.pending: list[list[int]] = []
        self.center: list[float] = []

    @cached_property
    def features(self) -> Features:
        """They depend on the task alone."""
        rng = np.random.default_rng(self.task.seed)
        reference = np.stack([self.items.random(rng) for _ in range(REFERENCE_NETS)])
        return Features.of_genes(self.items.genes(), reference, Settings())

    def ask(self, count: int) -> None:
        """Let the model say what to score next."""
        self.pending = self._model().ask(count).tolist()
        self.task.ranks.check_same({"pending": self.pending})

    def score_next(self) -> None:
        """Score the first of what is pending."""
        self.add(self.items.derived(self.pending[0]))
        self.pending = self.pending[1:]

    def estimates(self) -> list[float]:
        """What the model makes of each scored net, in the score's unit."""
        return [float(value) for value in self._model().estimates()]

    def _model(self) -> Search:
        """Fit the model to all scores, and move its center."""
        noise = self.scores.noise() if self.scored else Settings.noise
        settings = Settings(apart=APART, noise=noise)
        model = Search(self.features, self.items.optimum, settings, self.rng)
        if self.center:
            model.center = np.array(self.center)
        if self.scored:
            values = np.array(self.scores.values())
            if not np.isfinite(values).all():
                raise DivergedError(
                    "the supernet gives subnets no finite loss; lower strategy.weight_lr"
                )
            nets = np.stack([self.items.of(derived) for _, derived in self.scored.values()])
            model.tell(nets, values)
            self.center = model.center.tolist()
        return model
