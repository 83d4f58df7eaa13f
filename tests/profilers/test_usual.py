"""The machine's usual speed, from the sessions before."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from profilers.measure.bench import ANCHORS, Bench
from profilers.measure.timing import FEWEST_SESSIONS, UNUSUAL, Samples, Unit, Usual, at_usual_speed
from profilers.measure.usual import SESSIONS, History
from tests.support.simulated_device import DEVICE, Machine, SimulatedProfiler
from tests.support.spaces import load_space


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))


def measured_ms(speed: float, seed: int) -> float:
    """A net as a session reads it in which everything takes `speed` times its time."""
    machine = Machine(jitter=0.01, seed=seed)
    profiler = SimulatedProfiler(machine, op_ms=lambda op: speed * (0.01 + op.macs / 2e7))
    net = load_space().sample(random.Random(0))
    with Bench(profiler, seed, lambda _: None, now=machine.now) as bench:
        (found,) = bench.measure(
            [bench.workload(net.ops)], precision=1e-9, max_seconds=20, own_anchors=(0,),
            absolute=True,
        )  # fmt: skip
    return found.median_ms


@pytest.mark.slow
def test_sessions_of_differing_speed_read_the_same_once_the_usual_is_known() -> None:
    rng = random.Random(3)
    speeds = [1 + rng.uniform(-0.01, 0.01) for _ in range(16)]
    read = [measured_ms(speed, seed) for seed, speed in enumerate(speeds)]
    alone, settled = np.array(read[:FEWEST_SESSIONS]), np.array(read[8:])
    assert np.corrcoef(alone, speeds[:FEWEST_SESSIONS])[0, 1] > 0.9  # nothing is known yet
    spread = float(np.std(settled) / np.mean(settled))
    assert spread < 0.5 * float(np.std(speeds[8:]))
    assert np.mean(settled) / np.mean(read) == pytest.approx(1, abs=0.006)


def test_a_session_far_from_the_usual_stands_for_itself_and_says_so() -> None:
    for seed in range(FEWEST_SESSIONS):
        measured_ms(1.0, seed)
    usual = measured_ms(1.0, 5)
    assert measured_ms(1.3, 6) == pytest.approx(1.3 * usual, rel=0.01)
    unit = Unit(1.0, 0.001, 0.002)
    slow = at_usual_speed(unit, [samples(1.1)], Usual((1.0,), 0.001, 9))
    assert slow.ms == 1.0
    assert slow.unusual == pytest.approx(0.1)
    near = at_usual_speed(unit, [samples(1 + UNUSUAL / 2)], Usual((1.0,), 0.0005, 9))
    assert near.unusual is None
    assert near.ms == pytest.approx(1 / (1 + UNUSUAL / 2))
    assert near.half_width == pytest.approx(np.hypot(0.001, 0.0005))
    assert (near.factor, near.sessions) == (pytest.approx(near.ms), 9)
    steady = at_usual_speed(unit, [samples(1.03)], Usual((1.0,), 0.0005, 9, spread=0.002))
    assert steady.unusual == pytest.approx(0.03)  # its sessions never differed by so much
    assert (steady.ms, steady.factor, steady.sessions) == (1.0, 1.0, 0)
    assert at_usual_speed(unit, [samples(1.0)], None) == unit
    assert at_usual_speed(unit, [], Usual((), 0.0, 9)) == unit


def samples(ms: float) -> Samples:
    return Samples(np.ones(20), np.full(20, ms), np.full(20, ms))


def test_sessions_are_kept_and_a_busy_one_moves_nothing() -> None:
    history = History.of(DEVICE, ANCHORS)
    assert history.usual is None
    for index in range(SESSIONS + 5):
        slow = 2.0 if index % 10 == 9 else 1 + 0.002 * (index % 3)
        history.note([slow * ms for ms in (1.0, 2.0, 3.0, 4.0, 5.0)])
        history = History.of(DEVICE, ANCHORS)
    assert len(history.sessions) == SESSIONS
    assert history.usual is not None
    assert history.usual.anchors_ms == pytest.approx((1.0, 2.0, 3.0, 4.0, 5.0), rel=0.005)
    assert history.usual.half_width < 0.005
    other = replace(DEVICE, fingerprint="cccccc-dddddd")
    assert History.of(other, ANCHORS).usual is None
    assert History.of(DEVICE, ANCHORS[:4]).usual is None


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "{}", '{"format": "tfnas.usual/1", "sessions": [[1.0]]}',
     '{"format": "tfnas.usual/1", "sessions": [[1.0, 2.0, 3.0, 4.0, -5.0]]}',
     '{"format": "tfnas.usual/1", "sessions": [[1.0, 2.0, 3.0, 4.0, true]]}',
     '{"format": "x", "sessions": []}', "\\u0000", "[" * 10_000],
)  # fmt: skip
def test_a_damaged_file_is_left_out_with_a_warning(
    text: str, caplog: pytest.LogCaptureFixture
) -> None:
    history = History.of(DEVICE, ANCHORS)
    history.path.parent.mkdir(parents=True, exist_ok=True)
    history.path.write_text(text)
    assert History.of(DEVICE, ANCHORS).sessions == ()
    assert "it is left out" in caplog.text


def test_too_short_a_session_is_not_noted() -> None:
    machine = Machine()
    with Bench(SimulatedProfiler(machine), 0, lambda _: None, now=machine.now) as bench:
        bench.measure([bench.workload(ANCHORS[0])], precision=1e-9, max_seconds=0, own_anchors=(0,))
    assert History.of(DEVICE, ANCHORS).sessions == ()


@pytest.mark.parametrize(("share", "noted"), [(1.0, 1), (0.25, 0)])
def test_a_session_that_shared_its_processor_is_not_noted(share: float, noted: int) -> None:
    """As under a CPU quota: the estimate's clock stands still while others run."""
    machine = Machine(share=share, jitter=0.01)
    net = load_space().sample(random.Random(0))
    with Bench(SimulatedProfiler(machine), 0, lambda _: None, now=machine.now) as bench:
        (found,) = bench.measure(
            [bench.workload(net.ops)], precision=1e-9, max_seconds=20 / share, own_anchors=(0,),
            absolute=True,
        )  # fmt: skip
    assert len(History.of(DEVICE, ANCHORS).sessions) == noted
    assert found.noisy is not None
    doubted = "by the wall clock a run takes 4.0" in found.noisy
    assert doubted == (share < 1)
