"""The closed loop, on a simulated device whose nets differ from what the table says."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from profilers.closed_loop import close_loop
from tests.simulated_device import Machine, SimulatedProfiler
from tests.spaces import load_space
from tfnas.table import LatencyTable, Measurement


@pytest.fixture(autouse=True)
def own_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    yield
    tempfile.tempdir = None


@pytest.mark.parametrize("seed", range(3))
def test_target_is_met_though_the_table_is_off(seed: int) -> None:
    machine = Machine(load=0.3, jitter=0.02, seed=seed)
    profiler = SimulatedProfiler(machine, whole=1.04, net_error=0.02)
    space = load_space("tfnas", quantum=16)
    rows = {op: Measurement(profiler.op_ms(op), 0.0, 30) for op in space.ops()}
    table = LatencyTable(profiler.device, rows)
    subnet = space.sample(random.Random(seed))
    target = table.subnet_ms(subnet)
    said: list[str] = []
    result = close_loop(
        profiler, space, table, subnet, target,
        tolerance=0.01, max_minutes=2, seed=seed, progress=said.append, now=machine.now,
    )  # fmt: skip
    assert machine.seconds < 150
    assert result.subnet in space
    assert profiler.latency_ms(result.subnet.ops) == pytest.approx(target, rel=0.02)
    assert result.table_ms == table.subnet_ms(result.subnet)
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
