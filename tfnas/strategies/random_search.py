"""Random search: the baseline that every search has to beat.

Distinct random subnets that all meet the target, ranked on a supernet trained on uniform paths
(random search with weight sharing, arXiv 1902.07638).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tfnas.strategies.contract import Found, Progress, State, Task
from tfnas.strategies.parts.evaluate import Genome, SampledSearch, WeightTraining, refuse_greedy
from tfnas.strategies.parts.training import check_knobs


@dataclass(frozen=True)
class Random:
    """Knobs; values stand in conf/strategy/random.yaml."""

    subnets: int  # distinct ones that are scored
    score_images: int  # held-out images for each
    weight_lr: float
    weight_momentum: float
    weight_decay: float
    clip: float

    def check(self, derive: str) -> None:
        refuse_greedy(derive)
        check_knobs(
            self,
            above_0=("subnets", "score_images", "weight_lr", "clip"),
            at_least_0=("weight_decay",),
            below_1=("weight_momentum",),
        )

    def run(self, task: Task, state: State | None = None) -> Iterator[Progress | Found]:
        """See `tfnas.strategies.contract.Strategy`."""
        how = WeightTraining(self.weight_lr, self.weight_momentum, self.weight_decay, self.clip)
        search = SampledSearch(task, how, self.score_images)
        if state is not None:
            search.load(state)
        yield from search.train(self.subnets)
        while len(search.scored) < self.subnets and search.drawn < 10 * self.subnets:
            search.add(Genome.random(task, search.rng).meet_target(task, search.rng))
            yield search.progress(self.subnets, len(search.scored))
        yield search.found()
