"""The cheapest choice of one item from each group under bounds on sums: what `derive` solves.

Nothing here knows of networks. Rows stand for stages, groups for blocks, items for ops or widths,
loads for milliseconds on one or several tables. A row may keep only its first groups, at a cost for
each depth.

The method is a dynamic program over the groups whose states carry their exact sums. Two things keep
it small. A Lagrangian bound (M. L. Fisher, Management Science 27(1), 1981) drops every state that
can't end below a budget; the budget starts just above the dual value and grows until a choice is
found, which then is the cheapest. States as good as equal are merged: exactly, by dominance, where
there is one load and it is bounded on one side only; else where all their loads fall in the same
bucket of `resolution`, of which the cheapest state stays.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

CHUNK = 500_000  # candidate states made at once: bounds the memory
GROWTH = 2.0  # of the room between dual and budget, from one search to the next
SLACK = 1e-10  # for rounding in sums of costs
MOST_STATES = 50_000  # of several loads; they are merged much less often than those of one
LIGHTEST = 0.01  # of several prices, by the heaviest one
TURNS, HEAVIER = 6, 3.0  # the price of what is still above its bound grows so often, so much
BISECTIONS = 8  # of the prices of bounds that bind
COARSER = 10  # times, of one load whose costs have others priced in: it's solved often


class _TooManyError(Exception):
    pass


@dataclass(frozen=True)
class Group:
    costs: np.ndarray  # (n,)
    loads: np.ndarray  # (n, m): m bounded sums


@dataclass(frozen=True)
class Row:
    """Groups in order, of which the first ones are kept.

    Attributes:
        depth_costs: (len(groups) + 1,) cost of keeping that many, inf where that isn't allowed.
            Keeping none isn't allowed, keeping all is.
    """

    groups: tuple[Group, ...]
    depth_costs: np.ndarray


@dataclass(frozen=True)
class Found:
    """A choice: for each row, the item of every group that is kept."""

    cost: float
    loads: np.ndarray  # (m,) exact sums
    items: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class _States:
    """Partial choices, one a line."""

    cost: np.ndarray  # (s,)
    loads: np.ndarray  # (s, m)
    trail: np.ndarray  # (s, groups) item of every group so far, -1 where it is not kept

    def at(self, index: np.ndarray) -> _States:
        return _States(self.cost[index], self.loads[index], self.trail[index])


def load_ranges(rows: Sequence[Row]) -> tuple[np.ndarray, np.ndarray]:
    """Exact smallest and largest sum of each load over all choices, (m,) each."""
    loads = [[g.loads for g in row.groups] for row in rows]
    depths = [np.where(np.isfinite(row.depth_costs), 0.0, np.inf) for row in rows]
    least = _to_the_end(loads, depths, np.min)[0][0]
    most = _to_the_end(loads, [-d for d in depths], np.max)[0][0]
    return least, most


def cheapest(
    rows: Sequence[Row], low: np.ndarray, high: np.ndarray, resolution: np.ndarray
) -> Found | None:
    """The choice of least cost with low <= sums of loads <= high, or None.

    Args:
        low, high: (m,) bounds, -inf or inf for none. Where several bind and one load at most has
            both, the result may be a little dearer than the cheapest, see `_by_prices`.
        resolution: (m,) buckets of the loads. With n groups, the result is at least as cheap as
            any choice whose sums keep a distance of n * resolution from the bounds, and None means
            that there is no such choice. It is not used where dominance is exact (one load, one
            bound).
    """
    least, most = load_ranges(rows)
    if (least > high).any() or (most < low).any():
        return None
    # A bound that the choice keeps anyway costs nothing: what is cheapest without it is so with it.
    sums = _Problem(tuple(rows), low, high, resolution).dual(np.zeros(len(low)))[1]
    bound = ~_between(sums, low, high)
    bound[0] |= not bound.any()
    while True:
        some = _with_loads(rows, bound), low[bound], high[bound], resolution[bound]
        two_sided = np.isfinite(low[bound]) & np.isfinite(high[bound])
        priced = bound.sum() > 1 and two_sided.sum() < 2
        found = _by_prices(*some) if priced else _as_fine_as_can_be(*some)
        if found is None or bound.all():
            return found
        found = replace(found, loads=_sums(rows, found.items))
        broken = ~_between(found.loads, low, high) & ~bound
        if not broken.any():
            return found
        bound |= broken


def _between(loads: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    return (low <= loads) & (loads <= high)


def _with_loads(rows: Sequence[Row], some: np.ndarray) -> list[Row]:
    return [
        Row(tuple(Group(g.costs, g.loads[:, some]) for g in row.groups), row.depth_costs)
        for row in rows
    ]


def _sums(rows: Sequence[Row], items: Sequence[Sequence[int]]) -> np.ndarray:
    """The loads of a choice, (m,), added in order as the search adds them."""
    pairs = zip(rows, items, strict=True)
    chosen = [
        group.loads[item] for row, of in pairs for group, item in zip(row.groups, of, strict=False)
    ]
    return np.add.accumulate(chosen)[-1]


def _as_fine_as_can_be(
    rows: Sequence[Row], low: np.ndarray, high: np.ndarray, resolution: np.ndarray
) -> Found | None:
    """The cheapest choice; of several loads by coarser buckets where fine ones are too many."""
    for factor in (1, 10, 100, 1000) if len(low) > 1 else ():
        with suppress(_TooManyError):
            return _exact(_Problem(rows, low, high, factor * resolution), None, MOST_STATES)
    return _exact(_Problem(rows, low, high, resolution))


def _exact(
    problem: _Problem, highest: float | None = None, most_states: float = np.inf
) -> Found | None:
    """The cheapest choice, or None where there is none that costs at most `highest`.

    Raises:
        _TooManyError: if more than `most_states` would have to be looked at at once.
    """
    highest = problem.highest_cost if highest is None else highest
    price = problem.best_price()
    room = problem.typical_regret(price) / 2
    dual = problem.dual(price)[0]
    while True:
        budget = min(dual + room, highest)
        budget += SLACK * max(1.0, abs(budget))
        found = _search(problem, price, dual, budget, most_states)
        if found is not None or budget >= highest:
            return found
        room *= GROWTH


def _by_prices(
    rows: Sequence[Row], low: np.ndarray, high: np.ndarray, resolution: np.ndarray
) -> Found | None:
    """As `cheapest`, where all loads but one have one bound only.

    These loads are priced into the costs, so that one is left, which the dynamic program can tell
    apart finely. The smallest share of the prices that keeps the bounds gives a choice that is the
    cheapest or nearly so; a cheaper one is then looked for among all loads, as far as `MOST_STATES`
    go.
    """
    problem = _Problem(tuple(rows), low, high, resolution)
    main = int(np.argmax(np.isfinite(low) & np.isfinite(high)))  # the first one, if all have one
    others = np.arange(len(low)) != main
    scale = np.where(np.isfinite(high), 1.0, -1.0) * problem.price_scale()
    weights = np.maximum(problem.best_price() / scale, 0.0)[others]
    weights = np.maximum(weights / (weights.max() or 1.0), LIGHTEST)
    price = weights * scale[others]
    above = np.zeros(len(price), bool)  # what the last choice broke
    best: Found | None = None

    def kept_at(share: float, most_states: float = MOST_STATES) -> bool:
        """Whether the cheapest choice keeps the bounds, by that share of the prices."""
        nonlocal above, best
        mixed = [
            Row(
                tuple(
                    Group((1 - share) * g.costs + share * g.loads[:, others] @ price,
                          g.loads[:, [main]])
                    for g in row.groups
                ),
                np.where(known := np.isfinite(row.depth_costs),
                         (1 - share) * np.where(known, row.depth_costs, 0.0), np.inf),
            )
            for row in rows
        ]  # fmt: skip
        one = _Problem(mixed, low[[main]], high[[main]], COARSER * resolution[[main]])
        try:
            found = _exact(one, None, most_states)
        except _TooManyError:
            return False
        if found is None:
            return False
        loads = _sums(rows, found.items)
        above = ~_between(loads, low, high)[others]
        if above.any():
            return False
        cost = _cost(rows, found.items)
        if best is None or cost < best.cost:
            best = Found(cost, loads, found.items)
        return True

    # By the dual's prices, then by even ones: whether these lead to a choice, costs don't matter.
    for start in (price, scale[others]) if len(price) > 1 else (price,):
        price, turns = start, 0
        while not kept_at(1.0, np.inf) and turns < TURNS and len(price) > 1:
            turns += 1
            price = np.where(above, HEAVIER, 1.0) * price
        if best is not None:
            break
    if best is not None:
        broken, kept = 0.0, 1.0
        for _ in range(BISECTIONS):
            middle = (broken + kept) / 2
            broken, kept = (broken, middle) if kept_at(middle) else (middle, kept)
    try:
        return _exact(problem, None if best is None else best.cost, MOST_STATES) or best
    except _TooManyError:
        return best


def _cost(rows: Sequence[Row], items: Sequence[Sequence[int]]) -> float:
    pairs = list(zip(rows, items, strict=True))
    kept = sum(row.depth_costs[len(of)] for row, of in pairs)
    return float(kept + sum(
        group.costs[item] for row, of in pairs for group, item in zip(row.groups, of, strict=False)
    ))  # fmt: skip


def separation(rows: Sequence[Row], low: np.ndarray, high: np.ndarray) -> np.ndarray | None:
    """Prices of the loads (m,), of length 1, that prove that no choice meets the bounds, if found.

    Under them the cheapest choice costs more than anything within the bounds. None says nothing.
    """
    free = [
        Row(tuple(Group(0 * g.costs, g.loads) for g in row.groups), row.depth_costs) for row in rows
    ]
    problem = _Problem(tuple(free), low, high, np.zeros_like(low))
    price = problem.best_price()
    proven = problem.dual(price)[0] > 1e-9 * float(abs(price) @ abs(np.nan_to_num(high, posinf=0)))
    return price / np.linalg.norm(price) if proven and price.any() else None


def _to_the_end(
    values: Sequence[Sequence[np.ndarray]],
    depth_values: Sequence[np.ndarray],
    best: Callable[..., np.ndarray],
) -> list[list[np.ndarray]]:
    """Best sum of values from every position to the end.

    Args:
        values: for each row and group, (n, k) values of its items.
        depth_values: for each row, (len(groups) + 1,).
        best: np.min or np.max.

    Returns:
        For each row and number of its groups already passed, (k,); a last row is the end: zeros.
    """
    k = values[0][0].shape[1]
    table = [[np.zeros(k)]]
    for groups, depths in zip(reversed(values), reversed(depth_values), strict=True):
        after = table[0][0]
        inside = [after + depths[len(groups)]]
        for passed in range(len(groups) - 1, -1, -1):
            go_on = best(groups[passed], axis=0) + inside[0]
            inside.insert(0, best(np.stack([after + depths[passed], go_on]), axis=0))
        table.insert(0, inside)
    return table


@dataclass(frozen=True)
class _Problem:
    rows: Sequence[Row]
    low: np.ndarray  # (m,)
    high: np.ndarray  # (m,)
    resolution: np.ndarray  # (m,)

    @cached_property
    def groups(self) -> list[Group]:
        return [group for row in self.rows for group in row.groups]

    @cached_property
    def highest_cost(self) -> float:
        depths = [np.where(np.isfinite(r.depth_costs), r.depth_costs, -np.inf) for r in self.rows]
        costs = [[g.costs[:, None] for g in row.groups] for row in self.rows]
        return float(_to_the_end(costs, depths, np.max)[0][0][0])

    @cached_property
    def _padded(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Costs (g, n), loads (g, n, m), groups of rows (r, d) and costs of depths (r, d)."""
        widest = max(len(group.costs) for group in self.groups)
        m = len(self.low)
        costs = np.full((len(self.groups) + 1, widest), np.inf)
        loads = np.zeros((len(self.groups) + 1, widest, m))
        for index, group in enumerate(self.groups):
            costs[index, : len(group.costs)] = group.costs
            loads[index, : len(group.costs)] = group.loads
        costs[-1, 0] = 0.0  # stands for the groups that a shorter row hasn't
        deepest = max(len(row.groups) for row in self.rows)
        members = np.full((len(self.rows), deepest), len(self.groups))
        depths = np.full((len(self.rows), deepest), np.inf)
        first = 0
        for index, row in enumerate(self.rows):
            members[index, : len(row.groups)] = range(first, first + len(row.groups))
            depths[index, : len(row.groups)] = row.depth_costs[1:]
            first += len(row.groups)
        return costs, loads, members, depths

    def dual(self, price: np.ndarray) -> tuple[float, np.ndarray]:
        """The Lagrangian bound at a price of each load (m,), and the loads of its choice."""
        costs, loads, members, depths = self._padded
        priced = costs + loads @ price
        item = priced.argmin(axis=1)
        groups = np.arange(len(priced))
        values = priced[groups, item][members].cumsum(axis=1) + depths  # (r, d)
        depth = values.argmin(axis=1)
        lines = np.arange(len(values))
        sums = loads[groups, item][members].cumsum(axis=1)[lines, depth].sum(axis=0)
        return float(values[lines, depth].sum()) - self.edge(price), sums

    def edge(self, price: np.ndarray) -> float:
        """price · (the bound that it pushes against)."""
        return float(sum(p * (h if p > 0 else lo) for p, lo, h in self._pushing(price)))

    def _pushing(self, price: np.ndarray) -> list[tuple[float, float, float]]:
        return [(p, lo, h) for p, lo, h in zip(price, self.low, self.high, strict=True) if p != 0]

    def best_price(self) -> np.ndarray:
        """(m,) prices that make the dual high."""
        return self._bisected() if len(self.low) == 1 else self._by_ellipsoids()

    def _bisected(self) -> np.ndarray:
        load = self.dual(np.zeros(1))[1][0]
        if self.low[0] <= load <= self.high[0]:
            return np.zeros(1)
        sign = 1.0 if load > self.high[0] else -1.0
        bound = self.high[0] if sign > 0 else self.low[0]

        def enough(price: float) -> bool:
            return bool(sign * (self.dual(np.array([price]))[1][0] - bound) <= 0)

        inner, outer = 0.0, sign * float(self.price_scale()[0])
        for _ in range(40):
            if enough(outer):
                break
            inner, outer = outer, outer * 2
        for _ in range(30):
            middle = (inner + outer) / 2
            inner, outer = (inner, middle) if enough(middle) else (middle, outer)
        return np.array([outer])

    def _by_ellipsoids(self) -> np.ndarray:
        """Ellipsoid method (N. Z. Shor, 1977): few prices, a concave dual with kinks."""
        m = len(self.low)
        scale = self.price_scale()
        center, shape = np.zeros(m), np.eye(m) * 1e4
        best, highest = np.zeros(m), self.dual(np.zeros(m))[0]
        for _ in range(60 * m):
            price = center * scale
            off_limits = ((price < 0) & np.isinf(self.low)) | ((price > 0) & np.isinf(self.high))
            if off_limits.any():
                uphill = np.where(off_limits, -price, 0.0) / scale
            else:
                value, loads = self.dual(price)
                if value > highest:
                    best, highest = price, value
                nearest = np.clip(loads, self.low, self.high)
                pushed = np.where(price > 0, self.high, self.low)
                uphill = (loads - np.where(price == 0, nearest, pushed)) * scale
            square = float(uphill @ shape @ uphill)
            if square < 1e-20:  # at the top, or as near to it as rounding lets the shape be true
                break
            step = shape @ uphill / np.sqrt(square)
            center = center + step / (m + 1)
            shape = m * m / (m * m - 1) * (shape - 2 / (m + 1) * np.outer(step, step))
        return best

    def price_scale(self) -> np.ndarray:
        """(m,) prices at which costs and loads weigh about the same."""
        costs, loads, _, _ = self._padded
        spread = float(np.ptp(costs[np.isfinite(costs)])) or 1.0
        return spread / np.maximum(np.ptp(loads, axis=(0, 1)), 1e-30)

    def regrets(self, price: np.ndarray) -> list[np.ndarray]:
        """For each group, how much each item adds at least to the dual value."""
        priced = [group.costs + group.loads @ price for group in self.groups]
        return [values - values.min() for values in priced]

    def typical_regret(self, price: np.ndarray) -> float:
        second = [np.partition(r, 1)[1] for r in self.regrets(price) if len(r) > 1]
        positive = [value for value in second if value > 0]
        return float(np.median(positive)) if positive else 1.0


@dataclass(frozen=True)
class _Bounds:
    """What a state must fulfil at a position to lead to a choice within bounds and budget."""

    problem: _Problem
    prices: np.ndarray  # (p, m)
    least: list[list[np.ndarray]]  # (m,) each
    most: list[list[np.ndarray]]
    dual: list[list[np.ndarray]]  # (p,) each
    limits: np.ndarray  # (p,)

    def keeps(self, cost: np.ndarray, loads: np.ndarray, row: int, passed: int) -> np.ndarray:
        ok = np.ones(len(cost), bool)
        for m in range(loads.shape[1]):
            ok &= loads[:, m] <= self.problem.high[m] - self.least[row][passed][m]
            ok &= loads[:, m] >= self.problem.low[m] - self.most[row][passed][m]
        for price, dual, limit in zip(
            self.prices, self.dual[row][passed], self.limits, strict=True
        ):
            ok &= (cost + loads @ price if price.any() else cost) <= limit - dual
        return ok


def _bounds(problem: _Problem, price: np.ndarray, budget: float) -> _Bounds:
    loads = [[g.loads for g in row.groups] for row in problem.rows]
    free = [np.where(np.isfinite(row.depth_costs), 0.0, np.inf) for row in problem.rows]
    prices = np.stack([np.zeros_like(price), price]) if price.any() else price[None]
    priced = [[g.costs[:, None] + g.loads @ prices.T for g in r.groups] for r in problem.rows]
    slack = 1e-12 * np.where(np.isfinite(problem.high), abs(problem.high), 0).max(initial=1.0)
    return _Bounds(
        problem,
        prices,
        [[v - slack for v in line] for line in _to_the_end(loads, free, np.min)],
        [[v + slack for v in line] for line in _to_the_end(loads, [-f for f in free], np.max)],
        _to_the_end(priced, [row.depth_costs for row in problem.rows], np.min),
        np.array([budget + problem.edge(p) for p in prices]),
    )


def _search(
    problem: _Problem, price: np.ndarray, dual: float, budget: float, most_states: float
) -> Found | None:
    """The cheapest choice within the bounds that costs no more than the budget."""
    bounds = _bounds(problem, price, budget)
    usable = [np.flatnonzero(r <= budget - dual) for r in problem.regrets(price)]
    states = _States(
        np.zeros(1), np.zeros((1, len(price))), np.full((1, len(problem.groups)), -1, np.int32)
    )
    number = 0
    for index, row in enumerate(problem.rows):
        finished = []
        for passed in range(len(row.groups) + 1):
            if np.isfinite(row.depth_costs[passed]):
                cost = states.cost + row.depth_costs[passed]
                ok = np.flatnonzero(bounds.keeps(cost, states.loads, index + 1, 0))
                finished.append(_States(cost[ok], states.loads[ok], states.trail[ok]))
            if passed < len(row.groups):
                items = usable[number + passed]
                group = row.groups[passed]
                states = _extend(bounds, states, group, items, index, passed, number + passed)
                if len(states.cost) > most_states:
                    raise _TooManyError
        states = _merge(problem, _concat(finished))
        number += len(row.groups)
        if not len(states.cost):
            return None
    loads = states.loads
    inside = np.flatnonzero(((loads >= problem.low) & (loads <= problem.high)).all(axis=1))
    if not len(inside):
        return None
    states = states.at(inside)
    best = int(states.cost.argmin())
    return Found(float(states.cost[best]), states.loads[best], _items(problem, states.trail[best]))


def _extend(
    bounds: _Bounds,
    states: _States,
    group: Group,
    items: np.ndarray,
    row: int,
    passed: int,
    number: int,
) -> _States:
    if not len(states.cost) or not len(items):
        return states.at(np.zeros(0, int))
    parts = []
    step = max(1, CHUNK // len(states.cost))
    for first in range(0, len(items), step):
        some = items[first : first + step]
        cost = (states.cost[:, None] + group.costs[some]).ravel()
        loads = (states.loads[:, None] + group.loads[some]).reshape(len(cost), -1)
        ok = np.flatnonzero(bounds.keeps(cost, loads, row, passed + 1))
        parent, item = np.divmod(ok, len(some))
        trail = states.trail[parent]
        trail[:, number] = some[item]
        parts.append(_States(cost[ok], loads[ok], trail))
        if len(parts) > 1 and sum(len(p.cost) for p in parts) > CHUNK:
            parts = [_merge(bounds.problem, _concat(parts))]
    return _merge(bounds.problem, _concat(parts))


def _concat(parts: list[_States]) -> _States:
    if len(parts) == 1:
        return parts[0]
    return _States(
        np.concatenate([p.cost for p in parts]),
        np.concatenate([p.loads for p in parts]),
        np.concatenate([p.trail for p in parts]),
    )


def _merge(problem: _Problem, states: _States) -> _States:
    """Drop states that others make useless, in an order that depends on values alone."""
    if len(states.cost) < 2:
        return states
    if len(problem.low) == 1 and not (np.isfinite(problem.low[0]) and np.isfinite(problem.high[0])):
        load = states.loads[:, 0] if np.isfinite(problem.high[0]) else -states.loads[:, 0]
        order = np.lexsort((states.cost, load))
        cost = states.cost[order]
        before = np.minimum.accumulate(cost)
        first = np.ones(len(order), bool)
        first[1:] = cost[1:] < before[:-1]
        return states.at(order[first])
    exact = problem.resolution <= 0
    keys = np.where(exact, states.loads, states.loads / np.where(exact, 1.0, problem.resolution))
    keys = np.where(exact, keys, np.floor(keys))
    order = np.lexsort((states.cost, *keys.T))
    keys = keys[order]
    first = np.ones(len(order), bool)
    first[1:] = (keys[1:] != keys[:-1]).any(axis=1)
    return states.at(order[first])


def _items(problem: _Problem, trail: np.ndarray) -> tuple[tuple[int, ...], ...]:
    rows, first = [], 0
    for row in problem.rows:
        part = trail[first : first + len(row.groups)]
        rows.append(tuple(int(item) for item in part if item >= 0))
        first += len(row.groups)
    return tuple(rows)
