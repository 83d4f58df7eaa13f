"""Every rule of the lint, each on a table with just that fault."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from profilers.tables.plan import plan
from tests.support.entry import run_entry
from tests.support.simulated_device import DEVICE, plain_ms
from tests.support.spaces import load_space
from tfnas.app.values import shipped_tables_path
from tfnas.latency.lint import lint
from tfnas.latency.table import Calibration, HeldOut, LatencyTable, Measurement, SpaceFit
from tfnas.space.ops import OpSpec


def fitted(calibration: Calibration | None, held_out: HeldOut | None = None) -> dict[str, SpaceFit]:
    return {load_space().key: SpaceFit(calibration, held_out)}


Edit = Callable[[LatencyTable], LatencyTable]


def clean() -> LatencyTable:
    import numpy

    rows = {
        op: Measurement(plain_ms(op), 0.001 * plain_ms(op), 100) for op in plan(load_space()).ops
    }
    device = replace(DEVICE, quantum=8, versions={"numpy": numpy.__version__})
    return LatencyTable(
        device, rows, spaces=fitted(Calibration(1.01, 10, 1.0), HeldOut(5, 0.5, 1.0, 2.0)),
        quantum_evidence=((64, 0.1),),
    )  # fmt: skip


def one(table: LatencyTable, **wanted: int) -> OpSpec:
    """The first row with these fields, at the middle of its curve."""
    return next(
        op
        for op in sorted(table.rows, key=str)
        if op.kind == "mbconv" and all(getattr(op, k) == v for k, v in wanted.items())
    )


def scaled(factor: float, **wanted: int) -> Edit:
    def edit(table: LatencyTable) -> LatencyTable:
        op = one(table, **wanted)
        row = table.rows[op]
        return table.with_rows({op: replace(row, median_ms=factor * row.median_ms)})

    return edit


def without_ends(table: LatencyTable) -> LatencyTable:
    curve = one(table).curve
    last = max(op.c_mid for op in table.rows if op.curve == curve)
    gone = replace(curve, c_mid=last)
    return replace(table, rows={op: r for op, r in table.rows.items() if op != gone})


def far_point(table: LatencyTable) -> LatencyTable:
    op = one(table)
    far = replace(op, c_mid=80 * op.c_mid)
    rows = {replace(far, kernel=k): Measurement(plain_ms(far), 0.0, 9) for k in (3, 5)}
    return table.with_rows(rows)


def off_quantum(table: LatencyTable) -> LatencyTable:
    return replace(table, device=replace(table.device, quantum=7))


def stale(table: LatencyTable) -> LatencyTable:
    return replace(table, device=replace(table.device, versions={"numpy": "0.1"}))


FAULTS: list[tuple[str, bool, Edit]] = [
    ("non-positive", True, scaled(-1.0)),
    ("non-positive", True, lambda t: replace(t, overhead_ms=-1.0)),
    ("scale", True, lambda t: replace(t, spaces=fitted(Calibration(40.0, 10, 1.0)))),
    ("non-monotone", False, scaled(3.0)),
    ("k3 slower than k5", False, scaled(1.5, kernel=3)),
    ("SE cheaper than none", False, scaled(0.2, c_se=16)),
    ("wide spread", False, lambda t: t.with_rows({one(t): Measurement(1.0, 0.5, 5)})),
    ("wide spread", False, lambda t: replace(t, spaces=fitted(None, HeldOut(5, 9.0, 30.0, 40.0)))),
    ("gap", True, without_ends),
    ("gap", False, far_point),
    ("out of range", False, off_quantum),
    ("stale runtime", False, stale),
    ("context", False, lambda t: replace(t, spaces={})),
    ("context", False, lambda t: replace(t, quantum_evidence=())),
    ("context", True, lambda t: replace(t, rows={})),
    ("context", True, lambda t: replace(t, device=replace(t.device, fingerprint=""))),
    ("context", True, lambda t: replace(t, device=replace(t.device, versions={}))),
]


def test_a_clean_table_is_clean() -> None:
    assert lint(clean(), load_space()) == []


@pytest.mark.parametrize(("rule", "error", "edit"), FAULTS)
def test_every_fault_is_found(rule: str, error: bool, edit: Edit) -> None:
    findings = lint(edit(clean()))
    assert (rule, error) in {(f.rule, f.error) for f in findings}, findings
    assert findings == sorted(findings, key=lambda f: not f.error)


def test_noise_is_no_inversion() -> None:
    table = clean()
    op = one(table)
    row = table.rows[op]
    rough = table.with_rows({op: replace(row, median_ms=1.2 * row.median_ms, spread_ms=1.0)})
    assert {f.rule for f in lint(rough)} == {"wide spread"}


def test_coverage_of_a_space() -> None:
    findings = lint(clean(), load_space(classes=11))
    assert [(f.error, f.rule) for f in findings] == [(True, "gap")]
    assert "classifier 64→11" in findings[0].text


def test_command(tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    for edit, status, said in (
        (lambda t: t, 0, "0 errors, 0 warnings"),
        (stale, 0, "1 warnings"),
        (scaled(-1.0), 1, "error: non-positive"),
    ):
        edit(clean()).save(path)
        run = run_entry("tfnas.table", "lint", str(path), cwd=tmp_path)
        assert (run.returncode, run.stderr) == (status, "")
        assert said in run.stdout
        run = run_entry("tfnas.table", "lint", str(path), "--json", cwd=tmp_path)
        assert (run.returncode, run.stderr) == (status, "")
        found = json.loads(run.stdout)
        assert (found["errors"] > 0) == (status == 1)
        assert found["errors"] + found["warnings"] == len(found["findings"])
    path.write_text("[]")
    for arguments in (("lint", str(path)), ("show", str(path)), ("lint", "nowhere.json"), ()):
        run = run_entry("tfnas.table", *arguments, cwd=tmp_path)
        assert run.returncode == 2
        assert "Traceback" not in run.stderr


@pytest.mark.parametrize("path", sorted(shipped_tables_path().glob("*.json")), ids=lambda p: p.name)
def test_shipped_tables_have_no_errors_and_cover_their_space(path: Path) -> None:
    table = LatencyTable.load(path)
    assert not [f for f in lint(table) if f.error]
    assert table.spaces
    for key in table.spaces:
        space = load_space(key.partition("@")[0], quantum=table.device.quantum)
        assert space.key == key
        assert table.for_space(space).calibration is not None
