"""The width probe, on simulated devices of every quantum, quiet and busy."""

from __future__ import annotations

import math
import random

import pytest

from profilers.measure.timing import measure
from profilers.onboard.rounds import Rounds
from profilers.tables.quantum import PROBED, WIDTHS, find_quantum, probe_quantum
from tests.support.simulated_device import Machine, Model
from tfnas.space.ops import OpSpec

pytestmark = pytest.mark.slow


def pads(quantum: int, width: int) -> float:
    """Channels are computed in groups."""
    return 0.01 + 0.0009 * quantum * math.ceil(width / quantum)


def leaves_the_fast_path(quantum: int, width: int) -> float:
    """As x86: off the multiple, another kernel runs; half a group more costs like a full one."""
    return (0.01 + 0.0009 * width) * (1.0 if width % quantum == 0 else 2.4)


@pytest.mark.parametrize("load", [0.0, 0.4])
@pytest.mark.parametrize("cost", [pads, leaves_the_fast_path])
@pytest.mark.parametrize("quantum", [1, 4, 8, 16, 32])
def test_quantum_is_found(quantum: int, cost, load: float) -> None:  # type: ignore[no-untyped-def]
    for seed in range(2):
        machine = Machine(load=load, jitter=0.02 if load else 0.002, seed=seed)
        rounds = Rounds(Model("reference", 0.3, machine), random.Random(seed), machine.now)

        def on_device(ops: list[OpSpec]) -> list[tuple[float, float]]:
            models = [Model(str(op), cost(quantum, op.c_mid), machine) for op in ops]  # noqa: B023
            results = measure(models, rounds, precision=0.004, max_seconds=8)  # noqa: B023
            return [(r.median_ms, r.spread_ms) for r in results]

        found = probe_quantum(on_device)
        assert found.quantum == quantum, str(found)
        assert [width for width, _ in found.evidence] == list(WIDTHS)


def test_noise_alone_is_no_quantum() -> None:
    rng = random.Random(0)
    for _ in range(50):
        points = {w: (0.1 * rng.gauss(1, 0.02), 0.1 * 0.04) for w in WIDTHS}
        assert find_quantum(points).quantum == 1


def test_a_likely_slow_path_is_avoided() -> None:
    """Where the machine is too busy to be sure, the coarser quantum is the safe one."""
    points = {w: (leaves_the_fast_path(8, w), 0.5 * leaves_the_fast_path(8, w)) for w in WIDTHS}
    assert find_quantum(points).quantum == 8


def test_probe_never_meets_a_block_without_expansion() -> None:
    assert PROBED.c_in not in WIDTHS
