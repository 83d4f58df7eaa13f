"""The latencies of a space's choices on given tables, and what can be told from them alone.

`Menu` holds them as arrays. On it rest the reachable range, the published scaling of widths, and
the neighbours of a subnet that the closed loop on the device moves to. Names that others use are
imported from `tfnas.derive`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import combinations

import numpy as np

from tfnas.solver import Group, Row, load_ranges
from tfnas.space import OpSpec, SearchSpace, Subnet
from tfnas.table import LatencyTable

NEAR = 5e-4  # fraction of a target within which `nearby` prefers few moves to a smaller gap
STEPS = 4  # grid steps to either side that `nearby` considers where it moves three blocks or more


class Menu:
    """Latencies of all widths of all ops, on one or several tables."""

    def __init__(self, space: SearchSpace, tables: Sequence[LatencyTable]) -> None:
        self.space = space
        self.fixed_ms = np.array([table.fixed_ms(space) for table in tables])  # (m,)
        curves: dict[tuple[OpSpec, tuple[int, ...]], np.ndarray] = {}
        self.ms: list[list[np.ndarray]] = []  # [block][op] (widths, m)
        for block in space.blocks:
            row = []
            for choice in block:
                key = (choice.op.curve, choice.widths)
                if key not in curves:
                    curves[key] = np.stack([t.curve_ms(choice) for t in tables], axis=1)
                row.append(curves[key])
            self.ms.append(row)

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
    loads = [np.concatenate(block) for block in menu.ms]
    groups = [Group(np.zeros(len(load)), load) for load in loads]
    return menu.rows(groups, _free_depths(menu.space))


def feasible_ms(space: SearchSpace, table: LatencyTable) -> tuple[float, float]:
    """Latency of the fastest and of the slowest net of the space on this table, exact.

    Raises:
        LookupError: if the table doesn't cover the space.
    """
    menu = Menu(space, [table])
    least, most = load_ranges(any_op(menu))
    return float(menu.fixed_ms[0] + least[0]), float(menu.fixed_ms[0] + most[0])


def scale_widths(
    space: SearchSpace,
    table: LatencyTable,
    depths: Sequence[int],
    picks: Sequence[int],
    widths: Sequence[int],
    target_ms: float,
) -> tuple[int, ...]:
    """The published progressive scaling of the widths of one choice of ops and depths.

    Over the target, all stages shrink, then stages 2-n, 3-n, ... n expand; under it, 1-n, 2-n, ...
    n expand. A call on a range of stages adds round(width / smallest width in the range) channels
    to every block until the target is passed or all blocks sit at a bound; shrinking keeps the
    first state strictly below the target, expanding undoes its last step in either case (so it is
    in the published code, train_search.py).

    On a grid coarser than single channels the step counts quanta instead of channels.

    Args:
        picks, widths: for every block of the space; blocks that are cut off keep their width.
    """
    return scale(Menu(space, [table]), depths, picks, widths, target_ms)


def scale(
    menu: Menu,
    depths: Sequence[int],
    picks: Sequence[int],
    widths: Sequence[int],
    target_ms: float,
) -> tuple[int, ...]:
    space = menu.space
    kept = menu.kept(depths)
    grid = {b: menu.widths(b, picks[b]) for b in kept}
    for b in kept:
        if widths[b] not in grid[b]:
            raise ValueError(f"mid width {widths[b]} isn't one of {space.blocks[b][picks[b]].op}")
    ms = {b: menu.ms[b][picks[b]][:, 0] for b in kept}
    current = list(widths)
    firsts = np.cumsum([0, *(len(stage.blocks) for stage in space.stages)])

    def total(paths: dict[int, np.ndarray], length: int) -> np.ndarray:
        # block by block, as the published code adds, so that ties are decided alike
        sums = np.full(length, menu.fixed_ms[0])
        for b in kept:
            path = paths.get(b, np.array([current[b]]))
            sums = sums + ms[b][np.searchsorted(grid[b], path)]
        return sums

    def move(start: int, sign: int) -> None:
        blocks = [b for b in kept if b >= firsts[start]]
        smallest = min(current[b] for b in blocks)
        steps = {b: round(current[b] / smallest) * space.quantum for b in blocks}
        ends = {b: int(grid[b][-1 if sign > 0 else 0]) for b in blocks}
        length = max(1, *(-(-abs(ends[b] - current[b]) // steps[b]) for b in blocks))
        ticks = np.arange(length + 1)
        paths = {
            b: np.clip(current[b] + sign * steps[b] * ticks, grid[b][0], grid[b][-1])
            for b in blocks
        }
        passed = np.flatnonzero(sign * total(paths, length + 1) > sign * target_ms)
        stop = int(passed[0]) if len(passed) else length
        if sign > 0:
            stop = max(stop - 1, 0)
        for b in blocks:
            current[b] = int(paths[b][stop])

    before = float(total({}, 1)[0])
    if before > target_ms:
        move(0, -1)
    elif before < target_ms:
        move(0, 1)
    if before != target_ms:
        for start in range(1, len(space.stages)):
            move(start, 1)
    return tuple(current)


def nearby(
    space: SearchSpace,
    table: LatencyTable,
    subnet: Subnet,
    target_ms: float,
    max_moves: int = 3,
    count: int = 8,
) -> list[Subnet]:
    """Subnets a few moves away whose latency on the table is near the target, best first.

    A move gives one kept block another mid width of its op. Those within `NEAR` of the target come
    first, by number of moves, then by their size (sum of relative changes of width), then by their
    distance from the target; others follow by that distance. Only where no move of widths gets
    within `NEAR`, one block changes its op, with at most one move of another block's width.

    From three moves on, a width changes by at most `STEPS` grid steps.

    Raises:
        ValueError: if the subnet isn't in the space.
        LookupError: if the table doesn't cover it.
    """
    picks = [pick for row in space.choices_of(subnet) for pick in row]
    menu = Menu(space, [table])
    kept = menu.kept(subnet.depths)
    widths = [op.c_mid for op in subnet.blocks]
    gap_ms = target_ms - table.subnet_ms(subnet)
    near_ms = NEAR * target_ms
    found: list[tuple[float, int, float, Subnet]] = []  # |gap|, moves, size, net

    moves = []
    for b, pick, width in zip(kept, picks, widths, strict=True):
        grid, ms = menu.widths(b, pick), menu.ms[b][pick][:, 0]
        now = int(np.searchsorted(grid, width))
        others = np.delete(np.arange(len(grid)), now)
        moves.append(_Moves(others - now, grid[others], ms[others] - ms[now], width))
    for number in range(1, max_moves + 1):
        some = moves if number < 3 else [m.within(STEPS) for m in moves]
        for changed in combinations(range(len(kept)), number):
            for gap, indices in _nearest_sums([some[i].ms for i in changed], gap_ms, count):
                new = list(widths)
                size = 0.0
                for i, index in zip(changed, indices, strict=True):
                    new[i] = int(some[i].widths[index])
                    size += abs(new[i] / widths[i] - 1)
                found.append((gap, number, size, subnet.with_widths(new)))
        if sum(gap <= near_ms for gap, *_ in found) >= count:
            break
    if not any(gap <= near_ms for gap, *_ in found):
        found += _op_changes(menu, subnet, kept, picks, moves, gap_ms, count)
    found.sort(key=lambda f: (f[0] > near_ms, *(f[1:3] if f[0] <= near_ms else (0, 0)), f[0]))
    return list(dict.fromkeys(net for *_, net in found if net != subnet))[:count]


class _Moves:
    """Other widths of one block: steps on the grid, widths, change of latency, (n,) each."""

    def __init__(self, steps: np.ndarray, widths: np.ndarray, ms: np.ndarray, width: int) -> None:
        self.steps, self.widths, self.ms, self.width = steps, widths, ms, width

    def within(self, steps: int) -> _Moves:
        near = abs(self.steps) <= steps
        return _Moves(self.steps[near], self.widths[near], self.ms[near], self.width)


def _nearest_sums(
    parts: Sequence[np.ndarray], target: float, count: int
) -> Iterator[tuple[float, tuple[int, ...]]]:
    """Distance and indices of the `count` sums of one value from each part nearest to target."""
    sums = np.zeros(1)
    for part in parts:
        sums = (sums[:, None] + part).ravel()
    gaps = abs(sums - target)
    best = np.argsort(gaps, kind="stable") if len(gaps) <= count else _smallest(gaps, count)
    shape = [len(part) for part in parts]
    for index in best:
        yield float(gaps[index]), tuple(int(i) for i in np.unravel_index(index, shape))


def _smallest(values: np.ndarray, count: int) -> np.ndarray:
    some = np.sort(np.argpartition(values, count - 1)[:count])
    return some[np.argsort(values[some], kind="stable")]


def _op_changes(
    menu: Menu,
    subnet: Subnet,
    kept: Sequence[int],
    picks: Sequence[int],
    moves: Sequence[_Moves],
    gap_ms: float,
    count: int,
) -> list[tuple[float, int, float, Subnet]]:
    """One block with another op, and at most one move of another block's width."""
    found = []
    for i, (b, pick) in enumerate(zip(kept, picks, strict=True)):
        block = menu.space.blocks[b]
        others = [(op, w) for op, choice in enumerate(block) for w in choice.widths if op != pick]
        if not others:
            continue
        now = float(menu.ms[b][pick][menu.widths(b, pick) == moves[i].width, 0][0])
        ms = np.concatenate([menu.ms[b][op][:, 0] for op in range(len(block)) if op != pick]) - now
        for j in (i, *(j for j in range(len(kept)) if j != i)):
            parts = [ms] if j == i else [ms, moves[j].ms]
            for gap, indices in _nearest_sums(parts, gap_ms, count):
                op, width = others[indices[0]]
                ops = list(subnet.blocks)
                ops[i] = block[op].at(width)
                size = abs(width / moves[i].width - 1)
                if j != i:
                    new = int(moves[j].widths[indices[1]])
                    ops[j] = replace(ops[j], c_mid=new)
                    size += abs(new / moves[j].width - 1)
                it = iter(ops)
                stages = tuple(tuple(next(it) for _ in stage) for stage in subnet.stages)
                found.append((gap, 1 + (j != i), size, replace(subnet, stages=stages)))
    return found
