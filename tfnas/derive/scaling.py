"""Elasticity-scaling: mid widths moved step by step to the target (TF-NAS, width level)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tfnas.derive.menu import Menu
from tfnas.latency.table import LatencyTable
from tfnas.space.search_space import SearchSpace


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
    ms = {b: menu.loads[b][picks[b]][:, 0] for b in kept}
    current = list(widths)
    firsts = np.cumsum([0, *(len(stage.blocks) for stage in space.stages)])

    def total(paths: dict[int, np.ndarray], length: int) -> np.ndarray:
        # block by block, as the published code adds, so that ties are decided alike
        sums = np.full(length, menu.fixed[0])
        for b in kept:
            path = paths.get(b, np.array([current[b]]))
            sums = sums + ms[b][np.searchsorted(grid[b], path)]
        return sums

    def move(start: int, sign: int) -> None:
        blocks = [b for b in kept if b >= firsts[start] and current[b]]
        if not blocks:
            return
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
