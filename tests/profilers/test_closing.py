"""Closing on several devices at once, on simulated ones that differ from what their tables say."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from profilers.tables.closing import CHECK, SHARES, close_all, most_minutes
from tests.support.simulated_device import DEVICE, Machine, SimulatedProfiler, plain_ms
from tests.support.spaces import load_space
from tfnas.derive.architecture import Architecture, Constraint
from tfnas.derive.methods import derive_constrained
from tfnas.latency.table import LatencyTable, Measurement
from tfnas.space.ops import OpSpec

SPACE = load_space("tfnas", quantum=16)
TOLERANCE = 0.01


def slow_se_ms(op: OpSpec) -> float:
    return plain_ms(op) * (4 if op.c_se else 2)


def table_of(profiler: SimulatedProfiler) -> LatencyTable:
    """What the device tells of single blocks."""
    rows = {op: Measurement(profiler.op_ms(op), 0.0, 30) for op in SPACE.ops()}
    return LatencyTable(profiler.device, rows)


@pytest.mark.slow
@pytest.mark.parametrize("at_most", [False, True])
def test_all_devices_are_met_as_they_measure(at_most: bool) -> None:
    seed = 0
    machine = Machine(load=0.2, jitter=0.02, seed=seed)
    first = SimulatedProfiler(machine, whole=1.03, net_error=0.01)
    device = replace(DEVICE, name="other", fingerprint="cccccc-dddddd")
    other = SimulatedProfiler(machine, slow_se_ms, whole=1.05, net_error=0.01, device=device)
    subnet, table = SPACE.sample(random.Random(seed)), table_of(first)
    target_ms, wanted = table.total(subnet), table_of(other).total(subnet)
    constraint = Constraint(table_of(other), wanted, at_most)
    ended = close_all(
        first, SPACE, table, subnet, target_ms,
        tolerance=TOLERANCE, max_minutes=2, seed=seed, beside=[constraint], at_hand={0: other},
        anew=lambda wanted: derive_constrained(SPACE, Architecture.initial(SPACE), wanted).subnet,
        progress=lambda _: None, now=machine.now,
    )  # fmt: skip
    assert machine.seconds < 60 * most_minutes(2, others=1) * 1.1
    assert first.latency_ms(ended.subnet.ops) == pytest.approx(target_ms, rel=2 * TOLERANCE)
    there_ms = other.latency_ms(ended.subnet.ops)
    assert there_ms < wanted * (1 + 2 * TOLERANCE)
    assert at_most or there_ms > wanted * (1 - 2 * TOLERANCE)
    assert ended.table_ms == table.total(ended.subnet)


def test_alone_it_is_the_loop_of_the_first_device() -> None:
    machine = Machine()
    profiler = SimulatedProfiler(machine, whole=1.02)
    subnet, table = SPACE.sample(random.Random(0)), table_of(profiler)
    target_ms = profiler.latency_ms(subnet.ops)
    ended = close_all(
        profiler, SPACE, table, subnet, target_ms,
        tolerance=TOLERANCE, max_minutes=1, seed=0, progress=lambda _: None, now=machine.now,
    )  # fmt: skip
    assert ended.subnet == subnet
    assert len(ended.trail) == 1
    assert most_minutes(2, others=0) == 2
    assert most_minutes(2, others=1) == 2 * (sum(SHARES) + len(SHARES) * CHECK)


def test_what_is_known_of_the_table_saves_a_step() -> None:
    machine = Machine()
    profiler = SimulatedProfiler(machine, whole=1.05)
    subnet, table = SPACE.sample(random.Random(0)), table_of(profiler)
    steps = [
        len(
            close_all(
                profiler, SPACE, table, subnet, table.total(subnet),
                tolerance=TOLERANCE, off=off, max_minutes=1, seed=0, progress=lambda _: None,
                now=machine.now,
            ).trail
        )
        for off in (1.0, 1.05)
    ]  # fmt: skip
    assert steps == [2, 1]
