"""Nets by a rule, without a search: what `benchmarks.quality` compares with."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np

from tfnas.derive.architecture import Architecture, Constraint
from tfnas.derive.methods import derive_constrained
from tfnas.space.search_space import SearchSpace
from tfnas.space.subnet import Subnet

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


def hand_made(space: SearchSpace, constraint: Constraint, name: str) -> Subnet:
    """A net by a rule: all depths times one factor, as EfficientNet (arXiv 1905.11946) scales them,
    or as nearly as widths reach the target from; then its widths are scaled to the target.

    Raises:
        ValueError: if the rule has no net at the target.
    """
    picks = []
    for number, stage in enumerate(space.stages):
        kernel, ratio, se = mobilenet_op(name, number, len(space.stages))
        for block in stage.blocks:
            same = [
                i for i, c in enumerate(block)
                if c.op.kernel == kernel and round(c.op.c_mid / c.op.c_in) == ratio
                and bool(c.op.c_se) == se
            ]  # fmt: skip
            picks.append(same[0])
    initial = Architecture.initial(space)
    widths = [block[pick].op.c_mid for block, pick in zip(space.blocks, picks, strict=True)]

    def gap(depths: tuple[int, ...]) -> float:
        ms = constraint.table.subnet_ms(space.subnet(depths, picks, widths))
        return float(abs(np.log(ms / constraint.target_ms)))

    full = np.array([len(stage.blocks) for stage in space.stages])

    def unevenness(depths: tuple[int, ...]) -> float:
        shares = np.array(depths) / full
        return round(float(np.var(shares)), 9)

    every = itertools.product(*(stage.depths for stage in space.stages))
    for depths in sorted(every, key=lambda d: (unevenness(d), gap(d))):
        alphas = [_only(pick, len(block)) for pick, block in zip(picks, space.blocks, strict=True)]
        betas = [
            _only(depth - stage.min_depth, len(stage.depths))
            for depth, stage in zip(depths, space.stages, strict=True)
        ]
        arch = replace(initial, alphas=tuple(alphas), betas=tuple(betas))
        derived = derive_constrained(space, arch, [constraint])
        if derived.depths == depths and list(derived.picks) == picks:
            return derived.subnet
    raise ValueError(f"no {name} at {constraint.target_ms} ms: its widths don't reach it")


def _only(index: int, count: int) -> np.ndarray:
    return np.where(np.arange(count) == index, 0.0, IMPOSSIBLE)
