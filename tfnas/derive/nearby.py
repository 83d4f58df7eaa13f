"""Subnets that differ from one by few moves, for closing the loop on a device."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import combinations

import numpy as np

from tfnas.derive.architecture import Constraint
from tfnas.derive.menu import NEAR, STEPS, Menu, smallest
from tfnas.latency.table import LatencyTable
from tfnas.space.search_space import SearchSpace
from tfnas.space.subnet import Subnet

MORE = 4  # times as many neighbours are looked at where they must meet something else, too


def nearby(
    space: SearchSpace,
    table: LatencyTable,
    subnet: Subnet,
    target_ms: float,
    beside: Sequence[Constraint] = (),
    max_moves: int = 3,
    count: int = 8,
) -> list[Subnet]:
    """Subnets a few moves away whose latency on the table is near the target, best first.

    A move gives one kept block another mid width of its op. Those within `NEAR` of the target come
    first, by number of moves, then by their size (sum of relative changes of width), then by their
    distance from the target; others follow by that distance. Only where no move of widths gets
    within `NEAR`, one block changes its op, with at most one move of another block's width.

    From three moves on, a width changes by at most `STEPS` grid steps.

    Args:
        beside: what they must meet, too; as many more are looked at.

    Raises:
        ValueError: if the subnet isn't in the space.
        LookupError: if the table doesn't cover it.
    """
    picks = [pick for row in space.choices_of(subnet) for pick in row]
    menu = Menu(space, [table])
    kept = menu.kept(subnet.depths)
    widths = [op.c_mid for op in subnet.blocks]
    gap_ms = target_ms - table.total(subnet)
    near_ms = NEAR * target_ms
    found: list[tuple[float, int, float, Subnet]] = []  # |gap|, moves, size, net
    sums = count if not beside else MORE * count

    def fits(net: Subnet) -> bool:
        return all(constraint.met_by_net(net) for constraint in beside)

    moves = []
    for b, pick, width in zip(kept, picks, widths, strict=True):
        grid, ms = menu.widths(b, pick), menu.loads[b][pick][:, 0]
        now = int(np.searchsorted(grid, width))
        others = np.delete(np.arange(len(grid)), now)
        moves.append(_Moves(others - now, grid[others], ms[others] - ms[now], width))
    for number in range(1, max_moves + 1):
        some = moves if number < 3 else [m.within(STEPS) for m in moves]
        for changed in combinations(range(len(kept)), number):
            for gap, indices in _nearest_sums([some[i].ms for i in changed], gap_ms, sums):
                new = list(widths)
                size = 0.0
                for i, index in zip(changed, indices, strict=True):
                    new[i] = int(some[i].widths[index])
                    size += abs(new[i] / widths[i] - 1)
                if fits(net := subnet.with_widths(new)):
                    found.append((gap, number, size, net))
        if sum(gap <= near_ms for gap, *_ in found) >= count:
            break
    if not any(gap <= near_ms for gap, *_ in found):
        changes = _op_changes(menu, subnet, kept, picks, moves, gap_ms, sums)
        found += [change for change in changes if fits(change[3])]
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
    best = np.argsort(gaps, kind="stable") if len(gaps) <= count else smallest(gaps, count)
    shape = [len(part) for part in parts]
    for index in best:
        yield float(gaps[index]), tuple(int(i) for i in np.unravel_index(index, shape))


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
        now = float(menu.loads[b][pick][menu.widths(b, pick) == moves[i].width, 0][0])
        others_ms = [menu.loads[b][op][:, 0] for op in range(len(block)) if op != pick]
        ms = np.concatenate(others_ms) - now
        for j in (i, *(j for j in range(len(kept)) if j != i)):
            parts = [ms] if j == i else [ms, moves[j].ms]
            for gap, indices in _nearest_sums(parts, gap_ms, count):
                op, width = others[indices[0]]
                ops = list(subnet.blocks)
                ops[i] = block[op].at(width)
                # An op without a width, as one that is left out, is as far as twice the width.
                size = abs(width / moves[i].width - 1) if moves[i].width else 1.0
                if j != i:
                    new = int(moves[j].widths[indices[1]])
                    ops[j] = replace(ops[j], c_mid=new)
                    size += abs(new / moves[j].width - 1)
                it = iter(ops)
                stages = tuple(tuple(next(it) for _ in stage) for stage in subnet.stages)
                found.append((gap, 1 + (j != i), size, replace(subnet, stages=stages)))
    return found
