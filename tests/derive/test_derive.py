"""Derivation: the solver against brute force, the greedy scaling against a plain re-implementation.

What needs the published table reads its path from TFNAS_REFERENCE_TABLE.
"""

from __future__ import annotations

import itertools
import math
import os
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.spaces import load_space, macs_table
from tfnas.costs.contract import Cost
from tfnas.costs.counts import Macs, Params, WeightsMb
from tfnas.costs.memory import MemoryMb
from tfnas.derive.architecture import Architecture, Constraint, argmax
from tfnas.derive.menu import feasible
from tfnas.derive.methods import derive_constrained, derive_greedy, draw_constrained
from tfnas.derive.nearby import nearby
from tfnas.derive.scaling import scale_widths
from tfnas.derive.solver import Group, Row, cheapest, load_ranges
from tfnas.latency import importers
from tfnas.latency.table import Device, LatencyTable, Measurement
from tfnas.space.ops import OpSpec
from tfnas.space.search_space import SearchSpace
from tfnas.space.spec import ExpansionSpec, LayerSpec, SpaceSpec, StageSpec
from tfnas.space.subnet import Subnet

REFERENCE = os.environ.get("TFNAS_REFERENCE_TABLE")
needs_reference = pytest.mark.skipif(
    not REFERENCE, reason="TFNAS_REFERENCE_TABLE doesn't name the published latency_gpu.pkl"
)


def small_space(quantum: int = 8) -> SearchSpace:
    """Two stages, three blocks, two ops, few widths: small enough to enumerate."""
    spec = SpaceSpec(
        name="small",
        resolution=16,
        in_channels=3,
        classes=4,
        stem=[LayerSpec("conv", c_out=8, kernel=3, stride=2, act="relu")],
        kernels=[3],
        expansions=[ExpansionSpec(3, 2, 4, 1)],
        squeeze_excite=[False, True],
        stages=[StageSpec(8, depth=2), StageSpec(16, stride=2)],
        head=[LayerSpec("conv", c_out=16), LayerSpec("classifier")],
    )
    return spec.build(quantum)


def random_table(space: SearchSpace, seed: int) -> LatencyTable:
    rng = random.Random(seed)
    device = Device("cpu", "made up", "none", "fp32", 1, 1, "made-up", {}, space.quantum)
    rows = {op: Measurement(rng.uniform(0.2, 2.0), math.nan, 1) for op in space.ops()}
    return LatencyTable(device, rows)


def random_arch(space: SearchSpace, seed: int) -> Architecture:
    rng = np.random.default_rng(seed)

    def log_softmax(n: int) -> np.ndarray:
        logits = rng.normal(size=n)
        return logits - np.log(np.exp(logits).sum())

    return Architecture(
        tuple(log_softmax(len(block)) for block in space.blocks),
        tuple(log_softmax(len(stage.depths)) for stage in space.stages),
        Architecture.initial(space).widths,
    )


def every_net(space: SearchSpace) -> list[tuple[Subnet, tuple[int, ...], tuple[int, ...]]]:
    """All subnets with their depths and their ops (-1 for cut blocks)."""
    nets = []
    for depths in itertools.product(*(stage.depths for stage in space.stages)):
        kept = set()
        first = 0
        for stage, depth in zip(space.stages, depths, strict=True):
            kept |= set(range(first, first + depth))
            first += len(stage.blocks)
        options = [
            [(p, w) for p, c in enumerate(block) for w in c.widths] if b in kept else [(-1, 0)]
            for b, block in enumerate(space.blocks)
        ]
        for choice in itertools.product(*options):
            picks, widths = zip(*choice, strict=True)
            nets.append((space.subnet(depths, picks, widths), depths, picks))
    return nets


def given_up(space: SearchSpace, arch: Architecture, depths, picks) -> float:
    ops = sum(a.max() - a[p] for a, p in zip(arch.alphas, picks, strict=True) if p >= 0)
    stages = zip(space.stages, arch.betas, depths, strict=True)
    return ops + sum(b.max() - b[d - s.min_depth] for s, b, d in stages)


# --- the solver ----------------------------------------------------------------------------------


@st.composite
def problems(draw):
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    m = draw(st.integers(1, 2))
    grid = draw(st.booleans())  # ties, and loads that sum to equal values
    rows = []
    for _ in range(draw(st.integers(1, 3))):
        groups = []
        for _ in range(draw(st.integers(1, 2))):
            n = int(rng.integers(1, 4))
            costs, loads = rng.normal(size=n), rng.normal(size=(n, m)) + 1
            if grid:
                costs, loads = costs.round(), loads.round()
            groups.append(Group(costs, loads))
        depth_costs = rng.normal(size=len(groups) + 1).round(1)
        depth_costs[0] = np.inf
        if len(groups) > 1 and rng.random() < 0.3:
            depth_costs[1] = np.inf
        rows.append(Row(tuple(groups), depth_costs))
    center, half = rng.normal(size=m) + len(rows), rng.uniform(0.05, 2)
    low, high = center - half, center + half
    side = draw(st.sampled_from(["both", "low", "high"]))
    if side != "both":
        low = low if side == "low" else np.full(m, -np.inf)
        high = high if side == "high" else np.full(m, np.inf)
    return rows, low, high


def every_choice(rows):
    per_row = []
    for row in rows:
        options = []
        for depth in range(1, len(row.groups) + 1):
            if np.isfinite(row.depth_costs[depth]):
                for items in itertools.product(*(range(len(g.costs)) for g in row.groups[:depth])):
                    pairs = list(zip(row.groups, items, strict=False))
                    cost = row.depth_costs[depth] + sum(g.costs[i] for g, i in pairs)
                    options.append((cost, sum(g.loads[i] for g, i in pairs), items))
        per_row.append(options)
    for combo in itertools.product(*per_row):
        yield sum(c for c, _, _ in combo), sum(load for _, load, _ in combo), combo


@pytest.mark.slow
@given(problems())
@settings(max_examples=300, deadline=None, derandomize=True)
def test_solver_finds_the_cheapest_choice(problem):
    rows, low, high = problem
    found = cheapest(rows, low, high, np.zeros(len(low)))
    costs, loads, _ = zip(*every_choice(rows), strict=True)
    fits = [
        c for c, load in zip(costs, loads, strict=True) if ((low <= load) & (load <= high)).all()
    ]
    assert (found is None) == (not fits)
    if found is not None:
        assert found.cost == pytest.approx(min(fits), abs=1e-9)
        again = [c for c in every_choice(rows) if tuple(i for _, _, i in c[2]) == found.items]
        assert again[0][0] == pytest.approx(found.cost, abs=1e-9)
        np.testing.assert_allclose(again[0][1], found.loads)
    least, most = load_ranges(rows)
    np.testing.assert_allclose(least, np.min(loads, axis=0))
    np.testing.assert_allclose(most, np.max(loads, axis=0))


@pytest.mark.slow
@given(problems(), st.floats(1e-3, 0.3))
@settings(max_examples=200, deadline=None, derandomize=True)
def test_solver_keeps_its_error_bound(problem, resolution):
    rows, low, high = problem
    found = cheapest(rows, low, high, np.full(len(low), resolution))
    bound = resolution * sum(len(row.groups) for row in rows)
    fits = [
        cost
        for cost, load, _ in every_choice(rows)
        if ((low + bound <= load) & (load <= high - bound)).all()
    ]
    if fits:
        assert found is not None
        assert found.cost <= min(fits) + 1e-9
    if found is not None:
        assert ((low <= found.loads) & (found.loads <= high)).all()


# --- derivation under constraints ----------------------------------------------------------------


@pytest.mark.slow
@given(st.integers(0, 10**6), st.floats(0.0, 1.0), st.booleans())
@settings(max_examples=60, deadline=None, derandomize=True)
def test_constrained_derivation_is_the_optimum(seed, share, at_most):
    space = small_space()
    table, arch = random_table(space, seed), random_arch(space, seed)
    nets = every_net(space)
    ms = np.array([table.total(net) for net, _, _ in nets])
    assert feasible(space, table) == (pytest.approx(ms.min()), pytest.approx(ms.max()))
    target_ms = float(ms.min() + share * np.ptp(ms))
    constraint = Constraint(table, target_ms, at_most, tol=0.02)
    met = np.array([constraint.met_by(m) for m in ms])
    if not met.any():
        nearest = ms[abs(ms - target_ms).argmin()]
        with pytest.raises(ValueError, match="nearest reachable target is") as error:
            derive_constrained(space, arch, [constraint])
        told = float(str(error.value).rsplit(" is ", 1)[1].removesuffix(" ms"))
        assert abs(told - target_ms) == pytest.approx(abs(nearest - target_ms), abs=2e-3)
        return
    derived = derive_constrained(space, arch, [constraint])
    assert derived.reached
    assert derived.subnet in space
    assert derived.costs == (table.total(derived.subnet),)
    assert met[[net for net, _, _ in nets].index(derived.subnet)]
    lost = [given_up(space, arch, d, p) for (_, d, p), ok in zip(nets, met, strict=True) if ok]
    assert derived.argmax_log_prob - derived.log_prob <= min(lost) + 1e-7
    # widths: the nearest among those of the same ops and depths
    scaled = scale_widths(
        space, table, derived.depths, derived.picks,
        [w[p] for w, p in zip(arch.widths, derived.picks, strict=True)], target_ms,
    )  # fmt: skip
    scaled_kept = space.subnet(derived.depths, derived.picks, scaled).blocks
    kinds = [(op.c_se, op.kernel) for op in derived.subnet.blocks]

    def distance(net: Subnet) -> float:
        pairs = zip(net.blocks, scaled_kept, strict=True)
        return sum((op.c_mid / wanted.c_mid - 1) ** 2 for op, wanted in pairs)

    same = [
        distance(net)
        for net, depths, _ in nets
        if depths == derived.depths
        and [(op.c_se, op.kernel) for op in net.blocks] == kinds
        and abs(table.total(net) - target_ms) <= 0.018 * target_ms
        and constraint.met_by(table.total(net))
    ]
    if same:
        assert distance(derived.subnet) <= min(same) + 1e-9


@pytest.mark.parametrize("seed", range(10))
def test_a_reachable_argmax_is_kept(seed):
    space = load_space("tiny", quantum=1)
    table, arch = macs_table(space), random_arch(space, seed)
    depths, picks = argmax(space, arch)
    widths = [w[p] for w, p in zip(arch.widths, picks, strict=True)]
    target_ms = table.total(space.subnet(depths, picks, widths)) * 1.01
    derived = derive_constrained(space, arch, [Constraint(table, target_ms)])
    assert (derived.depths, derived.picks) == (depths, picks)
    assert derived.log_prob == derived.argmax_log_prob
    assert derived.given_up(space) == ()
    assert abs(derived.costs[0] / target_ms - 1) <= 5e-4


@pytest.mark.parametrize("seed", range(4))
def test_the_joint_search_agrees(seed, monkeypatch):
    """Two routes to one optimum: choice by choice, and all ops and widths at once."""
    space = load_space("tiny")
    table, arch = macs_table(space), random_arch(space, seed)
    low, high = feasible(space, table)
    constraints = [Constraint(table, low + share * (high - low), tol=0.01) for share in (0.1, 0.7)]
    first = [derive_constrained(space, arch, [c]) for c in constraints]
    monkeypatch.setattr("tfnas.derive.constrained.MAX_CHOICES", 0)
    assert [derive_constrained(space, arch, [c]) for c in constraints] == first


@pytest.mark.slow
def test_draws_follow_the_probabilities() -> None:
    space = small_space()
    arch, table = random_arch(space, 1), random_table(space, 1)
    _, high = feasible(space, table)
    free = [Constraint(table, 2 * high, at_most=True)]
    rng, count = np.random.default_rng(0), 800
    drawn = [draw_constrained(space, arch, free, rng) for _ in range(count)]
    for block, alpha in enumerate(arch.alphas[:1]):  # no depth cuts it off
        seen = np.bincount([d.picks[block] for d in drawn], minlength=len(alpha)) / count
        np.testing.assert_allclose(seen, np.exp(alpha) / np.exp(alpha).sum(), atol=0.06)
    for stage, (beta, spec) in enumerate(zip(arch.betas, space.stages, strict=True)):
        index = [spec.depths.index(d.depths[stage]) for d in drawn]
        seen = np.bincount(index, minlength=len(beta)) / count
        np.testing.assert_allclose(seen, np.exp(beta) / np.exp(beta).sum(), atol=0.06)
    best = derive_constrained(space, arch, free)
    assert max(d.log_prob for d in drawn) == pytest.approx(best.log_prob)
    assert {d.argmax_picks for d in drawn} == {best.picks}


def test_draws_meet_the_target() -> None:
    space = load_space("tiny")
    table = macs_table(space)
    low, high = feasible(space, table)
    constraint = Constraint(table, (low + high) / 2)
    arch = Architecture.initial(space)
    one, two = (
        [draw_constrained(space, arch, [constraint], rng) for _ in range(5)]
        for rng in (np.random.default_rng(0), np.random.default_rng(0))
    )
    assert one == two
    assert all(d.reached and constraint.met_by(d.costs[0]) for d in one)
    assert len({d.subnet for d in one}) > 1


def test_what_was_given_up_is_told():
    space = load_space("tiny", quantum=1)
    table, arch = macs_table(space), random_arch(space, 3)
    low, high = feasible(space, table)
    for target_ms in (low * 1.01, high * 0.99):
        derived = derive_constrained(space, arch, [Constraint(table, target_ms)])
        lines = derived.given_up(space)
        assert any("instead of" in line for line in lines)
        assert "below the argmax" in lines[-1]
        assert derived.log_prob < derived.argmax_log_prob
        assert derived.error_bounds == (pytest.approx(5e-5 * target_ms),)


def test_the_ends_of_the_range_are_reached():
    space = load_space("tiny")
    table, arch = macs_table(space), random_arch(space, 0)
    low, high = feasible(space, table)
    for target_ms in (low, high):
        derived = derive_constrained(space, arch, [Constraint(table, target_ms)])
        assert derived.costs[0] == pytest.approx(target_ms, rel=1e-9)
    fastest = derive_constrained(space, arch, [Constraint(table, low, at_most=True)])
    assert fastest.costs[0] == pytest.approx(low, rel=1e-9)
    assert fastest.error_bounds == (0.0,)


def test_uniform_probabilities_are_no_trouble():
    space = load_space("tiny")
    table, arch = macs_table(space), Architecture.initial(space)
    low, high = feasible(space, table)
    for share in (0.1, 0.5, 0.9):
        target_ms = low + share * (high - low)
        derived = derive_constrained(space, arch, [Constraint(table, target_ms, tol=0.01)])
        assert derived.reached
        assert derived.log_prob == pytest.approx(derived.argmax_log_prob)


def test_same_input_same_result():
    space = load_space("tiny")
    table, arch = macs_table(space), random_arch(space, 5)
    target_ms = sum(feasible(space, table)) / 2
    first, second = (
        derive_constrained(space, arch, [Constraint(table, target_ms)]) for _ in range(2)
    )
    assert first == second


@pytest.mark.parametrize("factor", [0.5, 1.5])
def test_a_target_out_of_reach_is_an_error_with_the_nearest(factor):
    space = load_space("tiny")
    table, arch = macs_table(space), Architecture.initial(space)
    low, high = feasible(space, table)
    target_ms, nearest = (low * factor, low) if factor < 1 else (high * factor, high)
    with pytest.raises(ValueError, match=f"reaches {low:.4g} to {high:.4g} ms") as error:
        derive_constrained(space, arch, [Constraint(table, target_ms)])
    assert f"nearest reachable target is {nearest:.6g} ms" in str(error.value)


@pytest.mark.parametrize("target_ms", [0.0, -1.0, math.inf, math.nan])
def test_an_impossible_target_is_refused(target_ms):
    space = load_space("tiny")
    with pytest.raises(ValueError, match="expected a positive target"):
        derive_constrained(
            space, Architecture.initial(space), [Constraint(macs_table(space), target_ms)]
        )


@pytest.mark.slow
@given(st.integers(0, 10**6), st.booleans())
@settings(max_examples=30, deadline=None, derandomize=True)
def test_two_tables_at_once(seed, at_most):
    space = small_space()
    tables = random_table(space, seed), random_table(space, seed + 1)
    arch = random_arch(space, seed)
    nets = every_net(space)
    goal = nets[random.Random(seed).randrange(len(nets))][0]
    constraints = [
        Constraint(tables[0], tables[0].total(goal), tol=0.02),
        Constraint(tables[1], tables[1].total(goal), at_most, tol=0.05),
    ]
    derived = derive_constrained(space, arch, constraints)
    assert derived.reached
    for constraint, ms in zip(constraints, derived.costs, strict=True):
        assert constraint.met_by(ms)
        assert constraint.table.total(derived.subnet) == ms
    lost = [
        given_up(space, arch, depths, picks)
        for net, depths, picks in nets
        if all(c.met_by(c.table.total(net)) for c in constraints)
    ]
    slack = [0.9, 0.9 if not at_most else 1.0]  # what the error bound leaves of each tolerance
    certain = [
        given_up(space, arch, depths, picks)
        for net, depths, picks in nets
        if all(
            Constraint(c.table, c.target - (1 - s) * c.tol * c.target * c.at_most, c.at_most,
                       c.tol * s).met_by(c.table.total(net))
            for c, s in zip(constraints, slack, strict=True)
        )
    ]  # fmt: skip
    given = derived.argmax_log_prob - derived.log_prob
    assert min(lost) - 1e-7 <= given
    if certain:
        assert given <= min(certain) + 1e-7


@pytest.mark.parametrize("cost", [Macs(4), Params(4), WeightsMb(4)])
@pytest.mark.parametrize("seed", range(4))
def test_limits_cost_no_more_than_they_must(cost: Cost, seed: int) -> None:
    """Beside a latency the limit is kept, by the most probable net that all nets have."""
    space = small_space()
    table, arch, nets = random_table(space, seed), random_arch(space, seed), every_net(space)
    alone = Constraint(table, table.total(nets[seed * 31][0]), tol=0.1)
    free = derive_constrained(space, arch, [alone])
    possible = [cost.total(net) for net, *_ in nets if alone.met_by_net(net)]
    for share in (0.999, 1.0, 1.5):  # of what the net has without a limit
        limit = Constraint(cost, share * cost.total(free.subnet), at_most=True, tol=0.01)
        if min(possible) > limit.target:
            with pytest.raises(ValueError, match="must be") as error:
                derive_constrained(space, arch, [alone, limit])
            needed = float(str(error.value).split(" must be ")[1].split()[0])
            # what the solver tells apart at the edges of the latency may be left out
            assert needed >= min(possible) * (1 - 1e-5)
            raised = replace(limit, target=needed * (1 + 1e-5))
            assert derive_constrained(space, arch, [alone, raised]).reached
            continue
        derived = derive_constrained(space, arch, [alone, limit])
        assert derived.reached
        assert derived.costs == (table.total(derived.subnet), cost.total(derived.subnet))
        lost = derived.argmax_log_prob - derived.log_prob
        inner = replace(alone, tol=0.9 * alone.tol), replace(limit, target=0.999 * limit.target)
        best = [
            given_up(space, arch, depths, picks)
            for net, depths, picks in nets
            if all(constraint.met_by_net(net) for constraint in inner)
        ]
        assert lost <= min(best, default=math.inf) + 1e-7
        if share >= 1:
            assert derived.log_prob == pytest.approx(free.log_prob)


@pytest.mark.parametrize("seed", range(4))
def test_a_maximum_is_kept_by_every_op(seed: int) -> None:
    space = small_space()
    table, arch, nets = random_table(space, seed), random_arch(space, seed), every_net(space)
    alone = Constraint(table, table.total(nets[seed * 31][0]), tol=0.1)
    cost = MemoryMb(4)
    free = derive_constrained(space, arch, [alone])
    possible = sorted({cost.total(net) for net, *_ in nets if alone.met_by_net(net)})
    for most in (possible[0], cost.total(free.subnet)):
        limit = Constraint(cost, most, at_most=True)
        derived = derive_constrained(space, arch, [alone, limit])
        assert derived.reached
        assert derived.costs[1] == max(map(cost.op, derived.subnet.ops)) <= most
        inner = replace(alone, tol=0.9 * alone.tol)
        best = [
            given_up(space, arch, depths, picks)
            for net, depths, picks in nets
            if inner.met_by_net(net) and limit.met_by_net(net)
        ]
        lost = derived.argmax_log_prob - derived.log_prob
        assert lost <= min(best, default=math.inf) + 1e-7
    below = [v for net, *_ in nets if (v := cost.total(net)) < possible[0]]
    if below:  # of nets of another latency
        limit = Constraint(cost, max(below), at_most=True)
        with pytest.raises(ValueError, match=f" must be {possible[0]:.6g} MB"):
            derive_constrained(space, arch, [alone, limit])
    with pytest.raises(ValueError, match=r"limits\.memory_mb=1e-06: space small reaches"):
        derive_constrained(space, arch, [alone, Constraint(cost, 1e-6, at_most=True)])


def test_a_limit_below_every_net_names_the_least() -> None:
    space = load_space("tiny")
    table = macs_table(space)
    low, high = feasible(space, table)
    least, _ = feasible(space, Params(4))
    limit = Constraint(Params(4), least / 2, at_most=True)
    arch = Architecture.initial(space)
    with pytest.raises(ValueError, match=rf"limits.params={least / 2:g}: .* must be "):
        derive_constrained(space, arch, [Constraint(table, (low + high) / 2), limit])


def test_neighbours_keep_to_limits() -> None:
    space = load_space("tiny", quantum=4)
    table = macs_table(space, quantum=4)
    low, high = feasible(space, table)
    net = derive_constrained(
        space, Architecture.initial(space), [Constraint(table, (low + high) / 2)]
    ).subnet
    limit = Constraint(Params(4), net.params, at_most=True)
    target_ms = 1.01 * table.total(net)
    free = nearby(space, table, net, target_ms)
    kept = nearby(space, table, net, target_ms, [limit])
    assert any(n.params > net.params for n in free)
    assert kept
    assert all(n.params <= net.params for n in kept)


def test_two_tables_that_exclude_each_other():
    space = load_space("tiny")
    table = macs_table(space)
    low, high = feasible(space, table)
    arch = Architecture.initial(space)
    both = [Constraint(table, low * 1.05), Constraint(table, high * 0.95)]
    with pytest.raises(ValueError, match="no subnet meets all of them at once"):
        derive_constrained(space, arch, both)


def test_a_table_that_does_not_cover_the_space_is_refused():
    space = load_space("tiny")
    table = macs_table(small_space())
    with pytest.raises(LookupError, match="doesn't cover"):
        derive_greedy(space, Architecture.initial(space), Constraint(table, 1.0))


# --- the published scaling -----------------------------------------------------------------------


def plain_scaling(table, space, depths, picks, widths, target_ms):
    """The published procedure, channel by channel, written without looking at the other one."""
    nested, bounds, b = [], [], 0
    for stage, depth in zip(space.stages, depths, strict=True):
        nested.append([widths[b + i] for i in range(depth)])
        chosen = [stage.blocks[i][picks[b + i]] for i in range(depth)]
        bounds.append([(c.widths[0], c.widths[-1], c) for c in chosen])
        b += len(stage.blocks)

    def latency(net):
        total = table.fixed(space)
        for row, limits in zip(net, bounds, strict=True):
            for width, (_, _, choice) in zip(row, limits, strict=True):
                total += table.ms(choice.at(width))
        return total

    def fit(net, start, sign):
        net = [list(row) for row in net]
        smallest = min(min(row) for row in net[start:])
        steps = [[round(w / smallest) for w in row] for row in net]
        previous = net
        at_bound = False
        while not at_bound and (
            latency(net) >= target_ms if sign < 0 else latency(net) <= target_ms
        ):
            previous, net = net, [list(row) for row in net]
            at_bound = True
            for s in range(start, len(net)):
                for i in range(len(net[s])):
                    low, high, _ = bounds[s][i]
                    net[s][i] = max(low, min(high, net[s][i] + sign * steps[s][i]))
                    at_bound &= net[s][i] in (low, high)
        return net if sign < 0 else previous

    before = latency(nested)
    if before != target_ms:
        nested = fit(nested, 0, -1 if before > target_ms else 1)
        for start in range(1, len(nested)):
            nested = fit(nested, start, 1)
    result, b = list(widths), 0
    for stage, row in zip(space.stages, nested, strict=True):
        result[b : b + len(row)] = row
        b += len(stage.blocks)
    return tuple(result)


@pytest.mark.parametrize("seed", range(20))
def test_scaling_is_the_published_one_on_a_small_space(seed):
    space = load_space("tiny", quantum=1)
    table, rng = macs_table(space), random.Random(seed)
    arch = random_arch(space, seed)
    depths, picks = argmax(space, arch)
    widths = [rng.choice(b[p].widths) for b, p in zip(space.blocks, picks, strict=True)]
    low, high = feasible(space, table)
    target_ms = rng.uniform(0.9 * low, high)
    scaled = scale_widths(space, table, depths, picks, widths, target_ms)
    assert scaled == plain_scaling(table, space, depths, picks, widths, target_ms)


@pytest.mark.parametrize("quantum", [4, 8, 16])
def test_scaling_stays_on_the_grid(quantum):
    space = load_space("tiny", quantum=quantum)
    table = macs_table(space)
    low, high = feasible(space, table)
    for seed in range(5):
        for target_ms in np.linspace(low, high, 4):
            derived = derive_greedy(space, random_arch(space, seed), Constraint(table, target_ms))
            assert derived.subnet in space


def test_scaling_refuses_a_width_off_the_grid():
    space = load_space("tiny")
    depths, picks = argmax(space, Architecture.initial(space))
    widths = [block[0].op.c_mid + 1 for block in space.blocks]
    with pytest.raises(ValueError, match="isn't one of"):
        scale_widths(space, macs_table(space), depths, picks, widths, 1.0)


# --- neighbours for the closed loop --------------------------------------------------------------


@pytest.mark.parametrize("change", [0.98, 0.995, 1.003, 1.02])
def test_nearby_prefers_few_moves_near_the_target(change):
    space = load_space("tiny", quantum=1)
    table = macs_table(space)
    net = space.subnet([2, 2], [0, 1, 2, 3], [block[0].op.c_mid for block in space.blocks])
    target_ms = table.total(net) * change
    found = nearby(space, table, net, target_ms, count=6)
    assert 1 <= len(found) <= 6
    assert len(set(found)) == len(found)
    assert net not in found
    moves = []
    for other in found:
        assert other in space
        assert abs(table.total(other) / target_ms - 1) <= 5e-4
        moves.append(sum(a != b for a, b in zip(net.blocks, other.blocks, strict=True)))
    assert moves == sorted(moves)
    assert moves[-1] <= 3


def test_nearby_changes_ops_where_widths_do_not_reach():
    space = load_space("tiny", quantum=16)
    table = macs_table(space)
    first = space.subnet([1, 1], [0] * 4, [b[0].widths[0] for b in space.blocks])
    goal = space.subnet([1, 1], [3, 0, 0, 0], [b[0].widths[0] for b in space.blocks])
    found = nearby(space, table, first, table.total(goal), count=3)
    assert found[0] == goal


# --- the published table -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def published() -> LatencyTable:
    assert REFERENCE is not None
    return importers.read(Path(REFERENCE), device="Titan RTX", batch=32).table


@needs_reference
def test_range_of_the_published_table(published):
    for quantum in (1, 8):
        low, high = feasible(load_space("tfnas", 1000, quantum), published)
        assert (round(low, 2), round(high, 2)) == (4.09, 27.06)


@needs_reference
@pytest.mark.parametrize("target_ms", [6, 10, 12, 15, 18, 24])
def test_every_start_reaches_its_target_on_the_published_table(published, target_ms):
    space = load_space("tfnas", 1000, 8)
    for seed in range(8):
        arch = random_arch(space, seed)
        derived = derive_constrained(space, arch, [Constraint(published, target_ms)])
        assert abs(derived.costs[0] / target_ms - 1) <= 5e-4
        greedy = derive_greedy(space, arch, Constraint(published, target_ms))
        if greedy.reached:
            assert derived.subnet == greedy.subnet


@needs_reference
@pytest.mark.parametrize("target_ms", [6, 10, 15, 18])
def test_scaling_is_the_published_one_on_the_published_table(published, target_ms):
    space = load_space("tfnas", 1000, 1)
    fast = _Lookup(published, space)
    for seed in range(3):
        arch = random_arch(space, seed)
        depths, picks = argmax(space, arch)
        widths = [w[p] for w, p in zip(arch.widths, picks, strict=True)]
        scaled = scale_widths(space, published, depths, picks, widths, target_ms)
        assert scaled == plain_scaling(fast, space, depths, picks, widths, target_ms)


class _Lookup:
    """A table's values in a dict, since the plain procedure asks for many."""

    def __init__(self, table: LatencyTable, space: SearchSpace) -> None:
        self.table, self.values = table, {}

    def fixed(self, space: SearchSpace) -> float:
        return self.table.fixed(space)

    def ms(self, op: OpSpec) -> float:
        if op not in self.values:
            self.values[op] = self.table.ms(op)
        return self.values[op]


@pytest.mark.parametrize("target", [0.3, 0.6])
@pytest.mark.filterwarnings("error")
def test_blocks_without_a_width_are_derived_too(target: float) -> None:
    """Identity costs nothing; a 1x1 convolution has one width, 0."""
    space = load_space("nas_bench_macro")
    table = macs_table(space)
    low, high = feasible(space, table)
    constraint = Constraint(table, low + target * (high - low), at_most=True)
    derived = derive_constrained(space, Architecture.initial(space), [constraint])
    assert derived.subnet in space
    ms = table.total(derived.subnet)
    assert ms <= constraint.target
    assert any(not op.has_width for op in derived.subnet.blocks)
    nets = nearby(space, table, derived.subnet, constraint.target)
    assert nets
    assert all(net in space for net in nets)
