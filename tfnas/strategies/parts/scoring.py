"""Scoring subnets by a supernet's weights."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tfnas.derive.architecture import Derived
from tfnas.nets.supernet import Supernet
from tfnas.space.subnet import Subnet
from tfnas.strategies.contract import Task
from tfnas.strategies.parts.training import some_batches, top1


class Scores:
    """Top-1 in percent of subnets over fixed held-out batches.

    Ops have their leading channels. Batch norm uses the statistics of each batch, so every
    subnet's are its own.

    Args:
        images: held-out images for each score (whole batches, at least one).
        known: top-1 of the first distinct subnets that will come in, from an interrupted run.

    Attributes:
        scored: (top-1, subnet) of each distinct one, in the order that they came in.
    """

    def __init__(self, net: Supernet, task: Task, images: int, known: Sequence[float] = ()):
        self.net, self.ranks, self.known = net, task.ranks, tuple(known)
        self.scored: dict[Subnet, tuple[float, Derived]] = {}
        self._batches = some_batches(task, images)

    def add(self, derived: Derived) -> None:
        """Score a subnet, if it is a new one."""
        if derived.subnet in self.scored:
            return
        index = len(self.scored)
        value = self.known[index] if index < len(self.known) else self._top1(derived)
        self.scored[derived.subnet] = (value, derived)

    def _top1(self, derived: Derived) -> float:
        rows = zip(derived.widths, self.net.space.blocks, strict=True)
        widths = [[width] * len(block) for width, block in rows]
        path, depths = derived.picks, derived.depths
        return top1(self.net, self._batches, path, depths, widths, ranks=self.ranks)

    def values(self) -> list[float]:
        return [value for value, _ in self.scored.values()]

    def best(self) -> Derived:
        """Of equals the one that came first."""
        return max(self.scored.values(), key=lambda pair: pair[0])[1]

    def figures(self) -> dict[str, float]:
        """What is worth keeping of them in result.json."""
        values = self.values()
        images = sum(len(y) for _, y in self._batches) * self.ranks.size
        return {
            "supernet_top1": max(values),
            "mean_supernet_top1": float(np.mean(values)),
            "subnets": len(values),
            "scored_images": len(values) * images,
        }
