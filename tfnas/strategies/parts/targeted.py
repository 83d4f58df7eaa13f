"""A supernet that trains on random nets at the target, which are what it scores later."""

from __future__ import annotations

from functools import cached_property

import numpy as np
import torch

from tfnas.derive.architecture import Derived
from tfnas.strategies.parts.evaluate import SAMPLED, Drawn, SampledSearch
from tfnas.strategies.parts.items import Items

PATHS = (*SAMPLED, "target")
TRAINED_NETS = 1000  # random ones at the target, whose paths the supernet trains on


class TargetedSearch(SampledSearch):
    """As `SampledSearch`, with `paths=target`, and nets as items."""

    @cached_property
    def items(self) -> Items:
        return Items(self.task.space, self.task.constraints)

    @cached_property
    def trained_nets(self) -> list[Derived]:
        """What `paths=target` trains on; they depend on the task alone."""
        rng = np.random.default_rng((self.task.seed, TRAINED_NETS))
        return [self.items.derived(net) for net in self.items.random(TRAINED_NETS, rng)]

    def _draw(self) -> Drawn:
        if self.paths != "target":
            return super()._draw()
        nets = self.trained_nets
        net = nets[int(torch.randint(len(nets), (), generator=self.generator))]
        rows = zip(net.widths, self.task.space.blocks, strict=True)
        return list(net.picks), list(net.depths), [[width] * len(block) for width, block in rows]
