"""Nets by a rule, without a search: what found nets are compared with."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from tfnas.derive.architecture import Architecture, Constraint
from tfnas.derive.menu import Menu
from tfnas.derive.methods import derive_constrained
from tfnas.space.search_space import Block, SearchSpace
from tfnas.space.subnet import Subnet

RULES = ("mobilenetv2", "mobilenetv3")
IMPOSSIBLE = -1e3  # nats, of an op or a depth that a hand-made net must not have


def mobilenet_op(name: str, stage: int, stages: int) -> tuple[int, int, bool]:
    """Kernel, expansion ratio and squeeze-excite of a hand-made net's blocks in a stage, from 0.

    MobileNetV2 (arXiv 1801.04381, table 2) has one block throughout. MobileNetV3-Large (arXiv
    1905.02244, table 1) begins with 3x3 and little expansion, goes on with 5x5 and squeeze-excite,
    and ends with 3x3 and then 5x5, expansion 6 and squeeze-excite.
    """
    if name == "mobilenetv2":
        return 3, 6, False
    return ((3, 3, False), (5, 3, True), (3, 6, True), (5, 6, True))[stage * 4 // stages]


def hand_made(
    space: SearchSpace, constraint: Constraint, name: str, beside: Sequence[Constraint] = ()
) -> Subnet:
    """A net by a rule: all depths times one factor, as EfficientNet (arXiv 1905.11946) scales them,
    or as nearly as widths reach the target from; then its widths are scaled to the target. A block
    without the rule's op has the one that is nearest by expansion, then kernel, then
    squeeze-excite.

    Args:
        name: one of `RULES`.
        beside: what its widths must meet, too.

    Raises:
        ValueError: if the rule has no net at the target.
    """
    picks = [
        _nearest(block, *mobilenet_op(name, number, len(space.stages)))
        for number, stage in enumerate(space.stages)
        for block in stage.blocks
    ]
    initial = Architecture.initial(space)
    widths = [block[pick].op.c_mid for block, pick in zip(space.blocks, picks, strict=True)]

    def gap(depths: tuple[int, ...]) -> float:
        ms = constraint.cost.total(space.subnet(depths, picks, widths))
        return float(abs(np.log(ms / constraint.target)))

    full = np.array([len(stage.blocks) for stage in space.stages])

    def unevenness(depths: tuple[int, ...]) -> float:
        shares = np.array(depths) / full
        return round(float(np.var(shares)), 9)

    menu, (low, high) = Menu(space, [constraint.cost]), constraint.window

    def in_reach(depths: tuple[int, ...]) -> bool:
        rows = [menu.loads[b][picks[b]][:, 0] for b in menu.kept(depths)]
        least, most = (float(menu.fixed[0] + sum(f(row) for row in rows)) for f in (min, max))
        return least <= high and most >= low

    every = itertools.product(*(stage.depths for stage in space.stages))
    for depths in sorted(filter(in_reach, every), key=lambda d: (unevenness(d), gap(d))):
        alphas = [_only(pick, len(block)) for pick, block in zip(picks, space.blocks, strict=True)]
        betas = [
            _only(depth - stage.min_depth, len(stage.depths))
            for depth, stage in zip(depths, space.stages, strict=True)
        ]
        arch = replace(initial, alphas=tuple(alphas), betas=tuple(betas))
        derived = derive_constrained(space, arch, [constraint, *beside])
        if derived.depths == depths and list(derived.picks) == picks:
            return derived.subnet
    raise ValueError(f"no {name} at {constraint}: its widths don't reach it")


def _nearest(block: Block, kernel: int, ratio: int, se: bool) -> int:
    """The op that the rule asks for, or what a block has instead of it."""

    def distance(index: int) -> tuple[bool, int, int, bool]:
        op = block[index].op
        ratios = round(op.c_mid / op.c_in)
        return (
            op.kind != "mbconv",
            abs(ratios - ratio),
            abs(op.kernel - kernel),
            bool(op.c_se) != se,
        )

    return min(range(len(block)), key=distance)


def _only(index: int, count: int) -> np.ndarray:
    return np.where(np.arange(count) == index, 0.0, IMPOSSIBLE)
