"""What a space's choices cost, and what can be told from that alone.

`Menu` holds them as arrays. On it rest the reachable range, the published scaling of widths, and
the neighbours of a subnet that the closed loop on the device moves to. Names that others use are
imported from `tfnas.derive.methods`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np

from tfnas.costs.contract import Cost
from tfnas.derive.solver import Group, Row, load_ranges
from tfnas.space.ops import OpSpec
from tfnas.space.search_space import SearchSpace

NEAR = 5e-4  # fraction of a target within which `nearby` prefers few moves to a smaller gap
STEPS = 4  # grid steps to either side that `nearby` considers where it moves three blocks or more


class Menu:
    """Costs of all widths of all ops, by one or several measures.

    Attributes:
        fixed: (m,) of stem and head.
        loads: for each block and op, (widths, m).
    """

    def __init__(self, space: SearchSpace, costs: Sequence[Cost]) -> None:
        self.space = space
        self.fixed = np.array([cost.fixed(space) for cost in costs])
        curves: dict[tuple[OpSpec, tuple[int, ...]], np.ndarray] = {}
        self.loads: list[list[np.ndarray]] = []
        for block in space.blocks:
            row = []
            for choice in block:
                key = (choice.op.curve, choice.widths)
                if key not in curves:
                    curves[key] = np.stack([cost.curve(choice) for cost in costs], axis=1)
                row.append(curves[key])
            self.loads.append(row)

    @cached_property
    def items(self) -> list[list[tuple[int, int]]]:
        """For each block its items, (op, width): all widths of its first op, then of the next."""
        return [
            [(op, width) for op, choice in enumerate(block) for width in choice.widths]
            for block in self.space.blocks
        ]

    def kept(self, depths: Sequence[int]) -> list[int]:
        """Indices of the blocks that these depths keep."""
        blocks: list[int] = []
        first = 0
        for stage, depth in zip(self.space.stages, depths, strict=True):
            blocks += range(first, first + depth)
            first += len(stage.blocks)
        return blocks

    def rows(
        self, groups: Sequence[Group], depth_costs: Sequence[Sequence[float] | np.ndarray]
    ) -> list[Row]:
        """Groups of all blocks as the rows of all stages, with a cost for each allowed depth."""
        rows, first = [], 0
        for stage, costs in zip(self.space.stages, depth_costs, strict=True):
            padded = np.concatenate([np.full(stage.min_depth, np.inf), costs])
            rows.append(Row(tuple(groups[first : first + len(stage.blocks)]), padded))
            first += len(stage.blocks)
        return rows

    def widths(self, block: int, pick: int) -> np.ndarray:
        return np.array(self.space.blocks[block][pick].widths)


def _free_depths(space: SearchSpace) -> list[list[float]]:
    return [[0.0] * len(stage.depths) for stage in space.stages]


def any_op(menu: Menu) -> list[Row]:
    """All ops and widths at no cost."""
    loads = [np.concatenate(block) for block in menu.loads]
    groups = [Group(np.zeros(len(load)), load) for load in loads]
    return menu.rows(groups, _free_depths(menu.space))


def feasible(space: SearchSpace, cost: Cost) -> tuple[float, float]:
    """The least and the most that a net of the space costs, exact.

    Raises:
        LookupError: if the table doesn't cover the space.
    """
    menu = Menu(space, [cost])
    least, most = load_ranges(any_op(menu))
    return float(menu.fixed[0] + least[0]), float(menu.fixed[0] + most[0])


def most_of_all(space: SearchSpace, cost: Cost) -> tuple[float, float]:
    """The least and the most that the dearest op of a net costs, exact."""
    least = most = cost.fixed(space)
    for stage in space.stages:
        for index, block in enumerate(stage.blocks):
            curves = [cost.curve(choice) for choice in block]
            if index < stage.min_depth:
                least = max(least, min(float(curve.min()) for curve in curves))
            most = max(most, *(float(curve.max()) for curve in curves))
    return least, most


def smallest(values: np.ndarray, count: int) -> np.ndarray:
    some = np.sort(np.argpartition(values, count - 1)[:count])
    return some[np.argsort(values[some], kind="stable")]
