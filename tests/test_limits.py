"""Limits beside the latency, and other tables: from the command line to the result."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

import tfnas
from tests.support.browser import check_self_contained
from tests.support.entry import run_entry
from tests.support.nets import few_images, few_root
from tests.support.spaces import load_space, load_spec, macs_table
from tfnas.app.command_line import override
from tfnas.derive.architecture import Architecture, Constraint
from tfnas.derive.menu import feasible
from tfnas.derive.methods import derive_constrained
from tfnas.latency.table import LatencyTable
from tfnas.process.exits import DONE, UNUSABLE_INPUT
from tfnas.runs.folder import RunFolder
from tfnas.space.subnet import Subnet

pytestmark = pytest.mark.slow

SPACE = load_space("tiny")
TABLE = macs_table(SPACE)
LOW, HIGH = feasible(SPACE, TABLE)
TARGET = (LOW + HIGH) / 2


def phone() -> LatencyTable:
    """A device on which squeeze-excite is slow."""
    rows = {
        op: replace(row, median_ms=row.median_ms * (3 if op.c_se else 1))
        for op, row in TABLE.rows.items()
    }
    return replace(TABLE, rows=rows, device=replace(TABLE.device, name="a phone"))


def search(folder: Path, out: Path, *options: str) -> tuple[str, int]:
    TABLE.save(folder / "table.json")
    replace(TABLE, unit="mJ").save(folder / "energy.json")
    done = run_entry(
        "tfnas.search", "space=tiny", f"data.root={few_root()}", "cores=1", "budget=test",
        "strategy.evaluations=30", "strategy.optima=6", "strategy.score_images=64",
        override("table", folder / "table.json"), override("hydra.run.dir", out),
        f"target_ms={TARGET}", *options, cwd=folder,
    )  # fmt: skip
    return done.stdout + done.stderr, done.returncode


def test_limits_and_another_table_are_kept_and_told(tmp_path: Path) -> None:
    phone().save(tmp_path / "phone.json")
    arch = Architecture.initial(SPACE)
    slowest = derive_constrained(SPACE, arch, [Constraint(TABLE, TARGET)]).subnet
    params, phone_ms = 0.97 * slowest.params, 1.2 * phone().total(slowest)
    also = f"also=[{{table: {tmp_path / 'phone.json'}, ms: {phone_ms}}}]"
    out = RunFolder(tmp_path / "out")
    text, status = search(tmp_path, out.path, f"limits.params={params}", also)
    assert status == DONE, text
    net = Subnet.load(out.subnet)
    assert net.params <= params
    assert phone().total(net) <= phone_ms
    first, second = json.loads(out.result.read_text())["beside"]
    assert (first["value"], first["target"], first["unit"]) == (net.params, params, "")
    assert second["value"] == pytest.approx(phone().total(net))
    assert f"beside    limits.params={params:g}: {net.params:.4g}, at most" in text
    assert f"limits.params={params:g}" in check_self_contained(out.report.read_text()).text
    again = run_entry("tfnas.search", override("resume", out.path), cwd=tmp_path)
    assert again.returncode == DONE, again.stdout + again.stderr


def test_bytes_are_those_of_the_tables_precision(tmp_path: Path) -> None:
    """A limit that holds for values of two bytes, and for no net with four."""
    low = derive_constrained(
        SPACE, Architecture.initial(SPACE), [Constraint(TABLE, TARGET)]
    ).subnet.params
    half = replace(TABLE, device=replace(TABLE.device, precision="fp16"))
    half.save(tmp_path / "half.json")
    limit = f"limits.weights_mb={1.1 * 2 * low / 1e6}"
    text, status = search(
        tmp_path, tmp_path / "half", limit, override("table", tmp_path / "half.json")
    )
    assert status == DONE, text
    text, status = search(tmp_path, tmp_path / "full", limit)
    assert status == UNUSABLE_INPUT, text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["limits.params=10"], "limits.params=10: space tiny reaches"),
        (["limits.params=-1"], "limits.params=-1"),
        (["limits.flops=1"], "flops"),
        (["limits.macs=1e6", "derive=greedy"], "derive=greedy"),
        (["also=[{table: none.json, ms: 3}]"], "none.json doesn't exist"),
        (["also=[{table: table.json}]"], "it is in ms; expected such as ms: 30"),
        (["also=[{table: table.json, mj: 3}]"], "it is in ms; expected such as ms: 30"),
        (["also=[{table: energy.json, ms: 3}]"], "it is in mJ; expected such as mj: 30"),
        (["also=[{table: energy.json, mj: 1e-9}]"], "also mj=1e-09 on"),
        (["table=energy.json"], "is in mJ: it is no target"),
        (["also=[{table: table.json, ms: 1, at: 2}]"], "expected such as also="),
        (["also=[3]"], "expected such as also="),
        (["also=[{table: table.json, ms: -3}]"], "expected a number above 0"),
        ([f"also=[{{table: table.json, ms: {0.9 * TARGET}}}]"], "no subnet meets all of them"),
        (
            [f"also=[{{table: table.json, ms: {0.9 * TARGET}, exact: true}}]"],
            "beside the others the nearest that",
        ),
        (["also=[{table: table.json, ms: 1e9, exact: true}]"], "beside the others the nearest"),
    ],
)
def test_what_makes_no_sense_is_refused_at_once(
    tmp_path: Path, options: list[str], message: str
) -> None:
    text, status = search(tmp_path, tmp_path / "out", *options)
    assert status == UNUSABLE_INPUT, text
    assert message in text
    assert len(text.strip().splitlines()) <= 3, text
    assert not (tmp_path / "out").exists()


def test_from_python(tmp_path: Path) -> None:
    macs = (
        0.98
        * derive_constrained(
            SPACE, Architecture.initial(SPACE), [Constraint(phone(), phone().total(_any()))]
        ).subnet.macs
    )
    found = tfnas.find_net(
        load_spec("tiny"), few_images(400, 100), phone(), phone().total(_any()),
        strategy=tfnas.load_preset("strategy", "random", subnets=4, score_images=64),
        budget="test", limits={"macs": macs}, also=[(TABLE, TARGET)], cores=1,
    )  # fmt: skip
    assert found.subnet.macs <= macs
    assert TABLE.total(found.subnet) <= TARGET
    assert [c.met_by_net(found.subnet) for c in found.beside] == [True, True]
    with pytest.raises(ValueError, match="expected a LatencyTable"):
        tfnas.find_net(
            load_spec("tiny"), few_images(400, 100), TABLE, TARGET,
            also=[("phone.json", 3)],  # type: ignore[list-item]
        )  # fmt: skip
    with pytest.raises(ValueError, match=r"limits\.'flops'"):
        tfnas.find_net(
            load_spec("tiny"),
            few_images(400, 100),
            TABLE,
            TARGET,
            budget="test",
            limits={"flops": 1},
        )


def _any() -> Subnet:
    return derive_constrained(
        SPACE, Architecture.initial(SPACE), [Constraint(TABLE, 0.9 * TARGET)]
    ).subnet
