"""Scoring subnets by a supernet's weights."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from tfnas.derive.architecture import Derived
from tfnas.nets.supernet import Supernet
from tfnas.space.subnet import Subnet
from tfnas.strategies.contract import Candidate, State, Task
from tfnas.strategies.parts.training import some_batches

VALUES = ("loss", "top1")  # what subnets may be ranked by


@dataclass(frozen=True)
class Score:
    """What a subnet came to on `images` held-out images.

    Attributes:
        top1: percent.
        loss: mean cross-entropy.
        loss_sd: of the images' losses.
    """

    top1: float
    loss: float
    loss_sd: float
    images: int

    def value(self, by: str) -> float:
        """Top-1, or minus the loss: higher is better."""
        return self.top1 if by == "top1" else -self.loss

    def error(self, by: str) -> float:
        """Standard error of the value, by the spread of the images."""
        sd = math.sqrt(self.top1 * (100 - self.top1)) if by == "top1" else self.loss_sd
        return sd / math.sqrt(self.images)


class Scores:
    """Scores of subnets over fixed held-out batches.

    Ops have their leading channels. Batch norm uses the statistics of each batch, so every
    subnet's are its own.

    Args:
        images: held-out images for each score (whole batches, at least one).
        by: loss | top1: what ranks them.

    Attributes:
        scored: (score, subnet) of each distinct one, in the order that they came in.
    """

    STATE = ("rows",)

    def __init__(self, net: Supernet, task: Task, images: int, by: str = "top1"):
        self.net, self.task, self.images, self.by = net, task, images, by
        self.scored: dict[Subnet, tuple[Score, Derived]] = {}

    @cached_property
    def _batches(self) -> tuple[tuple[Tensor, Tensor], ...]:
        return some_batches(self.task, self.images)

    def add(self, derived: Derived) -> None:
        """Score a subnet, if it is a new one."""
        if derived.subnet not in self.scored:
            self.scored[derived.subnet] = (self._score(derived), derived)

    @property
    def rows(self) -> list[State]:
        """What is scored, as a checkpoint can hold it."""
        return [
            {**{k: v for k, v in vars(derived).items() if k != "subnet"}, "score": asdict(score)}
            for score, derived in self.scored.values()
        ]

    @rows.setter
    def rows(self, rows: list[State]) -> None:
        for row in rows:
            values = dict(row)
            score = Score(**values.pop("score"))
            subnet = self.task.space.subnet(values["depths"], values["picks"], values["widths"])
            self.scored[subnet] = (score, Derived(subnet=subnet, **values))

    @torch.no_grad()
    def _score(self, derived: Derived) -> Score:
        """Run the subnet on this rank's parts of the batches."""
        rows = zip(derived.widths, self.net.space.blocks, strict=True)
        widths = [[width] * len(block) for width, block in rows]
        sums = [torch.zeros(3, device=self.task.device)]
        images = 0
        for x, y in self._batches:
            logits = self.net(x, derived.picks, derived.depths, widths)
            losses = F.cross_entropy(logits, y, reduction="none")
            hits = (logits.argmax(1) == y).sum()
            sums.append(torch.stack([hits, losses.sum(), losses.square().sum()]))
            images += len(y)
        parts = torch.stack(sums).cpu().double().sum(0).tolist()
        hits, loss, squares, total = self.task.ranks.sum(*parts, images)
        loss /= total
        variance = max(squares / total - loss**2, 0.0)
        return Score(100 * hits / total, loss, math.sqrt(variance), int(total))

    def values(self) -> list[float]:
        """What each is worth: higher is better."""
        return [score.value(self.by) for score, _ in self.scored.values()]

    def noise(self, count: int | None = None) -> float:
        """Standard error of a value, of the first `count` scores together, or all.

        All subnets see the same images, so differences are known better than this; but nothing of
        how wrongly the supernet ranks is in it. With less, as the scores themselves speak for, the
        nets found were no better (benchmarks/LOG.md, 2026-11-30).
        """
        scores = [score for score, _ in self.scored.values()][:count]
        return math.sqrt(np.mean([score.error(self.by) ** 2 for score in scores]))

    def best(self) -> Derived:
        """The best one; of equals the one that came first."""
        return self.candidates()[0].derived

    def candidates(self, values: Sequence[float] | None = None) -> tuple[Candidate, ...]:
        """All, best first, by their own values or those that are given in their order."""
        given = self.values() if values is None else values
        pairs = zip(self.scored.values(), given, strict=True)
        found = [Candidate(derived, float(value)) for (_, derived), value in pairs]
        return tuple(sorted(found, key=lambda candidate: -candidate.score))

    def figures(self, chosen: Derived | None = None) -> dict[str, float]:
        """What is worth keeping of them, and of the chosen one (the best), in result.json."""
        values = [score.top1 for score, _ in self.scored.values()]
        best = self.best() if chosen is None else chosen
        images = sum(len(y) for _, y in self._batches) * self.task.ranks.size
        return {
            "supernet_top1": self.scored[best.subnet][0].top1,
            "mean_supernet_top1": float(np.mean(values)),
            "subnets": len(values),
            "scored_images": len(values) * images,
        }
