"""The estimator, on simulated devices with known latencies."""

from __future__ import annotations

import random
from itertools import pairwise

import numpy as np
import pytest

from profilers.measure.timing import MIN_ROUNDS, Anchors, Measured, Samples, measure, unit_of
from profilers.onboard.rounds import BURST_MS, Rounds, Target, runs_for
from tests.support.simulated_device import Machine, Model

REFERENCE_MS = 0.3
ANCHORS_MS = (2.1, 4.0, 3.0)


def run(
    machine: Machine,
    latencies_ms: tuple[float, ...],
    *,
    precision: float = 0.004,
    seconds: float = 20,
) -> list[Measured]:
    rounds = Rounds(Model("reference", REFERENCE_MS, machine), random.Random(1), machine.now)
    return measure(
        [Model(f"{ms} ms", ms, machine) for ms in latencies_ms],
        rounds,
        precision=precision,
        max_seconds=seconds,
        anchors=Anchors([Model("anchor", ms, machine) for ms in ANCHORS_MS]),
    )


def busy(seed: int = 0) -> Machine:
    return Machine(load=0.4, jitter=0.02, seed=seed)


def test_quiet_machine_is_exact() -> None:
    for ms, measured in zip((0.012, 0.5, 8.0), run(Machine(), (0.012, 0.5, 8.0)), strict=True):
        assert measured.median_ms == pytest.approx(ms, rel=1e-6)
        assert measured.noisy is None


@pytest.mark.parametrize("seed", range(4))
def test_busy_machine_is_near(seed: int) -> None:
    latencies = (0.05, 0.5, 8.0)
    for ms, measured in zip(latencies, run(busy(seed), latencies, seconds=40), strict=True):
        assert measured.median_ms == pytest.approx(ms, rel=0.015)
        assert measured.raw_median_ms > 1.02 * ms  # what a plain median would have said


def test_intervals_hold_the_truth() -> None:
    inside = 0
    for seed in range(20):
        measured = run(busy(seed), (3.3,), seconds=6)[0]
        # Relative to an anchor: what the interval without the absolute scale's claims.
        unit = run(busy(seed + 100), (3.3,), seconds=60)[0].median_ms
        inside += abs(measured.median_ms / unit - 1) <= measured.half_width_pct / 100
    assert inside >= 17


def test_drift_does_not_look_like_a_width() -> None:
    machine = Machine(jitter=0.01, drift_per_s=0.02)
    a, b = run(machine, (1.0, 1.0), seconds=20)
    assert a.median_ms == pytest.approx(b.median_ms, rel=0.01)


def test_stops_at_the_precision() -> None:
    quiet, noisy = Machine(jitter=0.002), busy()
    run(quiet, (1.0,), precision=0.005, seconds=100)
    assert quiet.seconds < 10
    measured = run(noisy, (1.0,), precision=1e-5, seconds=5)[0]
    assert 5 <= noisy.seconds < 7
    assert measured.noisy is not None
    assert "±" in measured.noisy


def test_some_rounds_are_taken_whatever_the_time() -> None:
    assert run(Machine(), (50.0,), seconds=0)[0].samples == MIN_ROUNDS


def test_precise_workloads_leave_the_rounds() -> None:
    machine = busy()
    rough = Model("rough", 1.0, Machine(jitter=1.0))
    rounds = Rounds(Model("reference", REFERENCE_MS, machine), random.Random(1), machine.now)
    exact = Model("exact", 1.0, machine)
    measure([exact, rough], rounds, precision=0.02, max_seconds=5)
    assert exact.bursts < rough.bursts


def test_samples_pool() -> None:
    machine = busy()
    rounds = Rounds(Model("reference", REFERENCE_MS, machine), random.Random(1), machine.now)
    model = Model("m", 2.0, machine)
    anchors = Anchors([Model("a", ms, machine) for ms in ANCHORS_MS])
    results: list[Measured] = []
    for _ in range(3):
        results += measure(
            [model], rounds, precision=1e-6, max_seconds=2, anchors=anchors,
            pooled=[results[-1].pool] if results else None,
        )  # fmt: skip
    counts = [r.samples for r in results]
    assert counts == sorted(set(counts))
    assert len(anchors.samples[0]) == counts[-1]
    assert results[-1].spread_ms < results[0].spread_ms


def test_small_ops_fill_a_sample() -> None:
    assert runs_for(Model("small", 0.01, Machine())) == pytest.approx(BURST_MS / 0.01, abs=1)
    assert runs_for(Model("large", 30, Machine())) == 1


def test_order_is_shuffled() -> None:
    order: list[str] = []

    class Noted(Model):
        def burst(self, runs: int):  # type: ignore[no-untyped-def]
            order.append(self.name)
            return super().burst(runs)

    machine = Machine()
    rounds = Rounds(Model("reference", 1.0, machine), random.Random(1), machine.now)
    names = "abcdef"
    targets = [Target(Noted(n, 1.0, machine), 1.0, []) for n in names]
    rounds.take(targets)  # the first time, how many runs fill a sample is measured besides
    order.clear()
    for _ in range(3):
        rounds.take(targets)
    passes = ["".join(order[i : i + 6]) for i in (0, 6, 12)]
    assert all(sorted(p) == list(names) for p in passes)
    assert len(set(passes)) > 1


def test_interval_is_taken_across_rounds() -> None:
    """Samples of one moment share its noise: a walk is known worse than its steps say."""
    rng = np.random.default_rng(0)
    walk = 1 + np.repeat(rng.normal(0, 0.02, 16), 50) + rng.normal(0, 0.001, 800)
    shuffled = rng.permutation(walk)
    ones = np.ones(800)
    assert Samples(walk, ones, ones).half_width() > 2 * Samples(shuffled, ones, ones).half_width()


def test_anchors_that_disagree_widen_the_interval() -> None:
    def anchor(ms: float) -> Samples:
        return Samples(np.ones(50), np.full(50, ms), np.full(50, ms))

    assert unit_of([anchor(1.0), anchor(1.0), anchor(1.0)]).half_width == 0
    assert unit_of([anchor(0.97), anchor(1.0), anchor(1.03)]).half_width > 0.03
    assert unit_of([anchor(1.0)]).half_width == float("inf")


def test_progress_is_never_silent() -> None:
    machine, said = busy(), []
    rounds = Rounds(Model("reference", REFERENCE_MS, machine), random.Random(1), machine.now)
    measure(
        [Model("m", 1.0, machine)], rounds, precision=1e-6, max_seconds=30,
        progress=lambda line: said.append((machine.seconds, line)),
    )  # fmt: skip
    times = [t for t, _ in said]
    assert max(b - a for a, b in pairwise(times)) <= 5
    assert "left" in said[-1][1]
