"""Latency tables: what may be read from them, and their files."""

from __future__ import annotations

import json
import math
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.entry import run_entry
from tests.support.simulated_device import DEVICE, plain_ms
from tests.support.spaces import load_space
from tfnas.files.atomic import write_atomically
from tfnas.latency.table import Calibration, Device, HeldOut, LatencyTable, Measurement, SpaceFit
from tfnas.space.ops import OpSpec

OP = OpSpec("mbconv", 28, 32, 64, 0, 32, 3, 1, "relu")


def at(width: int) -> OpSpec:
    return replace(OP, c_mid=width)


def two_points(scale: float = 1.0) -> LatencyTable:
    rows = {at(64): Measurement(1.0, 0.01, 50), at(128): Measurement(3.0, math.inf, 50)}
    rows[at(128)] = Measurement(3.0, 0.02, 50)
    return LatencyTable(DEVICE, rows, spaces={"a@28": SpaceFit(Calibration(scale, 3, 0.5))})


def full() -> LatencyTable:
    rows = {op: Measurement(plain_ms(op), 0.001, 30) for op in load_space().ops()}
    return LatencyTable(DEVICE, rows)


def test_between_points_is_interpolated_and_says_so() -> None:
    table = two_points(1.1)
    assert table.latency(at(64)).measured
    between = table.latency(at(96))
    assert not between.measured
    assert between.ms == pytest.approx(2.0 * 1.1)


@pytest.mark.parametrize("width", [63, 129, 1])
def test_nothing_is_extrapolated(width: int) -> None:
    with pytest.raises(LookupError, match="python -m profilers"):
        two_points().ms(at(width))


def test_a_net_is_the_sum_of_its_ops() -> None:
    table, space = full(), load_space()
    net = space.sample(random.Random(0))
    assert table.total(net) == pytest.approx(sum(map(table.ms, net.ops)))
    scaled = table.with_fit(space, calibration=Calibration(1.2, 5, 1.0))
    assert scaled.total(net) == pytest.approx(1.2 * table.total(net))
    fixed = replace(table, overhead_ms=5.0)
    assert fixed.total(net) == pytest.approx(5.0 + sum(map(table.ms, net.blocks)))


def test_groups_have_their_own_factor() -> None:
    space = load_space()
    net = space.sample(random.Random(0))
    bare = full()
    sizes = {op.size for op in net.blocks}
    factors = (("fixed", 0.8), *((f"{size}px", 1.2) for size in sizes))
    table = bare.with_fit(space, calibration=Calibration(1.1, 5, 1.0, factors))
    assert table.fixed(net) == pytest.approx(0.88 * bare.fixed(net))
    for op in net.blocks:
        assert table.ms(op) == pytest.approx(1.32 * bare.ms(op))
    choice = space.blocks[0][0]
    assert table.curve(choice)[0] == pytest.approx(table.ms(choice.at(choice.widths[0])))
    overhead = replace(table, overhead_ms=1.0)
    assert overhead.fixed(net) == pytest.approx(0.88)


def test_coverage() -> None:
    table, space = full(), load_space()
    table.check(space)
    assert table.missing(space) == []
    other = load_space(classes=11)
    assert [op.kind for op in table.missing(other)] == ["classifier"]
    with pytest.raises(LookupError, match="python -m profilers device=cpu table=this table"):
        table.check(other)
    bad = table.with_rows({next(iter(table.rows)): Measurement(-1.0, 0.0, 1)})
    with pytest.raises(ValueError, match="not positive"):
        bad.check(space)


@given(
    ms=st.floats(1e-6, 1e6),
    spread=st.one_of(st.just(math.nan), st.floats(0, 1e3)),
    runs=st.integers(0, 10**9),
    text=st.text(st.characters(codec="utf-8"), max_size=20),
)
def test_save_and_load(tmp_path_factory, ms, spread, runs, text) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path_factory.getbasetemp() / "roundtrip.json"
    table = LatencyTable(
        replace(DEVICE, name=text), {OP: Measurement(ms, spread, runs)},
        spaces={
            "a@28": SpaceFit(
                Calibration(1.02, 10, 1.5, (("28px", 1.1),)), HeldOut(1, 1.0, 2.0, 3.0),
                {"mape_pct": 1.0},
            ),
            "b@28": SpaceFit(),
        },
        overhead_ms=0.5, quantum_evidence=((64, 0.5),), nets={"abc": Measurement(ms, spread, runs)},
        notes=(text,),
    )  # fmt: skip
    table.save(path)
    loaded = LatencyTable.load(path)
    if math.isnan(spread):
        assert math.isnan(loaded.rows[OP].spread_ms)
        table, loaded = (replace(t, rows={}, nets={}) for t in (table, loaded))
    assert loaded == table


def test_a_space_takes_its_own_calibration() -> None:
    """Never another one's: not for a space of another name, size or content."""
    space = load_space()
    bare = full()
    assert bare.for_space(space).calibration is None
    table = bare.with_fit(space, calibration=Calibration(1.2, 5, 1.0))
    other = replace(space, name="other")
    with pytest.raises(LookupError, match=f"calibrated for {space.key}, not for {other.key}"):
        table.for_space(other)
    both = table.with_fit(other, calibration=Calibration(0.8, 5, 1.0))
    net = space.sample(random.Random(0))
    for chosen, scale in ((space, 1.2), (other, 0.8)):
        ms = both.for_space(chosen).total(net)
        assert ms == pytest.approx(scale * bare.total(net))
    shorter = replace(space, stages=(replace(space.stages[0], min_depth=2), *space.stages[1:]))
    assert shorter.key != space.key
    with pytest.raises(LookupError, match="python -m profilers"):
        both.for_space(shorter)


def test_files_of_before_nets_still_load(tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    two_points().save(str(path))
    data = json.loads(path.read_text())
    del data["nets"]
    path.write_text(json.dumps(data))
    assert LatencyTable.load(str(path)) == two_points()


def fit(**values: Any) -> dict[str, Any]:
    return {"spaces": {"a@28": {"calibration": None, "held_out": None, "card": None, **values}}}


def calibrated(**values: Any) -> dict[str, Any]:
    given = {"scale": 1.0, "nets": 3, "mape_pct": 1.0, "factors": [], "rows": "", "seed": 0}
    return {**given, **values}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "tfnas.table/99"}, "format"),
        ({"device": {"kind": "cpu"}}, "wrong at device: .*`name`"),
        ({"columns": ["a"]}, "columns"),
        ({"rows": [[1, 2]]}, "row"),
        ({"rows": None}, "rows"),
        ({"spaces": {"a": {}}}, "has the fields .*expected calibration"),
        (fit(calibration={"scale": 1}), "calibration: .*`nets`"),
        (fit(calibration=calibrated(scale="x")), "calibration.scale: Expected `float`, got `str`"),
        (fit(calibration=calibrated(scale=0)), "calibration.scale: Expected `float` > 0"),
        (
            fit(calibration=calibrated(factors=[["a", -1]])),
            r"factors\[0\]\[1\]: Expected",
        ),
        (fit(calibration=calibrated(factors=[["a"]])), "corrupt"),
        (fit(card={"mape_pct": "bad"}), "card.mape_pct='bad'"),
        ({"overhead_ms": "much"}, "overhead_ms"),
        ({"nets": {"a": [1.0, None]}}, "corrupt"),
        ({"nets": {"a": ["x", None, 3]}}, r"nets\[...\]\[0\]"),
        ({"quantum_evidence": [[1]]}, "corrupt"),
    ],
)
def test_corrupt_tables_are_refused(
    tmp_path: Path, change: dict[str, object], message: str
) -> None:
    path = tmp_path / "t.json"
    two_points().save(path)
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(ValueError, match=message):
        LatencyTable.load(path)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "[" * 100_000, '{"format": NaN}'])
def test_junk_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "t.json"
    path.write_text(text)
    with pytest.raises(ValueError, match="table"):
        LatencyTable.load(path)


def test_a_failed_write_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    write_atomically(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_atomically(path, "new \ud800")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_compare(tmp_path: Path) -> None:
    first, second = tmp_path / "a.json", tmp_path / "b.json"
    table = full()
    slower = {
        op: Measurement(1.02 * row.median_ms * (1.1 if op.kernel == 5 else 1), 0.001, 30)
        for op, row in table.rows.items()
    }
    table.save(first)
    replace(table, rows=slower).save(second)
    run = run_entry("tfnas.table", "compare", str(first), str(second), cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    assert f"{len(table.rows)} ops" in run.stdout
    assert "median ratio 1.0200" in run.stdout or "median ratio 1.1220" in run.stdout
    same = run_entry("tfnas.table", "compare", str(first), str(first), cwd=tmp_path)
    assert "off the median ratio by 0.00 % on average" in same.stdout
    assert f"; 100 % of {len(table.rows)} within both 95 % intervals" in same.stdout
    found = json.loads(
        run_entry("tfnas.table", "compare", str(first), str(second), "--json", cwd=tmp_path).stdout
    )
    assert found["files"] == [str(first), str(second)]
    (ops,) = found["agreements"]
    assert (ops["what"], ops["pairs"], ops["known"]) == ("ops", len(table.rows), len(table.rows))
    assert f"median ratio {ops['median_ratio']:.4f}" in run.stdout
    assert f"; {ops['within_pct']:.0f} % of" in run.stdout
    unknown = {op: replace(row, spread_ms=math.nan) for op, row in table.rows.items()}
    replace(table, rows=unknown).save(second)
    run = run_entry("tfnas.table", "compare", str(first), str(second), cwd=tmp_path)
    assert "; their intervals aren't known" in run.stdout
    two_points().save(second)
    for option in ((), ("--json",)):
        run = run_entry("tfnas.table", "compare", str(first), str(second), *option, cwd=tmp_path)
        assert (run.returncode, run.stdout) == (2, "")
        assert "no op and no net in common" in run.stderr


def test_show(tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    full().save(path)
    run = run_entry("tfnas.table", "show", str(path), "--rows", "2", cwd=tmp_path)
    assert (run.returncode, run.stderr) == (0, "")
    for part in ("simulated", "aaaaaa-bbbbbb", "classifier 64→10", "more"):
        assert part in run.stdout


def test_show_as_json_has_all_rows(tmp_path: Path) -> None:
    path, table = tmp_path / "t.json", full()
    op = next(iter(table.rows))
    table = table.with_rows({op: replace(table.rows[op], spread_ms=math.nan)})
    table = table.with_fit(load_space(), calibration=Calibration(1.2, 5, 1.0))
    table.save(path)
    run = run_entry("tfnas.table", "show", str(path), "--json", cwd=tmp_path)
    assert (run.returncode, run.stderr) == (0, "")
    found = json.loads(run.stdout)
    assert (found["file"], found["unit"]) == (str(path), "ms")
    assert Device(**found["device"]) == table.device
    assert found["spaces"][load_space().key]["calibration"]["scale"] == 1.2
    rows = {OpSpec(**row.pop("op")): row for row in found["rows"]}
    assert rows.keys() == table.rows.keys()
    for each, row in table.rows.items():
        spread = None if each == op else row.spread_ms
        assert rows[each] == {"median": row.median_ms, "spread": spread, "samples": row.runs}


def test_lint_and_import_of_a_published_file(tmp_path: Path) -> None:
    import pickle
    from collections import OrderedDict

    key = "MBInvertedResBlock_14_80_{}_80_k{}_s1_swish"
    entries: OrderedDict[str, object] = OrderedDict(base=1.5)
    for kernel in (3, 5):
        for se in (0, 80):
            widths = OrderedDict((w, 0.01 * w + 0.001 * kernel) for w in range(1, 641))
            entries[key.format(se, kernel)] = widths
    entries[key.format(0, 3)][1] = -0.2  # type: ignore[index]
    file, out = tmp_path / "published.pkl", tmp_path / "imported.json"
    file.write_bytes(pickle.dumps(entries, protocol=2))
    lint = run_cli("lint", str(file))
    assert lint.returncode == 1
    assert "1 of 2560 entries are impossible" in lint.stdout
    done = run_cli("import", str(file), "--out", str(out), "--device", "Titan RTX", "--batch", "32")
    assert done.returncode == 0, done.stderr
    table = LatencyTable.load(out)
    assert (table.device.name, table.device.batch, table.overhead_ms) == ("Titan RTX", 32, 1.5)
    assert {op.c_mid % 8 for op in table.rows} == {0}
    missing = run_cli("lint", str(tmp_path / "nowhere.json"))
    assert missing.returncode == 2
    assert "nowhere.json" in missing.stderr


def test_lint_reads_what_it_can_of_another_projects_file(tmp_path: Path) -> None:
    """Keys of once-for-all's tables: MobileNetV3's squeeze-excite, no unit stated."""
    key = "MBConv-input:{0}x{0}x40-output:{0}x{0}x40-expand:{1}-kernel:{2}-stride:1-idskip:1-se:{3}"
    sizes = range(10, 24)
    entries = {
        key.format(size, expand, kernel, se): {"mean": 2 - 0.3 * expand + 0.01 * kernel + se}
        for size in sizes for expand in (3, 4) for kernel in (3, 5) for se in (0, 1)
    }  # fmt: skip
    file = tmp_path / "other.yaml"
    file.write_text("# of another project\n" + json.dumps(entries))  # which is YAML too
    few, every = run_cli("lint", str(file)), run_cli("lint", str(file), "--all")
    for run in (few, every):
        assert run.returncode == 0, run.stdout + run.stderr
        assert f"0 errors, {2 * len(sizes)} warnings" in run.stdout
        assert "non-monotone" in run.stdout
        assert "takes 1.13, 160 only 0.83" in run.stdout  # in whatever the file's unit is
    assert f"... {2 * len(sizes) - 5} more of non-monotone" in few.stdout
    assert every.stdout.count("warning:") == 2 * len(sizes)
    found = json.loads(run_cli("lint", str(file), "--json").stdout)
    assert (found["errors"], found["warnings"]) == (0, 2 * len(sizes))
    assert len(found["findings"]) == 2 * len(sizes)
    assert "takes 1.13, 160 only 0.83" in found["findings"][0]["text"]
    assert found["remarks"][-1] in few.stdout
    shown = run_cli("show", str(file))
    assert shown.returncode == 2
    assert f"tfnas.table import {file} --out FILE" in shown.stderr


def run_cli(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tfnas.table", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)
