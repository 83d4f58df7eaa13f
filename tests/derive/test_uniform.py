"""Random nets at the target, against all nets of a small space by hand."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from tests.derive.test_derive import random_table, small_space
from tfnas.derive.architecture import Constraint
from tfnas.derive.bounded import Bounded
from tfnas.derive.menu import feasible
from tfnas.derive.uniform import ABSENT, draw_uniform, draw_walking

COUNT = 4000


def every_net(bounded: Bounded) -> dict[tuple[int, ...], float]:
    """The chance of each net where depths, ops and widths are drawn one after the other."""
    space = bounded.space
    chances: dict[tuple[int, ...], float] = {}
    counts = [len(items) for items in bounded.menu.items]
    for depths in itertools.product(*(stage.depths for stage in space.stages)):
        kept = bounded.menu.kept(depths)
        shared = np.prod([1 / len(stage.depths) for stage in space.stages])
        for items in itertools.product(*(range(counts[b]) for b in kept)):
            net, chance = [ABSENT] * len(counts), shared
            for b, item in zip(kept, items, strict=True):
                net[b] = item
                op, _ = bounded.menu.items[b][item]
                chance /= len(space.blocks[b]) * len(space.blocks[b][op].widths)
            chances[tuple(net)] = chance
    assert sum(chances.values()) == pytest.approx(1)
    return chances


def cost(bounded: Bounded, net: tuple[int, ...]) -> np.ndarray:
    loads = [np.concatenate(block) for block in bounded.menu.loads]
    return sum((loads[b][i] for b, i in enumerate(net) if i != ABSENT), start=np.zeros(1))


@pytest.mark.parametrize("shares", [(0.15,), (0.5,), (0.85,), (0.3, 0.6)])
@pytest.mark.parametrize("at_most", [True, False])
@pytest.mark.parametrize("walking", [True, False])
def test_drawn_are_those_at_the_target_as_often_as_by_chance(
    shares: tuple[float, ...], at_most: bool, walking: bool
) -> None:
    space = small_space()
    constraints = []
    for seed, share in enumerate(shares):
        table = random_table(space, seed)
        low, high = feasible(space, table)
        target_ms = low + share * (high - low)
        constraints.append(Constraint(table, target_ms, at_most, tol=0.2 if at_most else 0.1))
    bounded = Bounded(space, constraints)
    chances = {
        net: chance for net, chance in every_net(bounded).items()
        if (bounded.low <= (ms := cost(bounded, net))).all() and (ms <= bounded.high).all()
    }  # fmt: skip
    assert len(chances) > 5
    rng = np.random.default_rng(0)
    if walking:  # all of them from one net
        nets = draw_walking(bounded, np.array([next(iter(chances))]), COUNT, rng)
    else:
        nets = draw_uniform(bounded, COUNT, rng)
    drawn = [tuple(net) for net in nets.tolist()]
    assert len(drawn) == COUNT
    assert set(drawn) <= set(chances)
    total = sum(chances.values())
    likely = {net: chance / total for net, chance in chances.items() if chance / total > 5 / COUNT}
    seen = {net: drawn.count(net) for net in likely}
    chi2 = sum((seen[net] - COUNT * p) ** 2 / (COUNT * p) for net, p in likely.items())
    assert chi2 < len(likely) + 5 * np.sqrt(2 * len(likely))


def test_a_target_that_no_net_meets_gives_none() -> None:
    space = small_space()
    table = random_table(space, 0)
    low, high = feasible(space, table)
    bounded = Bounded(space, [Constraint(table, low / 2 if low else high, tol=1e-6)])
    assert draw_uniform(bounded, 3, np.random.default_rng(0)).shape == (0, len(space.blocks))
