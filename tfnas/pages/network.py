"""A found network block by block: ops, widths between their bounds, shares of the latency."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from tfnas.latency.table import LatencyTable
from tfnas.pages.page import Part, bar, element
from tfnas.space.ops import KINDS, OpSpec
from tfnas.space.search_space import SearchSpace
from tfnas.space.size import Size
from tfnas.space.subnet import Subnet

LARGEST = 7  # kernel that is drawn
HEADER = (
    "block", "input", "kernel", "stride", "expansion", "", "act", "mid width, channels", "output",
    "latency", "",
)  # fmt: skip
NUMERIC = ("expansion", "stride", "output", "latency")


@dataclass(frozen=True)
class Block:
    """One op of a network, or the blocks that a stage leaves out.

    Attributes:
        name: such as 2.1, the first block of stage 2; stem or head.
        op: None for blocks that are left out.
        stage: from 0; None outside the stages.
        first: it begins a stage, or the head.
        bounds: of its width in the space, where that is known.
        ms: where the table has it op by op.
        left_out: (how many, of how many of the stage).
    """

    name: str
    op: OpSpec | None
    stage: int | None = None
    first: bool = False
    bounds: tuple[int, int] | None = None
    ms: float | None = None
    left_out: tuple[int, int] = (0, 0)


def gather_network(
    subnet: Subnet, space: SearchSpace | None, table: LatencyTable | None
) -> list[Block]:
    """
    Args:
        space: that it was found in, for the bounds of widths and the blocks left out.
        table: for the latencies; it covers the subnet.
    """
    known: Sequence[OpSpec] = ()
    if table is not None:
        known = subnet.ops if table.overhead_ms is None else subnet.blocks
    ms = {op: table.ms(op) for op in known} if table is not None else {}
    picks = space.choices_of(subnet) if space is not None and subnet in space else None
    found = [Block("stem", op, ms=ms.get(op)) for op in subnet.stem]
    for s, ops in enumerate(subnet.stages):
        for b, op in enumerate(ops):
            bounds = None
            if space is not None and picks is not None:
                widths = space.stages[s].blocks[b][picks[s][b]].widths
                bounds = widths[0], widths[-1]
            found.append(Block(f"{s + 1}.{b + 1}", op, s, b == 0, bounds, ms.get(op)))
        every = len(space.stages[s].blocks) if space is not None and picks is not None else 0
        if (left := every - len(ops)) > 0:
            name = f"{s + 1}.{len(ops) + 1}{'…' if left > 1 else ''}"
            found.append(Block(name, None, s, left_out=(left, every)))
    return found + [
        Block("head", op, first=i == 0, ms=ms.get(op)) for i, op in enumerate(subnet.head)
    ]


def network(blocks: Sequence[Block], total_ms: float | None) -> Markup:
    """
    Args:
        total_ms: of the whole net on the table; None where there is no table.
    """
    header = HEADER if total_ms is not None else HEADER[:-2]
    largest = max((block.ms or 0.0 for block in blocks), default=0.0)
    rows = [_row(block, len(header), largest, total_ms) for block in blocks]
    cells = (element("th", h, class_="num" if h in NUMERIC else None) for h in header)
    inner = element(
        "table", element("thead", element("tr", *cells)), element("tbody", *rows), class_="net"
    )
    return element("div", inner, class_="scroll", id="network-table")


def _row(block: Block, columns: int, largest: float, total_ms: float | None) -> Markup:
    # The colour is that of the stage in figures, too.
    colour = "var(--muted)" if block.stage is None else f"var(--s{block.stage % 8 + 1})"
    op, style = block.op, f"--bar: {colour}"
    if op is None:
        left_out = "{} of {} blocks left out".format(*block.left_out)
        cells = [element("td", block.name), element("td", left_out, colspan=columns - 1)]
        return element("tr", *cells, class_="muted", style=style)
    cells = [
        element("td", block.name),
        element("td", _map(op.size, op.c_in), class_="muted"),
        element("td", *_op(op)),
        element("td", str(op.stride) if op.stride > 1 else None, class_="num"),
        element("td", f"{op.c_mid / op.c_in:.2f}" if op.c_mid else None, class_="num"),
        element("td", element("span", "SE", class_="mark") if op.c_se else None,
                title=f"squeeze-excite, {op.c_se} channels" if op.c_se else None),
        element("td", "" if op.act == "none" else op.act.replace("_", " "), class_="muted"),
        element("td", *_width(op, block.bounds), class_="span"),
        element("td", _map(op.out_size, op.c_out), class_="num muted"),
    ]  # fmt: skip
    if total_ms is not None:
        cells += _time(block.ms, largest, total_ms)
    inside = block.stage is not None
    return Markup("\n") + element(
        "tr",
        *cells,
        class_="first" if block.first else None,
        style=style,
        data_block=block.name if inside else None,
        data_width=op.c_mid if inside else None,
    )


def _map(size: Size, channels: int) -> str:
    pixels = f"{size}²" if isinstance(size, int) else f"{size.height} × {size.width}"
    return f"{pixels} × {channels}"


def _time(ms: float | None, largest: float, total_ms: float) -> list[Markup]:
    if ms is None:
        return [element("td"), element("td")]
    digits = min(6, max(0, 3 - math.floor(math.log10(total_ms)))) if total_ms > 0 else 0
    share = f"{ms:.{digits}f} ms · {100 * ms / total_ms:4.1f} %"
    return [
        element("td", share, class_="num", data_ms=ms),
        element("td", bar(ms / largest), class_="share"),
    ]


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
