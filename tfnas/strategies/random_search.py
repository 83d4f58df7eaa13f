"""Random search: the baseline that every search has to beat.

Distinct random subnets that all meet the target, ranked on a supernet trained on uniform paths
(random search with weight sharing, arXiv 1902.07638).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, ClassVar

from tfnas.process.checks import ABOVE_0, check_fields
from tfnas.strategies.contract import Found, Progress, State, Task
from tfnas.strategies.parts.evaluate import Genome, SampledSearch, refuse_greedy
from tfnas.strategies.parts.training import WeightKnobs


@dataclass(frozen=True)
class Random(WeightKnobs):
    """Knobs; values stand in conf/strategy/random.yaml."""

    SCORED: ClassVar[tuple[str, ...]] = ("subnets",)

    subnets: Annotated[int, ABOVE_0]  # distinct ones that are scored
    score_images: Annotated[int, ABOVE_0]  # held-out images for each

    def check(self, derive: str) -> None:
        refuse_greedy(derive)
        check_fields("strategy", self)

    def run(self, task: Task, state: State | None = None) -> Iterator[Progress | Found]:
        """See `tfnas.strategies.contract.Strategy`."""
        search = SampledSearch(task, self, self.score_images, self.subnets)
        if state is not None:
            search.load(state)
        yield from search.train()
        while len(search.scored) < self.subnets and search.drawn < 10 * self.subnets:
            search.add(Genome.random(task, search.rng).meet_target(task, search.rng))
            yield search.progress(len(search.scored))
        yield search.found()
