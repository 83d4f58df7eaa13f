"""Nets drawn uniformly from those that meet the constraints.

Depths, ops and widths are drawn independently of each other, tilted towards what costs more or less
until the expected latency is a net's that meets the constraints; of what is drawn so, those are
kept that do meet them. The tilt that is left among them is taken out again by rejection.

Where hardly any net meets them, walks from some that do reach the others (Metropolis et al., J.
Chem. Phys. 21, 1953): a few choices are drawn anew, and kept where the net meets them still.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tfnas.derive.bounded import Bounded

AT_ONCE = 8192  # nets drawn before it is looked which meet the constraints
MOST_ROUNDS = 200  # of them, for all that is asked for
BISECTIONS = 60
ROUNDS_OF_ALL = 20  # over the constraints, of which each is bisected in turn
MOST_STEPS = 4000  # of a walk
MIXED = 4  # times as many changes as a net has choices, and a walk has forgotten its start
CHANGED = (1, 2, 4)  # choices that a step draws anew, on average
STEEPEST = 1e4  # of a tilt, by the range of what is to be reached
ABSENT = -1  # a block that is cut off

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def draw_uniform(bounded: Bounded, count: int, rng: np.random.Generator) -> Ints:
    """Draw nets as lines of item numbers (blocks,), of which some may be the same.

    Returns:
        (drawn, blocks), `ABSENT` where a block is cut off; fewer than `count` where hardly any net
        meets the constraints.
    """
    tilted = _tilted(bounded)
    found: list[Ints] = []
    for _ in range(MOST_ROUNDS):
        found.append(_drawn(bounded, tilted, rng))
        if sum(map(len, found)) >= count:
            break
    return np.concatenate(found)[:count]


def draw_walking(bounded: Bounded, starts: Ints, count: int, rng: np.random.Generator) -> Ints:
    """Draw nets by walks from such that meet the constraints, lines as of `draw_uniform`.

    Walks end when half of them have changed `MIXED` times as often as a net has choices, or after
    `MOST_STEPS`.
    """
    space, tilted, loads = bounded.space, _tilted(bounded), _loads(bounded)
    stages = np.repeat(np.arange(len(space.stages)), [len(s.blocks) for s in space.stages])
    places = np.concatenate([np.arange(len(stage.blocks)) for stage in space.stages])
    begun = starts[rng.integers(len(starts), size=count)]
    kept = begun != ABSENT
    # What is cut off is a choice as others are, without any cost.
    items = np.where(kept, begun, _fresh(tilted.items, count, rng))
    depths = np.stack([kept[:, stages == s].sum(axis=1) for s in range(len(space.stages))], axis=1)
    every = [np.array(stage.depths) for stage in space.stages]
    ms = _cost(loads, items, places < depths[:, stages])
    changes, choices = np.zeros(count, int), len(tilted.items) + len(every)
    for _ in range(MOST_STEPS):
        share = rng.choice(CHANGED, size=(count, 1)) / choices
        drawn = np.stack(
            [
                of[index]
                for of, index in zip(every, _fresh(tilted.depths, count, rng).T, strict=True)
            ],
            axis=1,
        )
        other = np.where(rng.random(items.shape) < share, _fresh(tilted.items, count, rng), items)
        deep = np.where(rng.random(depths.shape) < share, drawn, depths)
        other_ms = _cost(loads, other, places < deep[:, stages])
        met = ((bounded.low <= other_ms) & (other_ms <= bounded.high)).all(axis=1)
        taken = met & (rng.exponential(size=count) >= (other_ms - ms) @ tilted.slopes)
        changes += taken & ((other != items).any(axis=1) | (deep != depths).any(axis=1))
        items[taken], depths[taken], ms[taken] = other[taken], deep[taken], other_ms[taken]
        if np.median(changes) >= MIXED * choices:
            break
    return np.where(places < depths[:, stages], items, ABSENT)


def _fresh(chances: Sequence[Floats], count: int, rng: np.random.Generator) -> Ints:
    """An index by each of the probabilities, (count, len(chances))."""
    return np.stack([rng.choice(len(p), count, p=p) for p in chances], axis=1)


def _cost(loads: Sequence[Floats], items: Ints, kept: NDArray[np.bool_]) -> Floats:
    """(n, m) of nets whose items (n, blocks) count where they are kept."""
    total = np.zeros((len(items), loads[0].shape[1]))
    for b, load in enumerate(loads):
        total += load[items[:, b]] * kept[:, b, None]
    return total


@dataclass(frozen=True)
class _Tilted:
    """Independent choices whose log-probabilities have `slopes @ ms` added.

    Attributes:
        slopes: (m,), per millisecond.
        items: for each block, the probabilities (items,).
        depths: for each stage, the probabilities (depths,).
        expected_ms: (m,) of the searched blocks.
    """

    slopes: Floats
    items: list[Floats]
    depths: list[Floats]
    expected_ms: Floats


def _loads(bounded: Bounded) -> list[Floats]:
    """What the items of each block cost, (items, m)."""
    return [np.concatenate(block) for block in bounded.menu.loads]


def _tilt(bounded: Bounded, slopes: Floats) -> _Tilted:
    items, depths, logs, costs = [], [], [], []
    for block, load in zip(bounded.space.blocks, _loads(bounded), strict=True):
        widths = [len(choice.widths) for choice in block]
        prior = -np.log(np.repeat(widths, widths) * len(block))
        weights, log = _softmax(prior + load @ slopes)
        items.append(weights)
        logs.append(log)
        costs.append(weights @ load)
    expected = np.zeros(len(slopes))
    first = 0
    for stage in bounded.space.stages:
        last = first + len(stage.blocks)
        upto = np.concatenate([[0.0], np.cumsum(logs[first:last])])
        weights, _ = _softmax(upto[list(stage.depths)])
        depths.append(weights)
        cost = np.concatenate([np.zeros((1, len(slopes))), np.cumsum(costs[first:last], axis=0)])
        expected += weights @ cost[list(stage.depths)]
        first = last
    return _Tilted(slopes, items, depths, expected)


def _softmax(logits: Floats) -> tuple[Floats, float]:
    log = float(np.logaddexp.reduce(logits))
    return np.exp(logits - log), log


def _tilted(bounded: Bounded) -> _Tilted:
    """The least tilt whose expected latencies lie between the bounds, as near as can be."""
    slopes = np.zeros(len(bounded.low))
    found = _tilt(bounded, slopes)
    for _ in range(ROUNDS_OF_ALL):
        outside = (found.expected_ms < bounded.low) | (found.expected_ms > bounded.high)
        if not outside.any():
            break
        for m in np.flatnonzero(outside):
            slopes = _bisected(bounded, slopes, m)
        found = _tilt(bounded, slopes)
    return found


def _bisected(bounded: Bounded, slopes: Floats, m: np.intp) -> Floats:
    """The slopes with that of one constraint such that its expected latency is at a bound.

    The expected latency grows with its slope.
    """
    flat = slopes.copy()
    flat[m] = 0.0
    expected = _tilt(bounded, flat).expected_ms[m]
    if bounded.low[m] <= expected <= bounded.high[m]:
        return flat
    aim = bounded.low[m] if expected < bounded.low[m] else bounded.high[m]
    steepest = STEEPEST / max(abs(aim - expected), np.finfo(float).tiny)
    low, high = (0.0, steepest) if expected < aim else (-steepest, 0.0)
    for _ in range(BISECTIONS):
        flat[m] = (low + high) / 2
        if _tilt(bounded, flat).expected_ms[m] < aim:
            low = flat[m]
        else:
            high = flat[m]
    flat[m] = high if aim == bounded.low[m] else low  # the side that is within the bounds
    return flat


def _drawn(bounded: Bounded, tilted: _Tilted, rng: np.random.Generator) -> Ints:
    """What of so many nets meets the constraints."""
    columns = list(_columns(bounded, tilted, rng))
    nets = np.stack(columns, axis=1)
    ms = _cost(_loads(bounded), nets, nets != ABSENT)
    met = ((bounded.low <= ms) & (ms <= bounded.high)).all(axis=1)
    nearest = np.where(tilted.slopes > 0, bounded.low, bounded.high)
    excess = np.where(tilted.slopes == 0, 0.0, tilted.slopes * (ms - nearest)).sum(axis=1)
    return nets[met & (rng.exponential(size=AT_ONCE) >= excess)]


def _columns(bounded: Bounded, tilted: _Tilted, rng: np.random.Generator) -> Iterator[Ints]:
    """Items of each block, (AT_ONCE,)."""
    first = 0
    for stage, depth in zip(bounded.space.stages, tilted.depths, strict=True):
        depths = np.array(stage.depths)[rng.choice(len(depth), AT_ONCE, p=depth)]
        for position in range(len(stage.blocks)):
            chances = tilted.items[first + position]
            items = rng.choice(len(chances), AT_ONCE, p=chances)
            yield np.where(position < depths, items, ABSENT)
        first += len(stage.blocks)
