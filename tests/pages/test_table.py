"""Pages of latency tables: what stands in them is the table's, whatever the table holds."""

from __future__ import annotations

import os
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.support.browser import Elements, check_self_contained, render
from tests.support.spaces import load_space, macs_table
from tfnas.app.values import shipped_tables_path
from tfnas.latency.importers import read
from tfnas.latency.lint import lint
from tfnas.latency.table import Calibration, HeldOut, LatencyTable, Measurement, SpaceFit
from tfnas.pages.page import MOST_ROWS, text
from tfnas.pages.table import MOST_FIGURES, table_page
from tfnas.space.ops import OpSpec
from tfnas.table import main

pytestmark = pytest.mark.slow

HOSTILE = "</title></style><script>alert(1)</script><img src=x onerror=alert(2)>\"'&$x^2$\u202e\x00"


class Parsed(Elements):
    """A page with the cells of its tables, by id or number."""

    def __init__(self, html: str) -> None:
        self.tables: dict[str, list[list[str]]] = {}
        self._rows: list[list[str]] = []
        self._in_cell = False
        super().__init__(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        super().handle_starttag(tag, attrs)
        if tag == "table":
            self._rows = []
            self.tables[dict(attrs).get("id") or f"table {len(self.tables)}"] = self._rows
        elif tag == "tr":
            self._rows.append([])
        elif tag in ("td", "th"):
            self._rows[-1].append("")
            self._in_cell = True

    def handle_endtag(self, tag: str) -> None:
        super().handle_endtag(tag)
        self._in_cell &= tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        super().handle_data(data)
        if self._in_cell:
            self._rows[-1][-1] += data


@pytest.fixture(scope="module")
def shipped() -> LatencyTable:
    (file,) = shipped_tables_path().glob("cpu-intel-xeon-t1-b1-fp32-dc1948-999333.json")
    return LatencyTable.load(file)


@pytest.fixture(scope="module")
def shipped_html(shipped: LatencyTable) -> str:
    return table_page(shipped)


def drawn_points(html: str) -> dict[str, list[tuple[float, float]]]:
    """The points of every line that stands for a curve, in the drawing's own units."""
    found = {}
    for name, path in re.findall(r'<g id="(curves-\d+-curve-\d+-\d+)">\n<path d="([^"]+)"', html):
        numbers = re.findall(r"[ML] (\S+) (\S+)", path)
        found[name] = [(float(x), float(y)) for x, y in numbers]
    return found


def test_curves_are_drawn_where_they_were_measured(
    shipped: LatencyTable, shipped_html: str
) -> None:
    curves: dict[OpSpec, list[tuple[int, float]]] = {}
    for op, row in shipped.rows.items():
        curves.setdefault(op.curve, []).append((op.c_mid, row.median_ms))
    several = {curve: sorted(points) for curve, points in curves.items() if len(points) > 1}
    shapes = sorted({(-c.size, c.c_in, c.c_out, c.stride, c.act) for c in several})
    drawn = drawn_points(shipped_html)
    assert len(drawn) == len(several) > 60
    for index, shape in enumerate(shapes):
        expected, got = [], []
        for curve, points in several.items():
            if (-curve.size, curve.c_in, curve.c_out, curve.stride, curve.act) != shape:
                continue
            expected += points
            got += drawn[f"curves-{index}-curve-{curve.kernel}-{curve.c_se}"]
        table, paper = np.array(expected), np.array(got)
        for axis in (0, 1):  # one straight scale for all points of a figure
            scale = np.polyfit(table[:, axis], paper[:, axis], 1)
            off = np.abs(np.polyval(scale, table[:, axis]) - paper[:, axis])
            assert off.max() < 1e-3
        assert shipped_html.count(f'"curves-{index}-curve-') == len(
            [c for c in several if (-c.size, c.c_in, c.c_out, c.stride, c.act) == shape]
        )


def test_rows_and_context_are_the_tables(shipped: LatencyTable, shipped_html: str) -> None:
    page = Parsed(shipped_html)
    curves = {op.curve for op in shipped.rows if op.kind == "mbconv"}
    assert f"{len(curves)} curves of blocks" in page.text
    _, *rows = page.tables["all-rows"]
    by_op = {str(op): (op, row) for op, row in shipped.rows.items()}
    assert {row[0] for row in rows} == set(by_op)
    for name, ms, spread, runs, inside in rows:
        op, row = by_op[name]
        assert ms == f"{row.median_ms:.4g}"
        assert spread == f"±{100 * row.spread_ms / row.median_ms:.2g} %"
        assert runs == str(row.runs)
        assert inside == f"{shipped.ms(op):.4g}"
    for told in ("Intel Xeon", "onnxruntime 1.31.1", "dc1948-999333", "tfnas@224-3b4521"):
        assert told in page.text
    assert len(page.tables["shapes"]) == 13
    assert ["tfnas", "yes", "10"] in page.tables["covered"]
    assert page.tables["covered"][-1][:2] == [
        "tiny", "no: 14 ops are missing, such as conv 32px 3→16 k3 s2 relu",
    ]  # fmt: skip


def test_the_card_and_the_calibration_are_the_tables(
    shipped: LatencyTable, shipped_html: str
) -> None:
    page = Parsed(shipped_html)
    (fit,) = shipped.spaces.values()
    assert fit.card is not None
    assert fit.calibration is not None
    _, *nets = page.tables["card-0-table"]
    assert [row[:2] for row in nets] == [
        [f"{n['table_ms']:.4g}", f"{n['measured_ms']:.4g}"] for n in fit.card["nets"]
    ]
    for told in (f"{fit.card['mape_pct']:.2f} %", f"{fit.card['spearman']:.4f}", "-3.91 %"):
        assert told in page.text
    groups = next(rows for rows in page.tables.values() if rows[0][-1] == "scale × factor")
    told = {row[0]: row[1:] for row in groups[1:]}
    for group, factor in fit.calibration.factors:
        assert told[group] == [f"{factor:.4f}", f"{fit.calibration.scale * factor:.4f}"]
    assert [row[0] for row in groups[1:]] == ["112px", "56px", "28px", "14px", "7px", "fixed"]
    names = [name for name, _ in fit.card["stages_pct"].items()]
    assert all(f">{name}<" in shipped_html for name in names)


def test_a_browser_shows_what_the_table_holds(
    shipped: LatencyTable, shipped_html: str, tmp_path: Path
) -> None:
    check_self_contained(shipped_html)
    file = tmp_path / "table.html"
    for html in (shipped_html, table_page(hostile_table())):
        file.write_text(html)
        rendered = render(file, tmp_path)
        assert rendered.console == ()
        assert Parsed(rendered.dom).tables == Parsed(html).tables
        assert drawn_points(rendered.dom) == drawn_points(html)


def test_rows_that_are_not_known_well_are_marked() -> None:
    table = macs_table(load_space())
    ops = [op for op in table.rows if op.expands]
    rows = {op: Measurement(1.0, 0.2, 7) for op in ops[:3]}
    html = table_page(table.with_rows(rows))
    page = Parsed(html)
    assert "3 of 3 rows are known to no better than ±5%" in page.text
    assert f"of {len(table.rows) - 3} the interval is unknown" in page.text
    uncertain = next(rows for rows in page.tables.values() if rows[0][0] == "op")
    assert {row[0] for row in uncertain[1:]} == {str(op) for op in ops[:3]}
    rings = html.count("stroke: var(--doubt)") - table_page(table).count("stroke: var(--doubt)")
    assert rings >= 3
    findings = Parsed(html).tables["findings"]
    assert ["warning", "wide spread", "3"] in [row[:3] for row in findings]


def hostile_table() -> LatencyTable:
    """Texts that would be code, in every place that a file can put a text."""
    table = macs_table(load_space())
    device = replace(
        table.device, name=HOSTILE, kind=HOSTILE, backend=HOSTILE, precision=HOSTILE,
        fingerprint=HOSTILE, versions={HOSTILE: HOSTILE},
    )  # fmt: skip
    net = {"table_ms": 1.0, "measured_ms": 1.1, "half_width_pct": 1.0, "macs": 5}
    card = {
        "nets": [net, {**net, "table_ms": 2.0}], "mape_pct": 1.0, "bias_pct": 0.5,
        "within_pct": {"1": 50.0}, "spearman": None, "worst": net, "noisy": 1, "seconds": 3.0,
        "stages_pct": {HOSTILE: 5.0, "стадия": -2.0, "stage 1": 1.0},
    }  # fmt: skip
    fit = SpaceFit(Calibration(1.0, 2, 3.0, ((HOSTILE, 1.1),)), HeldOut(3, 1.0, 2.0, 3.0), card)
    return replace(
        table, device=device, notes=(HOSTILE,) * 40, source=HOSTILE,
        spaces={HOSTILE: fit, "broken": SpaceFit(card={HOSTILE: [HOSTILE]})},
        quantum_evidence=((8, 1.0), (9, 2.0)),
    )  # fmt: skip


def test_texts_of_a_table_stay_texts(tmp_path: Path) -> None:
    table = hostile_table()
    table.save(tmp_path / "t.json")
    html = table_page(LatencyTable.load(tmp_path / "t.json"))
    check_self_contained(html)
    page = Parsed(html)
    assert html.count(str(text(HOSTILE))) >= 6
    assert "\u202e" not in html
    assert "\x00" not in html
    assert "The calibration card can't be read" in page.text
    assert "10 more" in page.text  # of 40 notes


def test_a_page_is_bounded() -> None:
    ops = [
        OpSpec("mbconv", size, 16, 16 * k, 0, c_out, 3, 1, "relu")
        for size in range(1, 13)
        for c_out in range(1, 5)
        for k in (2, 3)
    ]
    wide = [OpSpec("mbconv", 30, 16, width, 0, 16, 3, 1, "relu") for width in range(17, 3017)]
    many = [
        OpSpec("mbconv", 29, 16, width, se, 16, 3, 1, "relu")
        for width in (32, 64)
        for se in range(1, 200)
    ]
    rows = {op: Measurement(1e12 * (-1) ** i, 1e12, 3) for i, op in enumerate((*ops, *wide, *many))}
    device = replace(macs_table(load_space()).device, quantum=1_000_000)
    evidence = tuple((width, 1.0) for width in range(8, 508))
    table = LatencyTable(device, rows, quantum_evidence=evidence)
    html = table_page(table)
    page = Parsed(html)
    assert html.count("<figure>") == MOST_FIGURES + 1  # the quantum's
    assert "at 500 widths, the first 400. Searched" in page.text
    assert "14 more shapes of blocks are left out" in page.text
    assert len(page.tables["all-rows"]) == 1 + MOST_ROWS
    assert f"{len(rows) - MOST_ROWS:,} more rows are left out" in page.text
    assert len(html) < 4_000_000
    assert f"{len([f for f in lint(table) if f.error])} errors" in page.text
    assert "no net has widths that are multiples of the quantum" in page.text


def test_a_table_without_anything() -> None:
    page = Parsed(table_page(LatencyTable(macs_table(load_space()).device, {})))
    assert "No op was measured at several widths" in page.text
    assert "The table has no intervals" in page.text


def test_an_imported_table_is_drawn_whole(tmp_path: Path) -> None:
    reference = os.environ.get("TFNAS_REFERENCE_TABLE")
    if not reference:
        pytest.skip("TFNAS_REFERENCE_TABLE names no table")
    table = read(Path(reference), device="Titan RTX", batch=32).table
    html = table_page(table)
    page = Parsed(html)
    assert "Titan RTX" in page.text
    assert all(note in page.text for note in table.notes)
    curves = {op.curve for op in table.rows}
    drawn = drawn_points(html)
    assert len(drawn) == len(curves)
    assert ["tfnas", "yes", "any"] in page.tables["covered"]
    assert "unknown" in {row[-1] for row in page.tables["shapes"]}
    assert len(html) < 2_000_000


def test_the_command_writes_beside_the_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "t.json"
    macs_table(load_space()).save(file)
    for arguments, out in (
        ([], tmp_path / "t.html"),
        (["--out", str(tmp_path / "deep" / "p.html")], tmp_path / "deep" / "p.html"),
    ):
        with pytest.raises(SystemExit) as ended:
            main(["page", str(file), *arguments])
        assert ended.value.code == 0
        assert f"wrote {out}" in capsys.readouterr().out
        assert "made up" in out.read_text()
    before = file.read_bytes()
    for arguments, said in (
        ([str(file), "--out", str(file)], "is the table itself"),
        ([str(file), "--out", str(file.parent)], "is a folder; expected a file to write"),
        ([str(tmp_path / "none.json")], "doesn't exist"),
    ):
        with pytest.raises(SystemExit) as ended:
            main(["page", *arguments])
        assert ended.value.code == 2
        assert said in capsys.readouterr().err
    assert file.read_bytes() == before
