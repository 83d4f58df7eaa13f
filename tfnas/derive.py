"""From what a search learned to the subnet that meets the target.

`derive_greedy` is the published derivation (TF-NAS, arXiv 2008.05314, section 3.4): the most
probable op of every block and depth of every stage, whose widths are scaled until the target is
passed. It can't meet a target that the widths of that one choice don't span.

`derive_constrained` finds the optimum under the target, lexicographic: first the most probable ops
and depths, then the widths nearest to the scaled ones. What it minimizes, in this order:

1. the log-probability given up, sum over blocks of (max alpha - alpha[op]) plus sum over stages of
   (max beta - beta[depth]). A block that the depth cuts off keeps its most probable op and gives up
   nothing, so the argmax is the optimum whenever it can meet the target, and depth isn't favoured
   for having fewer factors. Between choices of equal probability, the one with fewest changes
   against the argmax (each change counts as `CHANGE` nats).
2. the sum over kept blocks of ((width - scaled) / scaled)², where `scaled` are the widths that the
   published scaling gives these ops and depths for the first constraint.

Both are exact but for the merging of partial sums within `Derived.error_bound_ms` (see there and
`solver.cheapest`). Every result is checked against the tables' own sums. No torch here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from tfnas.menu import Menu, any_op, feasible_ms, nearby, scale, scale_widths
from tfnas.solver import Found, Group, Row, cheapest, load_ranges, separation
from tfnas.space import SearchSpace, Subnet
from tfnas.table import LatencyTable

__all__ = [
    "Architecture",
    "Constraint",
    "Derived",
    "argmax",
    "derive_constrained",
    "derive_greedy",
    "feasible_ms",
    "nearby",
    "scale_widths",
]

CHANGE = 1e-9  # nats; orders choices of equal probability
MERGE = 0.1  # error bound of the dynamic program, as a share of a constraint's tolerance
MAX_MIXES = 30  # combinations of several tables that are tried as bounds
ROUNDING = 1e-12  # of the target: sums of the same latencies in another order


@dataclass(frozen=True, eq=False)
class Architecture:
    """What the search learned.

    Attributes:
        alphas: for each block of `space.blocks`, (n_ops,) log-probabilities of its ops.
        betas: for each stage, (len(stage.depths),) log-probabilities of its depths.
        widths: for each block, the current mid width of every candidate op.
    """

    alphas: tuple[np.ndarray, ...]
    betas: tuple[np.ndarray, ...]
    widths: tuple[tuple[int, ...], ...]

    @classmethod
    def initial(cls, space: SearchSpace) -> Architecture:
        """Uniform probabilities and initial widths: where a search starts."""
        return cls(
            tuple(np.full(len(block), -np.log(len(block))) for block in space.blocks),
            tuple(np.full(len(s.depths), -np.log(len(s.depths))) for s in space.stages),
            tuple(tuple(choice.op.c_mid for choice in block) for block in space.blocks),
        )


@dataclass(frozen=True)
class Constraint:
    """Attributes:
    target_ms: calibrated latency of the whole net on `table`.
    at_most: a lower latency is as good.
    tol: allowed distance from the target, as a fraction of it; unused where `at_most`.
    """

    table: LatencyTable
    target_ms: float
    at_most: bool = False
    tol: float = 5e-4

    @property
    def window_ms(self) -> tuple[float, float]:
        if self.at_most:
            return -np.inf, self.target_ms
        return self.target_ms * (1 - self.tol), self.target_ms * (1 + self.tol)

    def met_by(self, ms: float) -> bool:
        low, high = self.window_ms
        rounding = ROUNDING * self.target_ms
        return low - rounding <= ms <= high + rounding


@dataclass(frozen=True)
class Derived:
    """A derived subnet and what it cost.

    Attributes:
        depths: for each stage.
        picks, widths: index of the op and mid width of every block of the space, also of those
            that the depths cut off.
        table_ms: exact latency on each constraint's table.
        log_prob, argmax_log_prob: of ops and depths; a cut block counts with its most probable op.
        reached: every constraint is met.
        error_bound_ms: for each constraint; no choice that meets it with this much to spare has a
            higher log-probability, or the same ops and depths and nearer widths. 0 for exact.
        argmax_depths, argmax_picks: the most probable ones, before any constraint.
    """

    subnet: Subnet
    depths: tuple[int, ...]
    picks: tuple[int, ...]
    widths: tuple[int, ...]
    table_ms: tuple[float, ...]
    log_prob: float
    argmax_log_prob: float
    reached: bool
    error_bound_ms: tuple[float, ...]
    argmax_depths: tuple[int, ...]
    argmax_picks: tuple[int, ...]

    def given_up(self, space: SearchSpace) -> tuple[str, ...]:
        """A line for every block and stage that differs from the most probable choice."""
        lines, first = [], 0
        for number, stage in enumerate(space.stages, 1):
            depth, wanted = self.depths[number - 1], self.argmax_depths[number - 1]
            if depth != wanted:
                lines.append(f"stage {number}: depth {depth} instead of {wanted}")
            for index, block in enumerate(stage.blocks[:depth]):
                pick, best = self.picks[first + index], self.argmax_picks[first + index]
                if pick != best:
                    lines.append(
                        f"stage {number} block {index + 1}: "
                        f"{block[pick].name} instead of {block[best].name}"
                    )
            first += len(stage.blocks)
        if lines:
            lost = self.argmax_log_prob - self.log_prob
            lines.append(f"log-probability {self.log_prob:.3f}, {lost:.3f} below the argmax")
        return tuple(lines)


def argmax(space: SearchSpace, arch: Architecture) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The most probable depth of every stage and op of every block; the first one of equals."""
    pairs = zip(space.stages, arch.betas, strict=True)
    depths = tuple(stage.depths[int(np.argmax(beta))] for stage, beta in pairs)
    return depths, tuple(int(np.argmax(alpha)) for alpha in arch.alphas)


def derive_greedy(space: SearchSpace, arch: Architecture, constraint: Constraint) -> Derived:
    """Argmax and progressive scaling, as published. A missed target is `reached=False`."""
    menu = Menu(space, [constraint.table])
    depths, picks = argmax(space, arch)
    current = _picked_widths(arch, picks)
    widths = scale(menu, depths, picks, current, constraint.target_ms)
    return _derived(space, arch, [constraint], depths, picks, widths, (0.0,))


def derive_constrained(
    space: SearchSpace, arch: Architecture, constraints: Sequence[Constraint]
) -> Derived:
    """The most probable subnet that meets all constraints; see the module's docstring.

    Raises:
        LookupError: if a table doesn't cover the space.
        ValueError: if no subnet meets the constraints, with the reachable range and the nearest
            reachable target.
    """
    if not constraints:
        raise ValueError("no constraint given: expected at least one table with its target")
    for constraint in constraints:
        if not (0 < constraint.target_ms < np.inf and 0 < constraint.tol < 1):
            raise ValueError(
                f"target_ms={constraint.target_ms}, tol={constraint.tol}: expected a positive "
                "target and a tolerance between 0 and 1"
            )
    problem = _Constrained(space, arch, constraints)
    depths, picks, widths = problem.solve()
    derived = _derived(space, arch, constraints, depths, picks, widths, problem.error_bound_ms)
    assert derived.reached, (derived.table_ms, constraints)
    return derived


class _Constrained:
    def __init__(
        self, space: SearchSpace, arch: Architecture, constraints: Sequence[Constraint]
    ) -> None:
        self.space, self.arch, self.constraints = space, arch, constraints
        self.menu = Menu(space, [c.table for c in constraints])
        windows = np.array([c.window_ms for c in constraints])  # (m, 2)
        targets = np.array([c.target_ms for c in constraints])
        self.low = windows[:, 0] - self.menu.fixed_ms - ROUNDING / 2 * targets
        self.high = windows[:, 1] - self.menu.fixed_ms + ROUNDING / 2 * targets
        error_ms = MERGE * np.array([c.tol for c in constraints]) * targets
        self.resolution = error_ms / len(space.blocks)
        exact = len(constraints) == 1 and constraints[0].at_most
        self.error_bound_ms = (0.0,) if exact else tuple(float(e) for e in error_ms)

    def solve(self) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
        """Depths, picks, widths."""
        best = argmax(self.space, self.arch)
        for depths, picks in self._candidates(best):
            widths = self._widths(depths, picks)
            if widths is not None:
                return depths, picks, widths
        joint = self._joint(best)
        if joint is None:
            raise ValueError(self._unreachable())
        depths, picks, some_widths = joint
        return depths, picks, self._widths(depths, picks) or some_widths

    def _candidates(
        self, best: tuple[tuple[int, ...], tuple[int, ...]]
    ) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
        """Ops and depths that are optimal if their widths can meet the constraints, best first.

        The argmax, if each target lies between its narrowest and its widest net; else the most
        probable choice of which that is true. It is necessary, hence a choice is optimal as soon
        as it has widths that meet all constraints; with one constraint nearly all have. With
        several, one that hasn't gives a combination of the tables that shows it, and the next
        choice must fit between its narrowest and widest net on that combination too.
        """
        ms = [self.menu.ms[b][best[1][b]] for b in self.menu.kept(best[0])]
        too_slow = sum(m.min(axis=0) for m in ms) > self.high
        too_fast = sum(m.max(axis=0) for m in ms) < self.low
        mixes = np.eye(len(self.low))
        if not (too_slow.any() or too_fast.any()):
            yield best
        elif len(mixes) == 1:
            # the other side hardly ever matters then, and with one bound dominance is exact
            yield self._fitting(best, mixes, np.concatenate([too_slow, too_fast]))
        else:
            yield self._fitting(best, mixes, np.ones(2 * len(mixes), bool))
        choice = best
        for _ in range(MAX_MIXES if len(mixes) > 1 else 0):
            mix = separation(self._width_rows(*choice, None), self.low, self.high)
            if mix is None:
                return
            mixes = np.vstack([mixes, mix])
            choice = self._fitting(best, mixes, np.ones(2 * len(mixes), bool))
            yield choice

    def _fitting(
        self,
        best: tuple[tuple[int, ...], tuple[int, ...]],
        mixes: np.ndarray,
        sides: np.ndarray,
    ) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The most probable choice whose range of widths spans the window on each mix of tables.

        Args:
            mixes: (k, m) factors of the tables' latencies.
            sides: (2 k,) which bounds count: all upper ones, then all lower ones.
        """
        factors, none = np.abs(mixes), np.full(len(mixes), np.inf)
        ends = np.stack([self.low, self.high])
        lower = np.where(mixes > 0, *ends)
        upper = np.where(mixes > 0, *ends[::-1])
        low = np.array([m[m != 0] @ v[m != 0] for m, v in zip(mixes, lower, strict=True)])
        high = np.array([m[m != 0] @ v[m != 0] for m, v in zip(mixes, upper, strict=True)])
        low, high = np.concatenate([-none, low]), np.concatenate([high, none])
        sides = sides & (np.isfinite(low) | np.isfinite(high))
        groups = []
        for cost, ops in zip(self._op_costs(best), self.menu.ms, strict=True):
            mixed = [op @ mixes.T for op in ops]
            loads = [np.concatenate([x.min(axis=0), x.max(axis=0)])[sides] for x in mixed]
            groups.append(Group(cost, np.array(loads)))
        rows = self.menu.rows(groups, self._depth_costs(best))
        resolution = np.tile(factors @ self.resolution, 2)[sides]
        found = cheapest(rows, low[sides], high[sides], resolution)
        if found is None:
            raise ValueError(self._unreachable())
        return self._choice(found, best)

    def _op_costs(self, best: tuple[tuple[int, ...], tuple[int, ...]]) -> list[np.ndarray]:
        pairs = zip(self.arch.alphas, best[1], strict=True)
        return [np.max(a) - a + CHANGE * (np.arange(len(a)) != pick) for a, pick in pairs]

    def _depth_costs(self, best: tuple[tuple[int, ...], tuple[int, ...]]) -> list[np.ndarray]:
        triples = zip(self.arch.betas, self.space.stages, best[0], strict=True)
        return [
            np.max(b) - b + CHANGE * abs(np.array(stage.depths) - depth)
            for b, stage, depth in triples
        ]

    def _choice(
        self, found: Found, best: tuple[tuple[int, ...], tuple[int, ...]]
    ) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Depths and picks; blocks that are cut off keep their most probable op."""
        depths = tuple(len(items) for items in found.items)
        picks = list(best[1])
        kept = self.menu.kept(depths)
        flat = [item for items in found.items for item in items]
        for block, item in zip(kept, flat, strict=True):
            picks[block] = item
        return depths, tuple(picks)

    def _widths(self, depths: tuple[int, ...], picks: tuple[int, ...]) -> tuple[int, ...] | None:
        """The widths nearest to the scaled ones that meet the constraints, of every block."""
        current = _picked_widths(self.arch, picks)
        scaled = scale(self.menu, depths, picks, current, self.constraints[0].target_ms)
        kept = self.menu.kept(depths)
        rows = self._width_rows(depths, picks, scaled)
        found = cheapest(rows, self.low, self.high, self.resolution)
        if found is None:
            return None
        widths = list(scaled)
        for b, items in zip(kept, found.items, strict=True):
            widths[b] = self.space.blocks[b][picks[b]].widths[items[0]]
        return tuple(widths)

    def _width_rows(
        self, depths: tuple[int, ...], picks: tuple[int, ...], scaled: Sequence[int] | None
    ) -> list[Row]:
        """Widths of each kept block, at a cost for their distance from the scaled ones if given."""
        rows = []
        for b in self.menu.kept(depths):
            grid = self.menu.widths(b, picks[b])
            cost = np.zeros(len(grid)) if scaled is None else (grid / scaled[b] - 1) ** 2
            group = Group(cost, self.menu.ms[b][picks[b]])
            rows.append(Row((group,), np.array([np.inf, 0.0])))
        return rows

    def _joint(
        self, best: tuple[tuple[int, ...], tuple[int, ...]]
    ) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]] | None:
        """The most probable ops and depths over all widths at once, and one set of widths."""
        groups, items = [], []
        for costs, block in zip(self._op_costs(best), self.menu.ms, strict=True):
            sizes = [len(ms) for ms in block]
            groups.append(Group(np.repeat(costs, sizes), np.concatenate(block)))
            items.append([(op, w) for op, size in enumerate(sizes) for w in range(size)])
        rows = self.menu.rows(groups, self._depth_costs(best))
        found = cheapest(rows, self.low, self.high, self.resolution)
        if found is None:
            return None
        depths = tuple(len(row) for row in found.items)
        picks, widths = list(best[1]), list(_picked_widths(self.arch, best[1]))
        flat = [item for row in found.items for item in row]
        for b, item in zip(self.menu.kept(depths), flat, strict=True):
            picks[b], index = items[b][item]
            widths[b] = self.space.blocks[b][picks[b]].widths[index]
        return depths, tuple(picks), tuple(widths)

    def _unreachable(self) -> str:
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


def _picked_widths(arch: Architecture, picks: Sequence[int]) -> tuple[int, ...]:
    return tuple(widths[pick] for widths, pick in zip(arch.widths, picks, strict=True))


def _log_prob(
    space: SearchSpace,
    arch: Architecture,
    depths: Sequence[int],
    picks: Sequence[int],
) -> float:
    ops = sum(float(alpha[pick]) for alpha, pick in zip(arch.alphas, picks, strict=True))
    triples = zip(space.stages, arch.betas, depths, strict=True)
    return ops + sum(float(beta[depth - stage.min_depth]) for stage, beta, depth in triples)


def _derived(
    space: SearchSpace,
    arch: Architecture,
    constraints: Sequence[Constraint],
    depths: tuple[int, ...],
    picks: tuple[int, ...],
    widths: tuple[int, ...],
    error_bound_ms: tuple[float, ...],
) -> Derived:
    subnet = space.subnet(depths, picks, widths)
    table_ms = tuple(constraint.table.subnet_ms(subnet) for constraint in constraints)
    best = argmax(space, arch)
    return Derived(
        subnet=subnet,
        depths=depths,
        picks=picks,
        widths=widths,
        table_ms=table_ms,
        log_prob=_log_prob(space, arch, depths, picks),
        argmax_log_prob=_log_prob(space, arch, *best),
        reached=all(c.met_by(ms) for c, ms in zip(constraints, table_ms, strict=True)),
        error_bound_ms=error_bound_ms,
        argmax_depths=best[0],
        argmax_picks=best[1],
    )
