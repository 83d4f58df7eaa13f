"""The optimum under latency constraints; `tfnas.derive.methods` says what is optimal and why."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from tfnas.derive.architecture import Architecture, Constraint, argmax, picked_widths
from tfnas.derive.bounded import Bounded
from tfnas.derive.scaling import scale
from tfnas.derive.solver import Found, Group, Row, cheapest, separation
from tfnas.space.search_space import SearchSpace

CHANGE = 1e-9  # nats; orders choices of equal probability
MAX_CHOICES = 3  # of ops and depths whose widths are tried before all are searched jointly

Choice = tuple[tuple[int, ...], tuple[int, ...]]  # depths of all stages, ops of all blocks


class Constrained(Bounded):
    def __init__(
        self, space: SearchSpace, arch: Architecture, constraints: Sequence[Constraint]
    ) -> None:
        super().__init__(space, constraints)
        self.arch = arch

    def solve(self) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
        """Depths, picks, widths."""
        best = argmax(self.space, self.arch)
        for depths, picks in self._candidates(best):
            widths = self._widths(depths, picks)
            if widths is not None:
                return depths, picks, widths
        joint = self._joint(best)
        if joint is None:
            raise ValueError(self.unreachable())
        depths, picks, some_widths = joint
        return depths, picks, self._widths(depths, picks) or some_widths

    def _candidates(self, best: Choice) -> Iterator[Choice]:
        """Ops and depths, most probable first, that are optimal if their widths can be.

        The argmax, if each target lies between its narrowest and its widest net; else the most
        probable choice of which that is true. It is necessary, hence a choice is optimal as soon
        as it has widths that meet all constraints; with one constraint nearly all have. One that
        hasn't is excluded; and where a combination of several tables shows why, the next choices
        must fit between their narrowest and widest net on that combination too.
        """
        ms = [self.menu.loads[b][best[1][b]] for b in self.menu.kept(best[0])]
        too_slow = sum(m.min(axis=0) for m in ms) > self.high
        too_fast = sum(m.max(axis=0) for m in ms) < self.low
        mixes = np.eye(len(self.low))
        if not (too_slow.any() or too_fast.any()):
            choice = best
        elif len(mixes) == 1:
            # the other side hardly ever matters then, and with one bound dominance is exact
            choice = self._fitting(best, mixes, [], np.concatenate([too_slow, too_fast]))
        else:
            choice = self._fitting(best, mixes, [])
        excluded = []
        for _ in range(MAX_CHOICES):
            yield choice
            mix = None
            if len(self.low) > 1:
                mix = separation(self._width_rows(*choice, None), self.low, self.high)
            if mix is None:
                excluded.append(choice)
            else:
                mixes = np.vstack([mixes, mix])
            choice = self._fitting(best, mixes, excluded)

    def _fitting(
        self,
        best: Choice,
        mixes: np.ndarray,
        excluded: Sequence[Choice],
        sides: np.ndarray | None = None,
    ) -> Choice:
        """The most probable choice whose range of widths spans the window on each mix of tables.

        Args:
            mixes: (k, m) factors of the tables' latencies.
            excluded: choices that don't count.
            sides: (2 k,) which bounds count: all upper ones, then all lower ones; None for all.

        Raises:
            ValueError: if there is none, so that no subnet meets the constraints.
        """
        none = np.full(len(mixes), np.inf)
        windows = [
            sum(
                np.sort(f * np.array([lo, hi]))
                for f, lo, hi in zip(mix, self.low, self.high, strict=True)
                if f
            )
            for mix in mixes
        ]
        least, most = np.array(windows).T
        low = np.concatenate([-none, least])
        high = np.concatenate([most, none])
        use = np.isfinite(low) | np.isfinite(high)
        if sides is not None:
            use &= sides
        kept = [self.menu.kept(depths) for depths, _ in excluded]
        groups = []
        for b, (cost, ops) in enumerate(zip(self._op_costs(best), self.menu.loads, strict=True)):
            mixed = [op @ mixes.T for op in ops]
            loads = [np.concatenate([x.min(axis=0), x.max(axis=0)])[use] for x in mixed]
            # blocks that agree with an excluded choice, less those that it hasn't
            same = [
                [float(picks[b] == op) if b in blocks else -1.0 for op in range(len(ops))]
                for (_, picks), blocks in zip(excluded, kept, strict=True)
            ]
            agreement = np.array(same).reshape(len(excluded), len(ops)).T
            groups.append(Group(cost, np.concatenate([np.array(loads), agreement], axis=1)))
        rows = self.menu.rows(groups, self._depth_costs(best))
        found = cheapest(
            rows,
            np.concatenate([low[use], np.full(len(excluded), -np.inf)]),
            np.concatenate([high[use], [len(blocks) - 0.5 for blocks in kept]]),
            np.concatenate(
                [np.tile(abs(mixes) @ self.resolution, 2)[use], np.zeros(len(excluded))]
            ),
        )
        if found is None:
            raise ValueError(self.unreachable())
        return self._choice(found, best)

    def _op_costs(self, best: Choice) -> list[np.ndarray]:
        pairs = zip(self.arch.alphas, best[1], strict=True)
        return [np.max(a) - a + CHANGE * (np.arange(len(a)) != pick) for a, pick in pairs]

    def _depth_costs(self, best: Choice) -> list[np.ndarray]:
        triples = zip(self.arch.betas, self.space.stages, best[0], strict=True)
        return [
            np.max(b) - b + CHANGE * abs(np.array(stage.depths) - depth)
            for b, stage, depth in triples
        ]

    def _choice(self, found: Found, best: Choice) -> Choice:
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
        current = picked_widths(self.arch, picks)
        scaled = scale(self.menu, depths, picks, current, self.constraints[0].target)
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
            # An op without a mid width has the width 0, alone: its cost is the same for all.
            near = None if scaled is None else max(scaled[b], 1)
            cost = np.zeros(len(grid)) if near is None else (grid / near - 1) ** 2
            group = Group(cost, self.menu.loads[b][picks[b]])
            rows.append(Row((group,), np.array([np.inf, 0.0])))
        return rows

    def _joint(
        self, best: Choice
    ) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]] | None:
        """The most probable ops and depths over all widths at once, and one set of widths."""
        costs = [
            np.repeat(costs, [len(ms) for ms in block])
            for costs, block in zip(self._op_costs(best), self.menu.loads, strict=True)
        ]
        found = self.cheapest_items(costs, self._depth_costs(best))
        if found is None:
            return None
        depths, items = found
        picks, widths = list(best[1]), list(picked_widths(self.arch, best[1]))
        for b, item in zip(self.menu.kept(depths), items, strict=True):
            picks[b], widths[b] = self.menu.items[b][item]
        return depths, tuple(picks), tuple(widths)
