"""Building and completing tables: on ONNX Runtime with the tiny space, and by simulated devices."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

import profilers
import profilers.measure.bench
import profilers.measure.timing
import profilers.tables.build
from profilers.devices import open_profiler
from profilers.onboard.lock import machine_lock
from profilers.tables.build import (
    ENOUGH_RUNS,
    _is_calibrated,
    build_table,
    extremes_ms,
    is_complete,
    is_enough,
)
from profilers.tables.own import check_own, find_table, same_machine, table_name, table_path
from profilers.tables.plan import (
    calibration_nets,
    calibration_of,
    digest_of,
    extremes,
    held_out_errors,
    net_key,
    plan,
    pooled,
)
from tests.support.entry import REPOSITORY, environment, run_entry
from tests.support.simulated_device import DEVICE, Machine, SimulatedProfiler, plain_ms
from tests.support.spaces import load_space, load_spec, macs_table
from tfnas.latency.table import Calibration, LatencyTable, Measurement
from tfnas.space.ops import OpSpec
from tfnas.space.spec import SpaceSpec
from tfnas.space.subnet import Subnet

pytestmark = pytest.mark.slow

ARGUMENTS = ("space=tiny", "profile=test")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests don't fix a scale: they measure nothing that is kept."""
    small, large = extremes(load_space())
    monkeypatch.setattr(profilers.measure.bench, "ANCHORS", (small.ops, large.ops))
    monkeypatch.setattr(profilers.measure.timing, "NET_BURST_MS", 0.5)
    monkeypatch.setattr(profilers.tables.build, "PROBE_SECONDS", 0.5)
    monkeypatch.setattr(profilers.tables.build, "EXTREMES_SECONDS", 1.0)


def build(path: Path, classes: int = 10, minutes: float = 0.3) -> LatencyTable:
    return build_table(
        open_profiler("cpu"), load_spec("tiny", classes), path,
        max_minutes=minutes, precision=0.5, anchor_nets=2, seed=0, progress=lambda _: None,
    )  # fmt: skip


def test_full_space_takes_few_measurements() -> None:
    for quantum in (8, 16):
        space = load_space("tfnas", quantum=quantum)
        wanted = plan(space)
        assert len(space.curves()) == 66
        assert len(wanted.ops) <= 320
        assert 60 <= len(wanted.held_out) <= 66
        assert set(wanted.held_out) < set(wanted.ops)
        measured = set(wanted.ops) - set(wanted.held_out)
        for curve, widths in space.curves().items():
            assert {replace(curve, c_mid=w) for w in (widths[0], widths[-1])} <= measured


def test_held_out_points_are_predicted_without_them() -> None:
    space = load_space()
    wanted = plan(space)
    rows = {op: Measurement(plain_ms(op), 0.0, 30) for op in wanted.ops}
    table = LatencyTable(DEVICE, rows)
    assert max(map(abs, held_out_errors(table, wanted.held_out).values())) < 1e-9
    bent = {**rows, wanted.held_out[0]: Measurement(2 * plain_ms(wanted.held_out[0]), 0.0, 30)}
    errors = held_out_errors(table.with_rows(bent), wanted.held_out)
    assert errors[wanted.held_out[0]] == pytest.approx(-0.5)


def test_table_of_a_known_device(tmp_path: Path) -> None:
    """On a busy simulated device: rows, scale and held-out error come out as they are."""

    def pads_to_16(op: OpSpec) -> float:
        return plain_ms(replace(op, c_mid=-(-op.c_mid // 16) * 16)) if op.c_mid else plain_ms(op)

    profiler = SimulatedProfiler(Machine(load=0.3, jitter=0.02), pads_to_16, whole=1.06)
    table = build_table(
        profiler, load_spec(), tmp_path / "t.json",
        max_minutes=0.3, precision=0.01, anchor_nets=6, seed=0, progress=lambda _: None,
    )  # fmt: skip
    assert table.device.quantum == 16
    assert table.calibration is not None
    assert table.calibration.scale == pytest.approx(1.06, rel=0.01)
    held_out = table.spaces[load_space(quantum=16).key].held_out
    assert held_out is None or held_out.mean_pct < 2
    for net in calibration_nets(load_space(quantum=16), 3, 9):
        assert table.total(net) == pytest.approx(profiler.latency_ms(net.ops), rel=0.02)


def test_real_table_is_built_completed_and_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(profilers.tables.own, "user_tables_path", lambda: tmp_path)
    monkeypatch.setattr(profilers.tables.own, "shipped_tables_path", lambda: tmp_path)
    profiler = open_profiler("cpu")
    path = table_path(profiler.device)
    assert find_table(profiler.device) is None
    first = build(path)
    assert find_table(profiler.device) == path
    assert LatencyTable.load(path) == first
    for _ in range(4):  # beside other work rows may stay useless, and it goes on with them
        if is_complete(first, load_spec()):
            break
        first = build(path)
    assert is_complete(first, load_spec())
    assert first.calibration is not None
    assert first.calibration.nets == 2
    before = path.stat().st_mtime_ns
    assert build(path) == first
    assert path.stat().st_mtime_ns == before  # nothing was left to measure

    more = build(path, classes=7)
    assert {op.kind for op in set(more.rows) - set(first.rows)} == {"classifier"}
    assert all(more.rows[op] == row for op, row in first.rows.items())
    assert more.calibration == first.calibration


def test_changed_rows_call_for_a_new_fit_and_no_new_nets(tmp_path: Path) -> None:
    """Of every space that has them, also where the run that changed them was killed."""
    path, spec = tmp_path / "t.json", load_spec()
    other = replace(spec, name="other")
    profiler = SimulatedProfiler(Machine(load=0.2, jitter=0.02), plain_ms)

    def measured(spec: SpaceSpec, seed: int = 0, nets: int = 4) -> LatencyTable:
        return build_table(
            profiler, spec, path,
            max_minutes=0.1, precision=0.01, anchor_nets=nets, seed=seed, progress=lambda _: None,
        )  # fmt: skip

    measured(spec)
    both = measured(other)
    assert is_complete(both, spec)  # rows that others share are no reason
    op, row = next((op, row) for op, row in both.rows.items() if op.expands)
    both.with_rows({op: replace(row, median_ms=1.2 * row.median_ms)}).save(path)
    changed = LatencyTable.load(path)
    assert not is_complete(changed, spec)
    assert not is_complete(changed, other)
    for each in (spec, other):
        again = measured(each, seed=7, nets=9)
        assert is_complete(again, each)
        assert (again.rows, again.nets) == (changed.rows, changed.nets)
        key = each.build(again.device.quantum).key
        assert again.spaces[key].calibration != both.spaces[key].calibration


def test_half_measured_rows_are_gone_on_with(tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    done = build(path)
    rough = {op: replace(row, runs=3) for op, row in list(done.rows.items())[:5]}
    done.with_rows(rough).save(path)
    again = build(path)
    for op in done.rows:
        enough = op not in rough and is_enough(done.rows[op])  # a busy machine leaves others
        assert (again.rows[op] == done.rows[op]) == enough
        assert again.rows[op].runs >= ENOUGH_RUNS or op not in rough


def test_pooling_weighs_by_samples() -> None:
    both = pooled(Measurement(1.0, 0.3, 10), Measurement(2.0, 0.1, 30))
    assert both.median_ms == pytest.approx(1.75)
    assert both.runs == 40
    assert both.spread_ms < 0.15


def test_calibration_rests_on_measured_nets() -> None:
    space = load_space()
    nets = calibration_nets(space, 4, 0)
    rows = {op: Measurement(plain_ms(op), 0.0, 30) for op in space.ops()}
    table = LatencyTable(DEVICE, rows)
    assert calibration_of(table, nets) is None
    whole = {net_key(n): Measurement(1.1 * table.total(n), 0.0, 30) for n in nets[:3]}
    calibration = calibration_of(replace(table, nets=whole), nets)
    assert calibration is not None
    assert (calibration.nets, calibration.scale) == (3, pytest.approx(1.1))
    assert calibration.mape_pct == pytest.approx(0, abs=1e-9)


def test_calibration_finds_what_a_net_changes() -> None:
    """Late blocks cost more inside a net and the stem less: the error on other nets shrinks."""
    space = load_space("tfnas", quantum=16)
    rows = {op: Measurement(plain_ms(op), 0.0, 30) for op in plan(space).ops}
    table = LatencyTable(DEVICE, rows)

    def truth(net: Subnet) -> float:
        cost = {7: 1.15, 14: 1.1}
        return sum((cost.get(op.size, 1.0) if op.expands else 0.7) * table.ms(op) for op in net.ops)

    nets = calibration_nets(space, 16, 0)
    whole = {net_key(n): Measurement(truth(n), 0.0, 30) for n in nets}
    calibration = calibration_of(replace(table, nets=whole), nets)
    assert calibration is not None
    one_factor = replace(calibration, factors=())

    def error(which: Calibration) -> float:
        told = table.with_fit(space, calibration=which)
        others = calibration_nets(space, 30, 1)
        return sum(abs(told.total(n) / truth(n) - 1) for n in others) / len(others)

    assert error(calibration) < 0.5 * error(one_factor)
    assert dict(calibration.factors)["fixed"] < 0.9


def test_extremes_are_of_the_space() -> None:
    space = load_space("tfnas", quantum=1)
    small, large = extremes(space)
    assert small in space
    assert large in space
    for net in calibration_nets(space, 50, 0)[2:]:  # the first two are the extremes
        assert small.macs < net.macs < large.macs
    assert all(op.c_mid % 8 == 0 for op in (*small.blocks, *large.blocks))
    low, high = extremes_ms(open_profiler("cpu"), load_space(), progress=lambda _: None)
    assert 0 < low < high


def test_killed_at_any_moment(tmp_path: Path) -> None:
    path = tmp_path / "killed.json"
    command = [sys.executable, "-m", "profilers", *ARGUMENTS, f"table='{path}'"]
    kept: dict[OpSpec, Measurement] = {}
    for after_s in (1.2, 2.2, 3.0):
        process = subprocess.Popen(
            command, cwd=tmp_path, env=environment(), stdout=subprocess.DEVNULL
        )
        time.sleep(after_s)
        process.send_signal(signal.SIGKILL)
        process.wait()
        rows = dict(LatencyTable.load(path).rows) if path.exists() else {}
        assert all(rows[op].runs >= row.runs for op, row in kept.items())
        kept = rows
    # On a busy machine rows may stay useless, and the same command goes on with them.
    assert any(is_complete(build(path), load_spec()) for _ in range(5))


def test_second_profiler_waits_and_says_so(tmp_path: Path) -> None:
    hold = "import time, profilers.onboard.lock as k\nwith k.machine_lock(print): print('held', flush=True); time.sleep(60)"  # noqa: E501
    owner = subprocess.Popen(
        [sys.executable, "-c", hold], env=environment(), stdout=subprocess.PIPE, text=True
    )
    assert owner.stdout is not None
    assert owner.stdout.readline() == "held\n"
    said: list[str] = []

    def progress(line: str) -> None:
        said.append(line)
        os.kill(owner.pid, signal.SIGKILL)  # a dead owner holds nothing

    with machine_lock(progress):
        pass
    owner.wait()
    owner.stdout.close()
    assert f"pid {owner.pid}" in said[0]


def test_another_context_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    device = open_profiler("cpu").device
    old = replace(device, fingerprint=f"{device.fingerprint[:6]}-000000",
                  versions={"onnxruntime": "1.0.0"})  # fmt: skip
    monkeypatch.setattr(profilers.tables.own, "user_tables_path", lambda: tmp_path)
    monkeypatch.setattr(profilers.tables.own, "shipped_tables_path", lambda: tmp_path)
    path = tmp_path / table_name(device)
    LatencyTable(old, {}).save(path)
    with pytest.raises(ValueError, match=r"onnxruntime 1\.0\.0 there.*python -m profilers"):
        find_table(device)
    with pytest.raises(ValueError, match="measure anew"):
        build(path)
    path.rename(tmp_path / table_name(old))
    caplog.set_level("INFO")
    assert find_table(device) is None
    assert "another context" in caplog.text
    other = replace(device, fingerprint="ffffff-000000")
    with pytest.raises(ValueError, match="hardware"):
        check_own(other, device, path)


def test_fingerprints_tell_contexts_apart() -> None:
    devices = [
        open_profiler("cpu").device,
        open_profiler("cpu", batch=2).device,
    ]
    assert len({d.fingerprint for d in devices}) == 2
    assert len({d.fingerprint.partition("-")[0] for d in devices}) == 1
    assert same_machine(*devices)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "fridge"}, "device='fridge'"),
        ({"kind": "cpu", "backend": "magic"}, "backend='magic'"),
        ({"kind": "cpu", "precision": "fp16"}, "fp16"),
        ({"kind": "cpu", "threads": 0}, "threads=0"),
        ({"kind": "cpu", "threads": 4000}, "threads=4000"),
        ({"kind": "cpu", "batch": -1}, "batch=-1"),
    ],
)
def test_unusable_devices_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises((ValueError, LookupError), match=message):
        open_profiler(**options)  # type: ignore[arg-type]


def test_two_threads_run(tmp_path: Path) -> None:
    if (os.cpu_count() or 1) < 2:
        pytest.skip("needs two cores")
    workload = open_profiler("cpu", threads=2).workload(extremes(load_space())[0].ops)
    burst = workload.burst(3)
    assert 0 < burst.ms <= burst.wall_ms * 1.01
    workload.close()
    with pytest.raises(RuntimeError, match="closed"):
        workload.burst(1)


def test_bad_input_exits_2(tmp_path: Path) -> None:
    corrupt = tmp_path / "corrupt.json"
    corrupt.write_text("{")
    for arguments, message in (
        ([f"table='{corrupt}'"], "corrupt"),
        (["threads=0"], "threads=0"),
        (["nonsense=1"], "nonsense"),
    ):
        done = run_entry("profilers", *ARGUMENTS, *arguments, cwd=tmp_path)
        assert done.returncode == 2, done.stdout + done.stderr
        assert message in done.stdout + done.stderr
    assert REPOSITORY.is_dir()


def test_each_space_is_calibrated_on_its_own_nets() -> None:
    space = load_space(quantum=16)
    table = macs_table(space, quantum=16)
    nets = calibration_nets(space, 4, 0)
    whole = {net_key(n): Measurement(1.1 * table.total(n), 0.0, 100) for n in nets}
    made = replace(table, nets=whole)
    made = made.with_fit(space, calibration=calibration_of(made, nets))
    assert not _is_calibrated(made, space, plan(space))  # by rows that aren't told
    calibration = replace(made.spaces[space.key].calibration, rows=digest_of(made, plan(space)))
    made = made.with_fit(space, calibration=calibration)
    assert _is_calibrated(made, space, plan(space))
    for other in (
        replace(space, resolution=64),
        replace(space, name="other"),
        replace(space, stages=space.stages[:1]),
    ):
        assert not _is_calibrated(made, other, plan(other))


def test_a_second_space_leaves_the_first_as_it_was(tmp_path: Path) -> None:
    """One file, two spaces: each keeps its calibration, its held-out error and its card."""
    profiler = SimulatedProfiler(Machine(load=0.2, jitter=0.02), plain_ms, whole=1.06)
    path = tmp_path / "t.json"

    def measured(spec: SpaceSpec) -> LatencyTable:
        return build_table(
            profiler, spec, path,
            max_minutes=0.1, precision=0.01, anchor_nets=4, seed=0, progress=lambda _: None,
        )  # fmt: skip

    spec = load_spec()
    before = measured(spec)
    quantum = before.device.quantum
    first, other = spec.build(quantum), replace(spec, name="other", resolution=64)
    before = before.with_fit(first, card={"mape_pct": 1.0, "bias_pct": 0.5, "spearman": 0.9})
    before.save(path)
    profiler.whole = 1.5
    after = measured(other)
    assert after.calibration is not None
    assert after.calibration.scale == pytest.approx(1.5, rel=0.02)
    again = LatencyTable.load(path)
    assert set(again.spaces) == {first.key, other.build(quantum).key}
    assert again.spaces[first.key] == before.spaces[first.key]
    net = first.sample(random.Random(0))
    assert again.for_space(first).total(net) == before.total(net)
    assert is_complete(again, spec)
    assert is_complete(again, other)
    with pytest.raises(LookupError, match=r"for_space\(space\)"):
        again.total(net)
