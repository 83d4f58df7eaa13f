"""Scoring subnets by a supernet's weights."""

from __future__ import annotations

from functools import cached_property

import numpy as np
from torch import Tensor

from tfnas.derive.architecture import Derived
from tfnas.nets.supernet import Supernet
from tfnas.space.subnet import Subnet
from tfnas.strategies.contract import State, Task
from tfnas.strategies.parts.training import some_batches, top1


class Scores:
    """Top-1 in percent of subnets over fixed held-out batches.

    Ops have their leading channels. Batch norm uses the statistics of each batch, so every
    subnet's are its own.

    Args:
        images: held-out images for each score (whole batches, at least one).

    Attributes:
        scored: (top-1, subnet) of each distinct one, in the order that they came in.
    """

    STATE = ("rows",)

    def __init__(self, net: Supernet, task: Task, images: int):
        self.net, self.task, self.images = net, task, images
        self.scored: dict[Subnet, tuple[float, Derived]] = {}

    @cached_property
    def _batches(self) -> tuple[tuple[Tensor, Tensor], ...]:
        return some_batches(self.task, self.images)

    def add(self, derived: Derived) -> None:
        """Score a subnet, if it is a new one."""
        if derived.subnet not in self.scored:
            self.scored[derived.subnet] = (self._top1(derived), derived)

    @property
    def rows(self) -> list[State]:
        """What is scored, as a checkpoint can hold it."""
        return [
            {**{k: v for k, v in vars(derived).items() if k != "subnet"}, "top1": value}
            for value, derived in self.scored.values()
        ]

    @rows.setter
    def rows(self, rows: list[State]) -> None:
        for row in rows:
            values = dict(row)
            value = float(values.pop("top1"))
            subnet = self.task.space.subnet(values["depths"], values["picks"], values["widths"])
            self.scored[subnet] = (value, Derived(subnet=subnet, **values))

    def _top1(self, derived: Derived) -> float:
        rows = zip(derived.widths, self.net.space.blocks, strict=True)
        widths = [[width] * len(block) for width, block in rows]
        path, depths = derived.picks, derived.depths
        return top1(self.net, self._batches, path, depths, widths, ranks=self.task.ranks)

    def values(self) -> list[float]:
        return [value for value, _ in self.scored.values()]

    def best(self) -> Derived:
        """The best one; of equals the one that came first."""
        return max(self.scored.values(), key=lambda pair: pair[0])[1]

    def figures(self) -> dict[str, float]:
        """What is worth keeping of them in result.json."""
        values = self.values()
        images = sum(len(y) for _, y in self._batches) * self.task.ranks.size
        return {
            "supernet_top1": max(values),
            "mean_supernet_top1": float(np.mean(values)),
            "subnets": len(values),
            "scored_images": len(values) * images,
        }
