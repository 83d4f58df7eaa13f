"""The nets of a space that meet the constraints, as the surrogate's model takes them.

A position is a block of the space; its items are its ops at their widths. What is known of an item:
presence, kernel, expansion, squeeze-excite, multiply-adds, weights. What is particular to an op of
a block is so at all its widths.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np

from tfnas.derive.architecture import Constraint, Derived
from tfnas.derive.bounded import Bounded
from tfnas.derive.methods import derive_valued, derived_of
from tfnas.derive.uniform import ABSENT, draw_uniform, draw_walking
from tfnas.space.ops import OpSpec
from tfnas.space.search_space import SearchSpace
from tfnas.space.subnet import Subnet
from tfnas.strategies.contract import Evaluation
from tfnas.strategies.parts.surrogate import Floats, Genes, Ints

STARTS = 8  # of walks, where hardly any net meets the constraints


class Items:
    """Nets as lines of item numbers (blocks,), -1 where a block is cut off.

    Raises:
        LookupError, ValueError: see `tfnas.derive.bounded.Bounded`.
    """

    def __init__(self, space: SearchSpace, constraints: Sequence[Constraint]):
        self.space = space
        self._bounded = Bounded(space, constraints)
        self._kept_at_no_cost = [np.zeros(len(stage.depths)) for stage in space.stages]

    @cached_property
    def _numbers(self) -> list[dict[tuple[int, int], int]]:
        items = self._bounded.menu.items
        return [{item: number for number, item in enumerate(block)} for block in items]

    @property
    def counts(self) -> list[int]:
        """Items of each position."""
        return [len(items) for items in self._bounded.menu.items]

    @property
    def stages(self) -> list[tuple[int, int]]:
        """Positions of each stage, and how many of them it keeps at least."""
        return [(len(stage.blocks), stage.min_depth) for stage in self.space.stages]

    def genes(self) -> Genes:
        """Describe all items."""
        items = self._bounded.menu.items
        ops = [
            [block[op].at(width) for op, width in row]
            for block, row in zip(self.space.blocks, items, strict=True)
        ]
        factors = [np.array([_factors(op) for op in row]) for row in ops]
        every = np.concatenate(factors)
        varied = np.ptp(every, axis=0) > 0
        varied[0] = True
        sizes = [np.array([[op.macs, op.weights] for op in row], float) for row in ops]
        largest = np.maximum(np.concatenate(sizes).max(axis=0), 1)
        return Genes(
            tuple(row[:, varied] for row in factors),
            tuple(row / largest for row in sizes),
            tuple(np.array([op for op, _ in block]) for block in items),
        )

    def of(self, derived: Derived) -> Ints:
        """Give the items of a net."""
        net = np.full(len(self.space.blocks), ABSENT)
        for b in self._bounded.menu.kept(derived.depths):
            net[b] = self._numbers[b][derived.picks[b], derived.widths[b]]
        return net

    def of_subnet(self, subnet: Subnet) -> Ints:
        """As `of`; of ops that a block has twice the first."""
        net = np.full(len(self.space.blocks), ABSENT)
        picks = [pick for row in self.space.choices_of(subnet) for pick in row]
        for b, pick, op in zip(
            self._bounded.menu.kept(subnet.depths), picks, subnet.blocks, strict=True
        ):
            net[b] = self._numbers[b][pick, op.c_mid]
        return net

    def like(self, evaluation: Evaluation) -> Ints:
        """Give the items of a net of the same space, whose widths may be of another quantum."""
        net = np.full(len(self.space.blocks), ABSENT)
        for b in self._bounded.menu.kept(evaluation.depths):
            pick, width = evaluation.picks[b], evaluation.widths[b]
            nearest = min(self.space.blocks[b][pick].widths, key=lambda w: abs(w - width))
            net[b] = self._numbers[b][pick, nearest]
        return net

    def derived(self, net: Sequence[int] | Ints) -> Derived:
        """Give the net of these items."""
        depths, first = [], 0
        for stage in self.space.stages:
            last = first + len(stage.blocks)
            depths.append(sum(int(item) != ABSENT for item in net[first:last]))
            first = last
        items = [int(item) for item in net if item != ABSENT]
        return derived_of(self._bounded, tuple(depths), items)

    def optimum(self, values: Sequence[Floats], _: Ints) -> Ints:
        """Give the net of the highest sum of values (items,) of those that meet the constraints."""
        return self.of(derive_valued(self._bounded, values, self._kept_at_no_cost))

    def random(self, count: int, rng: np.random.Generator) -> Ints:
        """Draw nets that meet the constraints, (count, blocks), see `draw_uniform`.

        Where hardly any net does, the rest are reached by walks from these and from optima of
        Gumbel noise.
        """
        drawn = draw_uniform(self._bounded, count, rng)
        rest = count - len(drawn)
        optima = [self._of_noise(rng)[None] for _ in range(min(rest, STARTS))]
        if rest <= STARTS:
            return np.concatenate([drawn, *optima])
        starts = np.concatenate([drawn, *optima])
        return np.concatenate([drawn, draw_walking(self._bounded, starts, rest, rng)])

    def _of_noise(self, rng: np.random.Generator) -> Ints:
        """Without the constraints all nets would be uniform, see `draw_constrained`."""
        values = []
        for block in self.space.blocks:
            counts = np.array([len(choice.widths) for choice in block])
            values.append(rng.gumbel(size=counts.sum()) - np.repeat(np.log(counts), counts))
        kept = [rng.gumbel(size=len(stage.depths)) for stage in self.space.stages]
        return self.of(derive_valued(self._bounded, values, kept))


def _factors(op: OpSpec) -> list[float]:
    ratio = np.log(op.c_mid / op.c_in) if op.has_width else 0.0
    return [1.0, float(op.kernel), ratio, float(op.c_se > 0), float(op.has_width)]
