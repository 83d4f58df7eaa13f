"""The choices of a space under latency constraints, as the solver takes them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tfnas.derive.architecture import ROUNDING, Constraint
from tfnas.derive.menu import Menu, any_op
from tfnas.derive.solver import Group, Row, cheapest, load_ranges
from tfnas.space.search_space import SearchSpace

MERGE = 0.1  # error bound of the dynamic program, as a share of a constraint's tolerance


class Bounded:
    """A space under constraints.

    Items are those of `Menu.items`.

    Attributes:
        low, high: (m,) bounds of what the searched blocks cost on each table.
        resolution: (m,) of the solver.
        error_bound_ms: see `tfnas.derive.architecture.Derived`.

    Raises:
        LookupError: if a table doesn't cover the space.
        ValueError: if there is no constraint, or one that makes no sense.
    """

    def __init__(self, space: SearchSpace, constraints: Sequence[Constraint]) -> None:
        if not constraints:
            raise ValueError("no constraint given: expected at least one table with its target")
        for constraint in constraints:
            if not (0 < constraint.target_ms < np.inf and 0 < constraint.tol < 1):
                raise ValueError(
                    f"target_ms={constraint.target_ms}, tol={constraint.tol}: expected a positive "
                    "target and a tolerance between 0 and 1"
                )
        self.space, self.constraints = space, constraints
        self.menu = Menu(space, [c.table for c in constraints])
        windows = np.array([c.window_ms for c in constraints])  # (m, 2)
        targets = np.array([c.target_ms for c in constraints])
        self.low = windows[:, 0] - self.menu.fixed_ms - ROUNDING / 2 * targets
        self.high = windows[:, 1] - self.menu.fixed_ms + ROUNDING / 2 * targets
        error_ms = MERGE * np.array([c.tol for c in constraints]) * targets
        self.resolution = error_ms / len(space.blocks)
        exact = len(constraints) == 1 and constraints[0].at_most
        self.error_bound_ms = (0.0,) if exact else tuple(float(e) for e in error_ms)

    def cheapest_items(
        self, costs: Sequence[np.ndarray], depth_costs: Sequence[np.ndarray]
    ) -> tuple[tuple[int, ...], list[int]] | None:
        """The depth of every stage and the item of every kept block at the least cost, if any.

        Args:
            costs: for each block, (items,).
            depth_costs: for each stage, (depths,).
        """
        groups = [
            Group(cost, np.concatenate(ms)) for cost, ms in zip(costs, self.menu.ms, strict=True)
        ]
        rows = self.menu.rows(groups, depth_costs)
        found = cheapest(rows, self.low, self.high, self.resolution)
        if found is None:
            return None
        return tuple(len(row) for row in found.items), [i for row in found.items for i in row]

    def unreachable(self) -> str:
        """Say that no subnet meets the constraints, and what can be reached."""
        rows = any_op(self.menu)
        least, most = load_ranges(rows)
        lines = []
        for m, constraint in enumerate(self.constraints):
            low, high = (float(v[m] + self.menu.fixed_ms[m]) for v in (least, most))
            line = (
                f"target_ms={constraint.target_ms:g} on {constraint.table.source}: space "
                f"{self.space.name} reaches {low:.4g} to {high:.4g} ms"
            )
            if not low <= constraint.target_ms <= high:
                nearest = low if constraint.target_ms < low else high
                line += f"; the nearest reachable target is {nearest:.6g} ms"
            elif len(self.constraints) == 1:
                nearest = self._nearest(rows) + self.menu.fixed_ms[0]
                line += (
                    f", but no subnet lies within {constraint.tol:.2%} of it; the nearest "
                    f"reachable target is {nearest:.6g} ms"
                )
            lines.append(line)
        if len(self.constraints) > 1:
            lines.append("no subnet meets all of them at once")
        return "; ".join(lines)

    def _nearest(self, rows: list[Row]) -> float:
        """Latency without the fixed ops that is nearest to the target, within the error bound."""
        target = self.constraints[0].target_ms - self.menu.fixed_ms[0]
        gap = max(self.constraints[0].tol * self.constraints[0].target_ms, 1e-6 * target)
        nearest = None
        while nearest is None or gap > 1e-9 * abs(target):
            window = np.array([target - gap]), np.array([target + gap])
            found = cheapest(rows, *window, self.resolution)
            if found is None and nearest is not None:
                break
            if found is None:
                gap *= 2
            else:
                nearest = float(found.loads[0])
                gap = abs(nearest - target) * (1 - 1e-9)
        return nearest
