"""The closed loop, on a simulated device whose nets differ from what the table says."""

from __future__ import annotations

import random

import numpy as np
import pytest

from profilers.measure.timing import Measured
from profilers.tables.closed_loop import close_loop, settled
from tests.support.simulated_device import Machine, SimulatedProfiler
from tests.support.spaces import load_space
from tfnas.latency.table import LatencyTable, Measurement
from tfnas.space.subnet import Subnet

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("seed", range(3))
def test_target_is_met_though_the_table_is_off(seed: int) -> None:
    machine = Machine(load=0.3, jitter=0.02, seed=seed)
    profiler = SimulatedProfiler(machine, whole=1.04, net_error=0.02)
    space = load_space("tfnas", quantum=16)
    rows = {op: Measurement(profiler.op_ms(op), 0.0, 30) for op in space.ops()}
    table = LatencyTable(profiler.device, rows)
    subnet = space.sample(random.Random(seed))
    target = table.total(subnet)
    said: list[str] = []
    result = close_loop(
        profiler, space, table, subnet, target,
        tolerance=0.01, max_minutes=2, seed=seed, progress=said.append, now=machine.now,
    )  # fmt: skip
    assert machine.seconds < 150
    assert result.subnet in space
    assert profiler.latency_ms(result.subnet.ops) == pytest.approx(target, rel=0.02)
    assert result.table_ms == table.total(result.subnet)
    assert len(result.trail_json()) == len(result.trail)
    assert said


def test_a_net_on_target_stays() -> None:
    machine = Machine()
    profiler = SimulatedProfiler(machine)
    space = load_space()
    rows = {op: Measurement(profiler.op_ms(op), 0.0, 30) for op in space.ops()}
    subnet = space.sample(random.Random(0))
    target = profiler.latency_ms(subnet.ops)
    result = close_loop(
        profiler, space, LatencyTable(profiler.device, rows), subnet, target,
        tolerance=0.01, max_minutes=1, seed=0, progress=lambda _: None, now=machine.now,
    )  # fmt: skip
    assert result.subnet == subnet
    assert result.within
    assert len(result.trail) == 1


def measured(ms: float, half_width: float) -> Measured:
    half = ms * half_width
    return Measured(ms, (ms - half, ms + half), half, ms, ms, 100, None)


def family(count: int) -> tuple[LatencyTable, list[Subnet]]:
    """A table and nets of it."""
    space = load_space()
    profiler = SimulatedProfiler(Machine())
    rows = {op: Measurement(profiler.op_ms(op), 0.0, 30) for op in space.ops()}
    rng = random.Random(0)
    return LatencyTable(profiler.device, rows), [space.sample(rng) for _ in range(count)]


def test_what_all_nets_have_in_common_is_believed_of_each() -> None:
    table, nets = family(5)
    rng = random.Random(1)
    errors = []
    for _ in range(200):
        noise = [rng.gauss(0, 0.01) for _ in nets]
        known = {
            net: measured(1.05 * table.total(net) * (1 + e), 1.96 * 0.01)
            for net, e in zip(nets, noise, strict=True)
        }
        told = settled(known, table)
        for net, own in zip(nets, noise, strict=True):
            off = told[net].median_ms / (1.05 * table.total(net)) - 1
            errors.append((abs(off), abs(own)))
            assert told[net].spread_ms < known[net].spread_ms
    pooled, alone = np.mean(errors, axis=0)
    assert pooled < 0.7 * alone


def test_nets_that_differ_from_the_table_are_believed_themselves() -> None:
    table, nets = family(6)
    factors = [1.0, 1.1, 0.9, 1.06, 0.95, 1.02]
    known = {
        net: measured(f * table.total(net), 0.004) for net, f in zip(nets, factors, strict=True)
    }
    for net, found in settled(known, table).items():
        assert found.median_ms == pytest.approx(known[net].median_ms, rel=0.002)


def test_a_single_net_is_what_it_was_measured() -> None:
    table, (net,) = family(1)
    known = {net: measured(2.0, 0.01)}
    (found,) = settled(known, table).values()
    assert found.median_ms == pytest.approx(2.0)
    assert found.half_width_pct == pytest.approx(1.0, rel=0.01)
    unknown = {net: measured(2.0, float("inf"))}
    assert settled(unknown, table) == unknown
