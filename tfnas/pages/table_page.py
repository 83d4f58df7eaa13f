"""A latency table as a page: `python -m tfnas.table page FILE`.

Latencies are shown as they were measured, op by op, unless it is said that they are calibrated. A
table may come from elsewhere: everything in it is bounded here and escaped by `tfnas.pages.page`.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from markupsafe import Markup

from tfnas.app.values import conf_path, load_space
from tfnas.latency.lint import WIDE_SPREAD, Finding, lint
from tfnas.latency.table import Device, LatencyTable, Measurement, SpaceFit
from tfnas.pages import page, plots
from tfnas.pages.card_page import space_section
from tfnas.pages.page import Part
from tfnas.space.ops import OpSpec

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Row = tuple[OpSpec, Measurement]
Shape = tuple[int, int, int, int, str]  # size, c_in, c_out, stride, act

MOST_FIGURES = 36
MOST_CURVES = 24  # in one figure
MOST_POINTS = 400  # of one curve; a published one has a point for every channel
MOST_ROWS = 1_000
MOST_NOTES = 30
MOST_SPACES = 10
LEAST_CERTAIN = 10


def table_page(table: LatencyTable) -> str:
    """The whole page as text."""
    device = table.device
    return page.document(
        f"Latency table: {device.name}",
        _context(device),
        _tiles(table),
        _notes(table.notes),
        page.section("Device", _device(table)),
        page.section("Findings", *_findings(table)),
        page.section("Latency against width", *_curves(table), name="curves"),
        page.section("Coverage", *_coverage(table), name="coverage"),
        page.section("Least certain rows", *_uncertain(table), name="uncertain"),
        *([_quantum(table)] if table.quantum_evidence else []),
        *(space_section(i, *fit) for i, fit in enumerate(list(table.spaces.items())[:MOST_SPACES])),
        page.section("All rows", *_rows(table), name="rows"),
    )


def _context(device: Device) -> Markup:
    return page.paragraph(
        f"{device.kind}, {device.backend}, {device.precision}, batch {device.batch}, "
        f"threads {_threads(device)}. All latencies are milliseconds for one batch.",
        kind="muted",
    )


def _threads(device: Device) -> str:
    return str(device.threads) if device.threads else "unknown"


def _tiles(table: LatencyTable) -> Markup:
    spreads = [m.spread_ms / m.median_ms for m in table.rows.values() if _is_known(m)]
    one = next(iter(table.spaces.values())) if len(table.spaces) == 1 else SpaceFit()
    curves = sum(curve.has_width for curve in _by_curve(table))
    widths = f"±{100 * np.median(spreads):.2g} %" if spreads else "unknown"
    tiles = [
        page.tile("measured rows", f"{len(table.rows):,}", f"{curves:,} curves of blocks"),
        page.tile("median 95 % interval", widths, "of one row"),
        page.tile("width quantum", str(table.device.quantum), "channels"),
    ]
    if one.held_out is not None:
        h = one.held_out
        tiles.append(
            page.tile(
                "interpolation error", f"{h.mean_pct:.2g} %", f"95th percentile {h.p95_pct:.2g} %"
            )
        )
    if one.calibration is not None:
        c = one.calibration
        tiles.append(page.tile("error on whole nets", f"{c.mape_pct:.2g} %", f"of {c.nets}"))
    return page.tiles(*tiles)


def _notes(notes: Sequence[str]) -> Markup | None:
    if not notes:
        return None
    more = [f"{len(notes) - MOST_NOTES} more"] if len(notes) > MOST_NOTES else []
    return page.note(*map(page.paragraph, (*notes[:MOST_NOTES], *more)), kind="plain")


def _device(table: LatencyTable) -> Markup:
    device = table.device
    versions = (
        ", ".join(f"{name} {version}" for name, version in device.versions.items()) or "unknown"
    )
    pairs: list[tuple[Part, Part]] = [
        ("device", f"{device.name} ({device.kind})"),
        ("runtime", device.backend),
        ("versions", versions),
        ("precision", device.precision),
        ("batch", str(device.batch)),
        ("threads", _threads(device)),
        ("fingerprint", device.fingerprint),
        ("width quantum", f"{device.quantum} ({len(table.quantum_evidence)} widths probed)"),
        ("whole nets", f"{len(table.nets)} measured"),
    ]
    if table.overhead_ms is not None:
        pairs.append(("stem and head", f"{table.overhead_ms:.4g} ms, one figure for both"))
    return page.key_values(pairs)


def _findings(table: LatencyTable) -> list[Markup]:
    found = lint(table)
    if not found:
        return [page.paragraph("python -m tfnas.table lint finds nothing.", kind="good")]
    errors = sum(finding.error for finding in found)
    by_rule: dict[tuple[bool, str], list[Finding]] = defaultdict(list)
    for finding in found:
        by_rule[finding.error, finding.rule].append(finding)
    rows = [
        (
            page.element("span", "error", class_="bad")
            if error
            else page.element("span", "warning", class_="doubt"),
            rule,
            str(len(those)),
            those[0].text,
        )
        for (error, rule), those in by_rule.items()
    ]
    told = f"{errors} errors, {len(found) - errors} warnings; python -m tfnas.table lint prints all"
    return [
        page.note(told, kind="bad" if errors else "doubt"),
        page.table(("", "rule", "times", "such as"), rows, numeric=(2,), name="findings"),
    ]


def _curves(table: LatencyTable) -> list[Markup]:
    """A figure for each shape of block, by resolution."""
    shapes: dict[Shape, list[list[Row]]] = defaultdict(list)
    for curve, rows in _by_curve(table).items():
        if len(rows) > 1:
            shapes[curve.size, curve.c_in, curve.c_out, curve.stride, curve.act].append(rows)
    if not shapes:
        return [page.paragraph("No op was measured at several widths.")]
    shown = sorted(shapes, key=lambda s: (-s[0], *s[1:]))[:MOST_FIGURES]
    kernels = sorted({rows[0][0].kernel for s in shown for rows in shapes[s]})
    parts = [
        page.paragraph(
            "Points are measured, with their 95 % intervals; the table interpolates along the "
            "straight lines between them and never beyond their ends. Dashed: with "
            "squeeze-excite. A ring marks a point that is known to no better than "
            f"±{WIDE_SPREAD:.0%}."
        )
    ]
    drawn = [
        _curve_figure(f"curves-{i}", shape, shapes[shape], kernels, table)
        for i, shape in enumerate(shown)
    ]
    parts.append(page.figures(*drawn))
    return [*parts, *_left_out(len(shapes), MOST_FIGURES, "shapes of blocks")]


def _curve_figure(
    name: str, shape: Shape, curves: list[list[Row]], kernels: list[int], table: LatencyTable
) -> Markup:
    size, c_in, c_out, stride, act = shape
    title = f"{size} px, {c_in} → {c_out} channels, stride {stride}, {act}"

    few = max(map(len, curves)) <= plots.FEW

    def paint(axes: Axes) -> None:
        labels: set[str] = set()
        for rows in sorted(curves, key=lambda r: (r[0][0].kernel, r[0][0].c_se))[:MOST_CURVES]:
            op = rows[0][0]
            label = f"{op.kernel}×{op.kernel}{' SE' if op.c_se else ''}"
            colour = plots.SERIES[kernels.index(op.kernel) % len(plots.SERIES)]
            _paint_curve(axes, rows, colour, "" if label in labels else label, few)
            labels.add(label)
        lowest = min(m.median_ms for rows in curves for _, m in rows)
        axes.set_ylim(bottom=min(0.0, lowest))
        axes.set_xlabel("mid width (channels)")
        axes.set_ylabel("latency (ms)")
        plots.legend_above(axes, len(labels))

    told: list[Part] = [page.element("b", f"{size} px"), title.removeprefix(f"{size} px")]
    # A width as narrow as the input isn't searched there, and has another factor.
    searched = next((op for rows in curves for op, _ in rows if op.expands), curves[0][0][0])
    if (factor := _factor(table, searched)) is not None:
        told.append(f"; inside a net × {factor:.3f}")
    drawing = plots.draw(name, f"Latency against width: {title}", paint)
    return page.figure(drawing, page.join(told))


def _paint_curve(axes: Axes, rows: list[Row], colour: str, label: str, few: bool) -> None:
    """One line with its points; dashed with squeeze-excite."""
    op = rows[0][0]
    step = math.ceil(len(rows) / MOST_POINTS)
    rows = rows if step == 1 else [*rows[:-1:step], rows[-1]]
    widths = [o.c_mid for o, _ in rows]
    ms = np.array([m.median_ms for _, m in rows])
    half = np.array([m.spread_ms if _is_known(m) else 0.0 for _, m in rows])
    (line,) = axes.plot(
        widths, ms, color=colour, linestyle=(0, (4, 2)) if op.c_se else "-",
        marker="o" if few else None, label=label or None,
    )  # fmt: skip
    line.set_gid(f"curve-{op.kernel}-{op.c_se}")
    if few:
        axes.vlines(widths, ms - half, ms + half, color=colour, linewidth=1)
    elif half.any():
        axes.fill_between(widths, ms - half, ms + half, color=colour, alpha=0.2, linewidth=0)
    doubtful = [(o.c_mid, m.median_ms) for o, m in rows if _is_doubtful(m)]
    if doubtful:
        x, y = zip(*doubtful, strict=True)
        axes.plot(
            x, y, linestyle="", marker="o", markersize=9, markerfacecolor="none",
            markeredgecolor=plots.DOUBT, markeredgewidth=1.5,
        )  # fmt: skip


def _coverage(table: LatencyTable) -> list[Markup]:
    """What shapes were measured, and which spaces of ours that is enough for."""
    shapes: dict[Shape, list[Row]] = defaultdict(list)
    for op, row in table.rows.items():
        if op.has_width:
            shapes[op.size, op.c_in, op.c_out, op.stride, op.act].append((op, row))
    rows = []
    for shape in sorted(shapes, key=lambda s: (-s[0], *s[1:]))[:MOST_ROWS]:
        ops = [op for op, _ in shapes[shape]]
        spreads = [m.spread_ms / m.median_ms for _, m in shapes[shape] if _is_known(m)]
        kernels, bottlenecks, widths = (
            sorted({getattr(op, name) for op in ops}) for name in ("kernel", "c_se", "c_mid")
        )
        size, c_in, c_out, stride, act = shape
        rows.append(
            (
                f"{size} px", f"{c_in} → {c_out}", str(stride), act, _listed(kernels),
                _listed(["none" if b == 0 else b for b in bottlenecks]),
                f"{widths[0]} to {widths[-1]}", f"{len(ops):,}",
                f"±{100 * np.median(spreads):.2g} %" if spreads else "unknown",
            )
        )  # fmt: skip
    header = (
        "input", "channels", "stride", "activation", "kernels", "squeeze-excite", "mid widths",
        "rows", "median 95 % interval",
    )  # fmt: skip
    return [
        page.table(
            ("space", "covered", "classes"),
            _spaces_covered(table),
            caption="Spaces of conf/space",
            name="covered",
        ),
        page.table(
            header, rows, numeric=(0, 2, 6, 7, 8), caption="Blocks, as measured", name="shapes"
        ),
        *_left_out(len(shapes), MOST_ROWS, "shapes of blocks"),
    ]


def _spaces_covered(table: LatencyTable) -> list[tuple[Part, ...]]:
    rows: list[tuple[Part, ...]] = []
    for file in sorted((conf_path() / "space").glob("*.yaml")):
        try:
            space = load_space(file.stem, classes=10).build(table.device.quantum)
        except ValueError:
            rows.append((file.stem, "no: no net has widths that are multiples of the quantum", ""))
            continue
        gaps = [op for op in table.missing(space) if not op.classifies]
        last = space.head[-1]
        classes = sorted(
            op.c_out
            for op in table.rows
            if (op.kind, op.size, op.c_in) == (last.kind, last.size, last.c_in)
        )
        told = "any" if table.overhead_ms is not None else _listed(classes) or "none"
        if gaps:
            rows.append((file.stem, f"no: {len(gaps)} ops are missing, such as {gaps[0]}", told))
        else:
            rows.append((file.stem, page.element("span", "yes", class_="good"), told))
    return rows


def _uncertain(table: LatencyTable) -> list[Markup]:
    known = [(op, m) for op, m in table.rows.items() if _is_known(m)]
    if not known:
        return [page.paragraph("The table tells no intervals.")]
    doubtful = sum(_is_doubtful(m) for _, m in known)
    known.sort(key=lambda row: -row[1].spread_ms / row[1].median_ms)
    unknown = len(table.rows) - len(known)
    told = f"{doubtful} of {len(known)} rows are known to no better than ±{WIDE_SPREAD:.0%}"
    if unknown:
        told += f"; of {unknown} the interval is unknown"
    return [
        page.paragraph(f"{told}.", kind="doubt" if doubtful else "good"),
        page.table(ROW_HEADER[:4], _row_cells(known[:LEAST_CERTAIN]), numeric=(1, 2, 3)),
    ]


def _quantum(table: LatencyTable) -> Markup:
    quantum = table.device.quantum
    evidence = table.quantum_evidence[:MOST_POINTS]

    def paint(axes: Axes) -> None:
        for on, colour, label in (
            (True, plots.SERIES[0], f"multiples of {quantum}"),
            (False, plots.SERIES[1], "others"),
        ):
            points = [(w, ms) for w, ms in evidence if (w % quantum == 0) is on]
            if points:
                x, y = zip(*points, strict=True)
                axes.plot(x, y, "o", color=colour, markersize=5, label=label)
        axes.set_ylim(bottom=min(0.0, *(ms for _, ms in evidence)))
        axes.set_xlabel("mid width (channels)")
        axes.set_ylabel("latency (ms)")
        plots.legend_above(axes, 2)

    shown = f", the first {MOST_POINTS}" if len(evidence) < len(table.quantum_evidence) else ""
    drawing = plots.draw("quantum", "Latency of a probe block against its width", paint)
    told = page.paragraph(
        f"A probe block at {len(table.quantum_evidence):,} widths{shown}. Searched widths are "
        f"multiples of {quantum}."
    )
    return page.section("Width quantum", told, page.figures(page.figure(drawing)), name="quantum")


ROW_HEADER = ("op", "ms, alone", "95 % interval", "samples", "ms, inside a net")


def _rows(table: LatencyTable) -> list[Markup]:
    rows = sorted(table.rows.items(), key=lambda row: _order(row[0]))
    cells = _row_cells(rows[:MOST_ROWS])
    factors = [_factor(table, op) for op, _ in rows[:MOST_ROWS]]
    header: Sequence[Part] = ROW_HEADER[:4]
    if any(factor is not None for factor in factors):
        header = ROW_HEADER
        cells = [
            (*cell, f"{m.median_ms * (factor or 1.0):.4g}")
            for cell, (_, m), factor in zip(cells, rows, factors, strict=False)
        ]
    inner = page.table(header, cells, numeric=(1, 2, 3, 4), name="all-rows")
    return [
        page.details(f"{min(len(rows), MOST_ROWS):,} rows", inner),
        *_left_out(len(rows), MOST_ROWS, "rows", "show --rows 0"),
    ]


def _row_cells(rows: Sequence[Row]) -> list[tuple[Part, ...]]:
    cells: list[tuple[Part, ...]] = []
    for op, m in rows:
        spread = f"±{100 * m.spread_ms / m.median_ms:.2g} %" if _is_known(m) else "unknown"
        told: Part = page.element("span", spread, class_="doubt") if _is_doubtful(m) else spread
        cells.append((str(op), f"{m.median_ms:.4g}", told, str(m.runs)))
    return cells


def _by_curve(table: LatencyTable) -> dict[OpSpec, list[Row]]:
    """Rows that differ in their mid width alone, ascending."""
    curves: dict[OpSpec, list[Row]] = defaultdict(list)
    for op, row in table.rows.items():
        curves[op.curve].append((op, row))
    return {curve: sorted(rows, key=lambda r: r[0].c_mid) for curve, rows in curves.items()}


def _order(op: OpSpec) -> tuple[object, ...]:
    return -op.size, op.kind, op.c_in, op.c_out, op.stride, op.act, op.kernel, op.c_se, op.c_mid


def _factor(table: LatencyTable, op: OpSpec) -> float | None:
    """Of calibration, where there is one and only one."""
    if len(table.spaces) != 1 or table.calibration is None:
        return None
    return table.factor(op)


def _is_known(m: Measurement) -> bool:
    return m.median_ms > 0 and m.spread_ms >= 0  # not if nan


def _is_doubtful(m: Measurement) -> bool:
    return _is_known(m) and m.spread_ms > WIDE_SPREAD * m.median_ms


def _listed(values: Sequence[object]) -> str:
    more = f", … {len(values) - 8} more" if len(values) > 8 else ""
    return ", ".join(map(str, values[:8])) + more


def _left_out(count: int, most: int, what: str, command: str | None = None) -> list[Markup]:
    if count <= most:
        return []
    how = f"; python -m tfnas.table {command} prints all" if command else ""
    return [page.paragraph(f"{count - most:,} more {what} are left out{how}.", kind="muted")]
