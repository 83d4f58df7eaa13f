"""Random search: the baseline that every search has to beat.

Distinct random subnets that all meet the target, ranked on a supernet trained on uniform paths
(random search with weight sharing, arXiv 1902.07638).
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

    def run(self, task: Task) -> Iterator[Progress | Found]:
        """See `tfnas.strategies.contract.Strategy`."""
        rng = np.random.default_rng(task.seed)
        generator = torch.Generator().manual_seed(task.seed)
        net = new_supernet(task.space, task.budget.channel_factor, task.seed, task.device)
        how = WeightTraining(self.weight_lr, self.weight_momentum, self.weight_decay, self.clip)
        yield from train_uniform(task, net, how, generator, extra_steps=self.subnets)
        done, steps = task.budget.epochs * len(task.train), 0
        scorer = Scorer.of(task, net, self.score_images)
        scored: dict[Subnet, tuple[float, Derived]] = {}
        while len(scored) < self.subnets and steps < 10 * self.subnets:
            steps += 1
            derived = Genome.random(task, rng).meet_target(task, rng)
            if derived.subnet not in scored:
                scored[derived.subnet] = (scorer.top1(derived), derived)
            yield Progress(done + len(scored), done + self.subnets, task.budget.epochs - 1)
        top1, best = max(scored.values(), key=lambda pair: pair[0])
        yield Found(
            best,
            None,
            weights_of(net, best.picks, range(len(task.space.blocks)), None),
            {
                "supernet_top1": top1,
                "mean_supernet_top1": float(np.mean([t for t, _ in scored.values()])),
                "subnets": len(scored),
                **scorer.spent(task, len(scored)),
            },
        )
