"""The choices of a space under constraints, as the solver takes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from tfnas.costs.contract import Cost
from tfnas.derive.architecture import ROUNDING, Constraint
from tfnas.derive.menu import Menu, any_op, most_of_all
from tfnas.derive.solver import Group, Row, cheapest, load_ranges
from tfnas.space.search_space import Choice, SearchSpace
from tfnas.space.subnet import Subnet

CLOSER = 5  # times that a nearest cost is looked for nearer by, beside other constraints
MERGE = 0.1  # error bound of the dynamic program, as a share of a constraint's tolerance
NONE_ABOVE = (-np.inf, 0.5)  # of ops that cost more than their limit


@dataclass(frozen=True)
class _Above:
    """As a sum what a maximum asks: how many ops cost more than the limit."""

    cost: Cost
    limit: float

    unit: ClassVar[str] = ""
    maximum: ClassVar[bool] = False

    def curve(self, choice: Choice) -> np.ndarray:
        return (self.cost.curve(choice) > self.limit).astype(float)

    def fixed(self, net: SearchSpace | Subnet) -> float:
        return float(self.cost.fixed(net) > self.limit)

    def total(self, subnet: Subnet) -> float:
        return float(self.cost.total(subnet) > self.limit)

    def asked(self, target: float) -> str:
        return self.cost.asked(target)


def _summed(constraint: Constraint) -> Cost:
    cost = constraint.cost
    return _Above(cost, constraint.target) if cost.maximum else cost


class Bounded:
    """A space under constraints.

    Items are those of `Menu.items`.

    Attributes:
        low, high: (m,) bounds of what the searched blocks cost of each kind.
        resolution: (m,) of the solver.
        error_bounds: see `tfnas.derive.architecture.Derived`.

    Raises:
        LookupError: if a table doesn't cover the space.
        ValueError: if there is no constraint, or one that makes no sense.
    """

    def __init__(self, space: SearchSpace, constraints: Sequence[Constraint]) -> None:
        if not constraints:
            raise ValueError("no constraint given: expected at least one table with its target")
        assert not any(c.cost.maximum and not c.at_most for c in constraints)
        for constraint in constraints:
            if not (0 < constraint.target < np.inf and 0 < constraint.tol < 1):
                raise ValueError(
                    f"{constraint}, tol={constraint.tol}: expected a positive target and a "
                    "tolerance between 0 and 1"
                )
        self.space, self.constraints = space, constraints
        self.menu = Menu(space, [_summed(c) for c in constraints])
        windows = np.array([NONE_ABOVE if c.cost.maximum else c.window for c in constraints])
        targets = np.array([1.0 if c.cost.maximum else c.target for c in constraints])
        self.low = windows[:, 0] - self.menu.fixed - ROUNDING / 2 * targets
        self.high = windows[:, 1] - self.menu.fixed + ROUNDING / 2 * targets
        errors = MERGE * np.array([c.tol for c in constraints]) * targets
        self.resolution = errors / len(space.blocks)
        exact = len(constraints) == 1 and constraints[0].at_most
        self.error_bounds = (0.0,) if exact else tuple(float(e) for e in errors)

    def cheapest_items(
        self, costs: Sequence[np.ndarray], depth_costs: Sequence[np.ndarray]
    ) -> tuple[tuple[int, ...], list[int]] | None:
        """The depth of every stage and the item of every kept block at the least cost, if any.

        Args:
            costs: for each block, (items,).
            depth_costs: for each stage, (depths,).
        """
        groups = [
            Group(cost, np.concatenate(loads))
            for cost, loads in zip(costs, self.menu.loads, strict=True)
        ]
        rows = self.menu.rows(groups, depth_costs)
        found = cheapest(rows, self.low, self.high, self.resolution)
        if found is None:
            return None
        return tuple(len(row) for row in found.items), [i for row in found.items for i in row]

    def unreachable(self) -> str:
        """Say that no subnet meets the constraints, which ones bind, and what can be reached."""
        rows, several = any_op(self.menu), len(self.constraints) > 1
        ranges = np.array(load_ranges(rows)) + self.menu.fixed  # (2, m)
        for m, constraint in enumerate(self.constraints):
            if constraint.cost.maximum:
                ranges[:, m] = most_of_all(self.space, constraint.cost)
        lines = []
        for m, (constraint, low, high) in enumerate(zip(self.constraints, *ranges, strict=True)):
            target, cost = constraint.target, constraint.cost
            if low <= target <= high or (constraint.at_most and low <= target):
                continue
            nearest = _with_unit(np.clip(target, low, high), 6, cost)
            lines.append(
                f"{constraint}: space {self.space.name} reaches {low:.4g} to "
                f"{_with_unit(high, 4, cost)}; "
                + (
                    self._needed(rows, m)
                    if several and (constraint.at_most or m)
                    else f"the nearest reachable target is {nearest}"
                )
            )
        if lines:
            return "; ".join(lines)
        if len(self.constraints) == 1:
            constraint, found = self.constraints[0], self._nearest(rows)
            assert found is not None
            return (
                f"{constraint}: no subnet of space {self.space.name} lies within "
                f"{constraint.tol:.2%} of it; the nearest reachable target is "
                f"{_with_unit(found + self.menu.fixed[0], 6, constraint.cost)}"
            )
        lines = [f"no subnet meets all of them at once: {', '.join(map(str, self.constraints))}"]
        for m, c in enumerate(self.constraints):
            if c.at_most or m:
                lines.append(self._needed(rows, m))
        return "; ".join(lines)

    def _needed(self, rows: list[Row], m: int) -> str:
        """What an upper bound must be beside the other constraints, or beside the first alone."""
        constraint, beside = self.constraints[m], "beside the others"
        if not constraint.at_most:
            nearest = self._nearest(rows, m)
            if nearest is None:
                return f"no {constraint.cost.unit or 'value'} of {constraint} would do"
            value = _with_unit(nearest + self.menu.fixed[m], 6, constraint.cost)
            return f"{beside} the nearest that {constraint} can be is about {value}"
        find = self._least_maximum if constraint.cost.maximum else self._least
        least = find(rows, m)
        if least is None and m and len(self.constraints) > 2:
            pair = Bounded(self.space, [self.constraints[0], constraint])
            find, beside = (
                (pair._least_maximum if constraint.cost.maximum else pair._least),
                (f"beside {self.constraints[0]}"),
            )
            least = find(any_op(pair.menu), 1)
        if least is None:
            return f"no {constraint.cost.unit or 'value'} of {constraint} would do"
        digits = 10.0 ** (5 - np.floor(np.log10(least)))
        enough = np.ceil(least * digits * (1 - 1e-12)) / digits
        return f"{beside} {constraint} must be {_with_unit(enough, 6, constraint.cost)} or more"

    def _least(self, rows: list[Row], m: int) -> float | None:
        """The least cost of kind m among nets that meet the other constraints, if there are any."""
        priced = [
            Row(
                tuple(Group(g.loads[:, m], g.loads) for g in row.groups),
                np.where(np.isfinite(row.depth_costs), 0.0, np.inf),
            )
            for row in rows
        ]
        high = self.high.copy()
        high[m] = np.inf
        found = cheapest(priced, self.low, high, self.resolution)
        return None if found is None else float(found.loads[m] + self.menu.fixed[m])

    def _least_maximum(self, rows: list[Row], m: int) -> float | None:
        """As `_least`, of a cost that is a maximum."""
        cost = self.constraints[m].cost
        every = {float(v) for b in self.space.blocks for choice in b for v in cost.curve(choice)}
        values = sorted(every | {cost.fixed(self.space)})
        low, high = 0, len(values)
        while low < high:
            middle = (low + high) // 2
            raised = list(self.constraints)
            raised[m] = replace(raised[m], target=values[middle])
            other = Bounded(self.space, raised)
            if cheapest(any_op(other.menu), other.low, other.high, other.resolution) is None:
                low = middle + 1
            else:
                high = middle
        return values[low] if low < len(values) else None

    def _nearest(self, rows: list[Row], m: int = 0) -> float | None:
        """Cost of kind m, without the fixed ops, that is nearest to its target, if there is any.

        Within the error bound if there is no other constraint; else about.
        """
        target = self.constraints[m].target - self.menu.fixed[m]
        gap = max(self.constraints[m].tol * self.constraints[m].target, 1e-6 * target)
        widest = 4 * np.abs(np.array(load_ranges(rows))[:, m] - target).max()
        low, high = self.low.copy(), self.high.copy()
        nearest, left = None, CLOSER if len(self.constraints) > 1 else np.inf
        while gap < widest if nearest is None else gap > 1e-9 * abs(target) and left > 0:
            low[m], high[m] = target - gap, target + gap
            found = cheapest(rows, low, high, self.resolution)
            if found is None and nearest is not None:
                break
            if found is None:
                gap *= 2
            else:
                nearest = float(found.loads[m])
                gap, left = abs(nearest - target) * (1 - 1e-9), left - 1
        return nearest


def _with_unit(value: float, digits: int, cost: Cost) -> str:
    return f"{value:.{digits}g} {cost.unit}".rstrip()
