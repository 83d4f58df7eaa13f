"""A latency table as a page: `python -m tfnas.table page FILE`.

Latencies are shown as they were measured, op by op, unless it is said that they are calibrated. A
table may come from elsewhere: everything in it is bounded here and escaped by `tfnas.pages.page`.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from markupsafe import Markup

from tfnas.app.values import conf_path, load_space
from tfnas.latency.lint import WIDE_SPREAD, Finding, lint
from tfnas.latency.table import LatencyTable, Measurement, SpaceFit
from tfnas.pages import page
from tfnas.pages.card import space_section
from tfnas.pages.page import Part
from tfnas.pages.plots import SERIES, Chart, Line, Point, draw
from tfnas.space.ops import OpSpec
from tfnas.space.size import Size, area, sides

Row = tuple[OpSpec, Measurement]

MOST_FIGURES = 36
MOST_CURVES = 24  # in one figure
MOST_POINTS = 400  # of one curve; a published one has a point for every channel
MOST_NOTES = 30
MOST_SPACES = 10
MOST_LISTED = 8
LEAST_CERTAIN = 10
ROW_HEADER = ("op", "ms, alone", "95 % interval", "samples", "ms, inside a net")


class Shape(NamedTuple):
    """What blocks have in common that are drawn in one figure."""

    size: Size
    c_in: int
    c_out: int
    stride: int
    act: str


@dataclass(frozen=True)
class Coverage:
    """Whether a table is enough for a space of ours.

    Attributes:
        gap: what is missing; None if nothing is.
        classes: the numbers of classes that the table has a last layer for.
    """

    space: str
    gap: str | None
    classes: str


@dataclass(frozen=True)
class TableData:
    """What the page shows.

    Attributes:
        curves: rows of blocks that differ in their mid width alone, ascending, by shape; largest
            input first.
        known: rows of known interval, the least certain first.
    """

    table: LatencyTable
    findings: Sequence[Finding]
    curves: Mapping[Shape, Sequence[Sequence[Row]]]
    coverage: Sequence[Coverage]
    known: Sequence[Row]


def gather_table(table: LatencyTable) -> TableData:
    by_curve: dict[OpSpec, list[Row]] = defaultdict(list)
    for op, row in table.rows.items():
        if op.has_width:
            by_curve[op.curve].append((op, row))
    curves: dict[Shape, list[list[Row]]] = defaultdict(list)
    for op, rows in by_curve.items():
        shape = Shape(op.size, op.c_in, op.c_out, op.stride, op.act)
        curves[shape].append(sorted(rows, key=lambda row: row[0].c_mid))
    return TableData(
        table=table,
        findings=lint(table),
        curves={
            s: curves[s]
            for s in sorted(curves, key=lambda s: (-area(s.size), sides(s.size), *s[1:]))
        },
        coverage=[
            _coverage(table, file.stem) for file in sorted((conf_path() / "space").glob("*.yaml"))
        ],
        known=sorted(
            ((op, m) for op, m in table.rows.items() if _is_known(m)),
            key=lambda row: -row[1].spread_ms / row[1].median_ms,
        ),
    )


def _coverage(table: LatencyTable, name: str) -> Coverage:
    try:
        space = load_space(name, classes=10).build(table.device.quantum)
    except ValueError:
        return Coverage(name, "no net has widths that are multiples of the quantum", "")
    gaps = [op for op in table.missing(space) if not op.classifies]
    last = space.head[-1]
    classes = sorted(
        op.c_out
        for op in table.rows
        if (op.kind, op.size, op.c_in) == (last.kind, last.size, last.c_in)
    )
    return Coverage(
        name,
        f"{len(gaps)} ops are missing, such as {gaps[0]}" if gaps else None,
        "any" if table.overhead_ms is not None else _listed(classes) or "none",
    )


def _is_known(m: Measurement) -> bool:
    return m.median_ms > 0 and m.spread_ms >= 0  # not if nan


def _is_doubtful(m: Measurement) -> bool:
    return _is_known(m) and m.spread_ms > WIDE_SPREAD * m.median_ms


def _factor(table: LatencyTable, op: OpSpec) -> float | None:
    """Of calibration, where there is one and only one."""
    if len(table.spaces) != 1 or table.calibration is None:
        return None
    return table.factor(op)


def table_page(table: LatencyTable) -> str:
    """The whole page as text."""
    data, device = gather_table(table), table.device
    more = page.left_out(len(table.notes) - MOST_NOTES, "notes")
    notes = map(page.paragraph, table.notes[:MOST_NOTES])
    return page.document(
        f"Latency table: {device.name}",
        page.paragraph(
            f"{device.kind}, {device.backend}, {device.numbers}, batch {device.batch}, "
            f"threads {device.threads or 'unknown'}. All latencies are milliseconds for one batch.",
            kind="muted",
        ),
        _tiles(data),
        page.note(*notes, more, kind="plain") if table.notes else None,
        page.section("Device", _device(table)),
        page.section("Findings", *_findings(data)),
        page.section("Latency against width", *_curves(data), name="curves"),
        page.section("Coverage", *_covered(data), name="coverage"),
        page.section("Least certain rows", *_uncertain(data), name="uncertain"),
        _quantum(table) if table.quantum_evidence else None,
        *(space_section(i, *fit) for i, fit in enumerate(list(table.spaces.items())[:MOST_SPACES])),
        page.section("All rows", _rows(table), name="rows"),
    )


def _tiles(data: TableData) -> Markup:
    table = data.table
    one = next(iter(table.spaces.values())) if len(table.spaces) == 1 else SpaceFit()
    curves = sum(map(len, data.curves.values()))
    tiles = [
        page.tile("measured rows", f"{len(table.rows):,}", f"{curves:,} curves of blocks"),
        page.tile("median 95 % interval", _median_spread(data.known), "of one row"),
        page.tile("width quantum", str(table.device.quantum), "channels"),
    ]
    if (h := one.held_out) is not None:
        below = f"95th percentile {h.p95_pct:.2g} %"
        tiles.append(page.tile("interpolation error", f"{h.mean_pct:.2g} %", below))
    if (c := one.calibration) is not None:
        tiles.append(page.tile("error on whole nets", f"{c.mape_pct:.2g} %", f"of {c.nets}"))
    return page.tiles(*tiles)


def _median_spread(known: Sequence[Row]) -> str:
    spreads = [m.spread_ms / m.median_ms for _, m in known]
    return f"±{100 * np.median(spreads):.2g} %" if spreads else "unknown"


def _device(table: LatencyTable) -> Markup:
    device = table.device
    versions = ", ".join(f"{k} {v}" for k, v in device.versions.items()) or "unknown"
    pairs: list[tuple[Part, Part]] = [
        ("device", f"{device.name} ({device.kind})"),
        ("runtime", device.backend),
        ("versions", versions),
        ("precision", device.numbers),
        ("batch", str(device.batch)),
        ("threads", str(device.threads or "unknown")),
        ("fingerprint", device.fingerprint),
        ("width quantum", f"{device.quantum} ({len(table.quantum_evidence)} widths probed)"),
        ("whole nets", f"{len(table.nets)} measured"),
    ]
    if table.overhead_ms is not None:
        pairs.append(("stem and head", f"{table.overhead_ms:.4g} ms, one figure for both"))
    return page.key_values(pairs)


def _findings(data: TableData) -> list[Markup]:
    if not data.findings:
        return [page.paragraph("python -m tfnas.table lint finds nothing.", kind="good")]
    errors = sum(finding.error for finding in data.findings)
    times = Counter((finding.error, finding.rule) for finding in data.findings)
    first = {(finding.error, finding.rule): finding.text for finding in reversed(data.findings)}
    rows = [
        (page.coloured("error", "bad") if error else page.coloured("warning", "doubt"), rule,
         str(number), first[error, rule])
        for (error, rule), number in times.items()
    ]  # fmt: skip
    summary = (
        f"{errors} errors, {len(data.findings) - errors} warnings; python -m tfnas.table lint "
        "prints all"
    )
    return [
        page.note(summary, kind="bad" if errors else "doubt"),
        page.table(("", "rule", "times", "such as"), rows, numeric=(2,), name="findings"),
    ]


def _curves(data: TableData) -> list[Markup]:
    """A figure for each shape of block, by resolution."""
    several = {s: [rows for rows in c if len(rows) > 1] for s, c in data.curves.items()}
    shapes = [(shape, curves) for shape, curves in several.items() if curves]
    if not shapes:
        return [page.paragraph("No op was measured at several widths.")]
    shown = shapes[:MOST_FIGURES]
    kernels = sorted({rows[0][0].kernel for _, curves in shown for rows in curves})
    return [
        page.paragraph(
            "Points are measured, with their 95 % intervals; the table interpolates along the "
            "straight lines between them and never beyond their ends. Dashed: with "
            "squeeze-excite. A ring marks a point that is known to no better than "
            f"±{WIDE_SPREAD:.0%}."
        ),
        page.figures(
            *(_curve_figure(f"curves-{i}", *of, kernels, data.table) for i, of in enumerate(shown))
        ),
        page.left_out(len(shapes) - len(shown), "shapes of blocks"),
    ]


def _curve_figure(
    name: str,
    shape: Shape,
    curves: Sequence[Sequence[Row]],
    kernels: Sequence[int],
    table: LatencyTable,
) -> Markup:
    lines: list[Line] = []
    for rows in sorted(curves, key=lambda r: (r[0][0].kernel, r[0][0].c_se))[:MOST_CURVES]:
        line = _curve(rows, SERIES[kernels.index(rows[0][0].kernel) % len(SERIES)])
        named = line.label in {before.label for before in lines}
        lines.append(replace(line, label="") if named else line)
    lowest = min(m.median_ms for rows in curves for _, m in rows)
    chart = Chart(
        lines=lines, x_label="mid width (channels)", y_label="latency (ms)",
        bottom=min(0.0, lowest),
    )  # fmt: skip
    size = f"{shape.size} px"
    rest = f", {shape.c_in} → {shape.c_out} channels, stride {shape.stride}, {shape.act}"
    caption: list[Part] = [page.element("b", size), rest]
    # A width as narrow as the input isn't searched there, and has another factor.
    searched = next((op for rows in curves for op, _ in rows if op.expands), curves[0][0][0])
    if (factor := _factor(table, searched)) is not None:
        caption.append(f"; inside a net × {factor:.3f}")
    return draw(name, page.join(caption), chart, label=f"Latency against width: {size}{rest}")


def _curve(rows: Sequence[Row], colour: str) -> Line:
    """Latencies by width; dashed with squeeze-excite."""
    op, step = rows[0][0], math.ceil(len(rows) / MOST_POINTS)
    rows = rows if step == 1 else [*rows[:-1:step], rows[-1]]
    return Line(
        f"{op.kernel}×{op.kernel}{' SE' if op.c_se else ''}",
        [o.c_mid for o, _ in rows],
        [m.median_ms for _, m in rows],
        colour,
        dashed=op.c_se > 0,
        spread=[m.spread_ms if _is_known(m) else 0.0 for _, m in rows],
        ringed=[i for i, (_, m) in enumerate(rows) if _is_doubtful(m)],
        name=f"curve-{op.kernel}-{op.c_se}",
    )


def _covered(data: TableData) -> list[Markup]:
    """What shapes were measured, and which spaces of ours that is enough for."""
    spaces = [
        (c.space, page.coloured("yes", "good") if c.gap is None else f"no: {c.gap}", c.classes)
        for c in data.coverage
    ]
    rows = []
    for shape, curves in data.curves.items():
        blocks = [row for curve in curves for row in curve]
        kernels, bottlenecks, widths = (
            sorted({getattr(op, name) for op, _ in blocks}) for name in ("kernel", "c_se", "c_mid")
        )
        rows.append(
            (
                f"{shape.size} px", f"{shape.c_in} → {shape.c_out}", str(shape.stride), shape.act,
                _listed(kernels), _listed([b or "none" for b in bottlenecks]),
                f"{widths[0]} to {widths[-1]}", f"{len(blocks):,}",
                _median_spread([row for row in blocks if _is_known(row[1])]),
            )
        )  # fmt: skip
    header = (
        "input", "channels", "stride", "activation", "kernels", "squeeze-excite", "mid widths",
        "rows", "median 95 % interval",
    )  # fmt: skip
    return [
        page.table(
            ("space", "covered", "classes"), spaces, caption="Spaces of conf/space", name="covered"
        ),
        page.table(
            header, rows, numeric=(0, 2, 6, 7, 8), caption="Blocks, as measured", name="shapes"
        ),
    ]


def _listed(values: Sequence[object]) -> str:
    more = f", … {len(values) - MOST_LISTED} more" if len(values) > MOST_LISTED else ""
    return ", ".join(map(str, values[:MOST_LISTED])) + more


def _uncertain(data: TableData) -> list[Markup]:
    if not data.known:
        return [page.paragraph("The table has no intervals.")]
    doubtful = sum(_is_doubtful(m) for _, m in data.known)
    unknown = len(data.table.rows) - len(data.known)
    summary = f"{doubtful} of {len(data.known)} rows are known to no better than ±{WIDE_SPREAD:.0%}"
    if unknown:
        summary += f"; of {unknown} the interval is unknown"
    cells = map(_cells, data.known[:LEAST_CERTAIN])
    return [
        page.paragraph(f"{summary}.", kind="doubt" if doubtful else "good"),
        page.table(ROW_HEADER[:4], cells, numeric=(1, 2, 3)),
    ]


def _cells(row: Row) -> tuple[Part, ...]:
    op, m = row
    spread = f"±{100 * m.spread_ms / m.median_ms:.2g} %" if _is_known(m) else "unknown"
    doubt = page.coloured(spread, "doubt") if _is_doubtful(m) else spread
    return str(op), page.ms(m.median_ms), doubt, str(m.runs)


def _quantum(table: LatencyTable) -> Markup:
    quantum, evidence = table.device.quantum, table.quantum_evidence[:MOST_POINTS]
    groups = (f"multiples of {quantum}", "others")
    points = [Point(width, ms, group=groups[width % quantum > 0]) for width, ms in evidence]
    shown = f", the first {MOST_POINTS}" if len(evidence) < len(table.quantum_evidence) else ""
    chart = Chart(
        points=points, groups=groups, x_label="mid width (channels)", y_label="latency (ms)",
        bottom=min(0.0, *(ms for _, ms in evidence)),
    )  # fmt: skip
    drawing = draw("quantum", "", chart, label="Latency of a probe block against its width")
    summary = page.paragraph(
        f"A probe block at {len(table.quantum_evidence):,} widths{shown}. Searched widths are "
        f"multiples of {quantum}."
    )
    return page.section("Width quantum", summary, page.figures(drawing), name="quantum")


def _rows(table: LatencyTable) -> Markup:
    def order(row: Row) -> tuple[object, ...]:
        op = row[0]
        return (
            -op.pixels, sides(op.size), op.kind, op.c_in, op.c_out, op.stride, op.act, op.kernel,
            op.c_se, op.c_mid,
        )  # fmt: skip

    rows = sorted(table.rows.items(), key=order)
    cells = [
        (*_cells((op, m)), page.ms(m.median_ms * (_factor(table, op) or 1.0))) for op, m in rows
    ]
    # Without calibration the last column says nothing new.
    columns = 4 if len(table.spaces) != 1 or table.calibration is None else 5
    shown = f"{min(len(rows), page.MOST_ROWS):,} rows"
    how = "; python -m tfnas.table show --rows 0 prints all"
    inner = page.table(
        ROW_HEADER[:columns], [cell[:columns] for cell in cells], numeric=(1, 2, 3, 4),
        name="all-rows", how=how,
    )  # fmt: skip
    return page.details(shown, inner)
