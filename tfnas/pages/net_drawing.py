"""A found network drawn block by block: ops, widths between their bounds, shares of the latency."""

from __future__ import annotations

import math
from collections.abc import Iterator

from markupsafe import Markup

from tfnas.latency.table import LatencyTable
from tfnas.pages.page import Part, bar, element
from tfnas.space.ops import KINDS, OpSpec
from tfnas.space.search_space import SearchSpace
from tfnas.space.subnet import Subnet

LARGEST = 7  # kernel that is drawn
HEADER = (
    "block", "input", "kernel", "stride", "expansion", "", "act", "mid width, channels", "output",
    "latency", "",
)  # fmt: skip
NUMERIC = ("expansion", "stride", "output", "latency")


def network(subnet: Subnet, space: SearchSpace | None, table: LatencyTable | None) -> Markup:
    """
    Args:
        space: that it was found in, for the bounds of widths and the blocks left out.
        table: for the latencies; it covers the subnet.
    """
    picks = space.choices_of(subnet) if space is not None and subnet in space else None
    times = _times(subnet, table)
    largest = max(times.values(), default=0.0)
    total = table.subnet_ms(subnet) if table is not None else 0.0
    digits = min(6, max(0, 3 - math.floor(math.log10(total)))) if total > 0 else 0

    def time_of(op: OpSpec) -> tuple[Markup, ...]:
        """Cells; of an op that the table doesn't tell they are empty."""
        if op not in times:
            return (element("td"), element("td")) if table is not None else ()
        told = f"{times[op]:.{digits}f} ms · {100 * times[op] / total:4.1f} %"
        return (
            element("td", told, class_="num", data_ms=times[op]),
            element("td", bar(times[op] / largest), class_="share"),
        )

    used = HEADER if table is not None else HEADER[:-2]
    rows = [_row("stem", op, None, time_of(op)) for op in subnet.stem]
    for s, stage in enumerate(subnet.stages):
        for b, op in enumerate(stage):
            bounds = None
            if space is not None and picks is not None:
                widths = space.stages[s].blocks[b][picks[s][b]].widths
                bounds = widths[0], widths[-1]
            name = f"{s + 1}.{b + 1}"
            rows.append(_row(name, op, bounds, time_of(op), stage=s, first=b == 0))
        if space is not None and picks is not None:
            left = len(space.stages[s].blocks) - len(stage)
            if left:
                told = f"{left} of {left + len(stage)} blocks left out"
                cells = (
                    element("td", f"{s + 1}.{len(stage) + 1}" + ("…" if left > 1 else "")),
                    element("td", told, colspan=len(used) - 1),
                )
                rows.append(element("tr", *cells, class_="muted", style=_colour(s)))
    for i, op in enumerate(subnet.head):
        rows.append(_row("head", op, None, time_of(op), first=i == 0))
    head = element("tr", *(element("th", h, class_="num" if h in NUMERIC else None) for h in used))
    inner = element("table", element("thead", head), element("tbody", *rows), class_="net")
    return element("div", inner, class_="scroll", id="network-table")


def _times(subnet: Subnet, table: LatencyTable | None) -> dict[OpSpec, float]:
    """ms of each op, as far as the table tells them one by one."""
    if table is None:
        return {}
    ops = subnet.blocks if table.overhead_ms is not None else subnet.ops
    return {op: table.ms(op) for op in ops}


def _row(
    name: str,
    op: OpSpec,
    bounds: tuple[int, int] | None,
    time: tuple[Markup, ...],
    *,
    stage: int | None = None,
    first: bool = False,
) -> Markup:
    cells: list[Markup] = [
        element("td", name),
        element("td", f"{op.size}² × {op.c_in}", class_="muted"),
        element("td", *_op(op)),
        element("td", str(op.stride) if op.stride > 1 else None, class_="num"),
        element("td", f"{op.c_mid / op.c_in:.2f}" if op.c_mid else None, class_="num"),
        element("td", element("span", "SE", class_="mark") if op.c_se else None,
                title=f"squeeze-excite, {op.c_se} channels" if op.c_se else None),
        element("td", "" if op.act == "none" else op.act.replace("_", " "), class_="muted"),
        element("td", *_width(op, bounds), class_="span"),
        element("td", f"{op.out_size}² × {op.c_out}", class_="num muted"),
        *time,
    ]  # fmt: skip
    return Markup("\n") + element(
        "tr",
        *cells,
        class_="first" if first else None,
        style=_colour(stage),
        data_block=name if stage is not None else None,
        data_width=op.c_mid if stage is not None else None,
    )


def _colour(stage: int | None) -> str:
    """That of the stage, the same as in the trajectories."""
    return "--bar: var(--muted)" if stage is None else f"--bar: var(--s{stage % 8 + 1})"


def _op(op: OpSpec) -> Iterator[Part]:
    kind = KINDS[op.kind]
    if "kernel" not in kind.lacks and op.kernel <= LARGEST:
        yield _kernel(op.kernel)
    yield kind.drawing(op)


def _kernel(size: int) -> Markup:
    """A grid of as many cells, drawn to one scale: a larger kernel is a larger square."""
    start = (LARGEST - size) / 2
    squares = [
        Markup(f'<rect x="{start + j:g}" y="{start + i:g}" width=".78" height=".78"/>')
        for i in range(size)
        for j in range(size)
    ]
    box = f"0 0 {LARGEST} {LARGEST}"
    return element("svg", *squares, class_="kernel", viewBox=box, aria_hidden="true")


def _width(op: OpSpec, bounds: tuple[int, int] | None) -> Iterator[Part]:
    if not op.has_width:
        return
    if bounds is None:
        yield str(op.c_mid)
        return
    low, high = bounds
    share = (op.c_mid - low) / (high - low) if high > low else 1.0
    yield element(
        "span",
        element("b", str(op.c_mid), class_="num"),
        bar(share),
        element("span", f"{low}–{high}", class_="muted"),
        class_="bounds",
        title=f"{op.c_mid} of {low} to {high} channels",
    )
