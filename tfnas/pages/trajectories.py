"""How a search went, epoch by epoch: figures of `EpochRecord`s for a run's page.

What a strategy didn't tell is left out: `random` and `spos` learn no probabilities, for one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from markupsafe import Markup

from tfnas.pages import page
from tfnas.pages.plots import (
    INK,
    MUTED,
    SERIES,
    WIDE,
    Line,
    count_x,
    draw,
    heat,
    legend_above,
    lines,
    plot_line,
)
from tfnas.space.search_space import SearchSpace
from tfnas.space.subnet import Subnet
from tfnas.strategies.contract import EpochRecord

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Records = Sequence[EpochRecord]
COLUMNS = 6  # of small plots beside each other
MOST_PANELS = 60  # of one kind: more can't be told apart
PANEL = (WIDE / COLUMNS, 1.35)  # inches


def trajectories(
    records: Records,
    space: SearchSpace | None,
    subnet: Subnet | None,
    target_ms: float | None,
) -> Iterator[Markup]:
    """The figures of a history, in the order to read them.

    Args:
        space: names blocks, ops and stages where it fits the history.
        subnet: what was found; its ops are pointed out.
    """
    if not records:
        return
    yield _loss(records)
    yield _accuracy(records)
    if any(r.scaled_ms is not None for r in records):
        yield _latency(records, target_ms)
    if any(r.temperature is not None for r in records):
        caption = "Temperature of the Gumbel softmax, once the architecture is trained."
        y = [r.temperature for r in records]
        yield _line("temperature", "temperature T", y, records, caption)
    caption, rates = "Learning rate of the weights.", [r.learning_rate for r in records]
    yield _line("learning-rate", "learning rate", rates, records, caption)
    names = Names(records, space, subnet)
    panels = max(len(names.blocks), len(records[0].depths), len(records[0].depth_probs))
    if panels > MOST_PANELS:
        yield page.note(
            f"{panels} blocks or stages are more than can be drawn one by one: {MOST_PANELS} are "
            "the most."
        )
        return
    if records[0].entropy:
        yield _entropy(records, names)
    if records[0].depth_probs:
        yield _depth_probs(records, names, space)
    if records[0].depths:
        yield _depths(records)
    if records[0].sampled:
        yield _sampled(records, names)
    if records[0].op_probs:
        yield _op_probs(records, names)
    if records[0].widths:
        yield _widths(records, names)


class Names:
    """What the blocks and ops of a history are called.

    Attributes:
        blocks: such as 2.1, the first of stage 2; else numbers.
        stages: of each block, from 0.
        ops: such as `k5 e6 SE`, the same in all blocks, or numbers where they aren't.
        picks: of each block the op that was found, None where the block was left out.
        found: whether `picks` are known.
        depths_by_stage: whether depth probabilities are those of each stage's depths.
        c_in: of each block, None where the space isn't known.
    """

    def __init__(self, records: Records, space: SearchSpace | None, subnet: Subnet | None):
        first = records[0]
        rows = first.op_probs or first.sampled or first.widths
        most = max((len(row) for row in rows), default=0)
        self.picks: list[int | None] = [None] * len(rows)
        self.blocks = [str(i + 1) for i in range(len(rows))]
        self.stages = [0] * len(rows)
        self.ops = [f"op {i + 1}" for i in range(most)]
        self.c_in: list[int] | None = None
        self.found = False
        lengths = [len(row) for row in first.depth_probs]
        self.depths_by_stage = len(lengths) == len(first.depths)
        if space is None or len(space.blocks) != len(rows):
            return
        choices = max(map(len, space.blocks))
        if most not in (choices, choices + 1):  # `strategy.depth` may add one
            return
        self.blocks = [
            f"{s}.{b}"
            for s, stage in enumerate(space.stages, 1)
            for b in range(1, len(stage.blocks) + 1)
        ]
        self.stages = [s for s, stage in enumerate(space.stages) for _ in stage.blocks]
        self.c_in = [block[0].op.c_in for block in space.blocks]
        labels = {tuple(op_label(choice.name) for choice in block) for block in space.blocks}
        if len(labels) == 1:
            self.ops = [*next(iter(labels)), "skip"][:most]
        self.depths_by_stage = lengths == [len(stage.depths) for stage in space.stages]
        # Where single blocks are skipped, the net's places aren't the history's blocks.
        skips = most > choices or (lengths and not self.depths_by_stage)
        if subnet is not None and not skips:
            try:
                picks = space.choices_of(subnet)
            except ValueError:
                return
            self.found = True
            for (s, stage), row in zip(enumerate(space.stages), picks, strict=True):
                start = sum(len(before.blocks) for before in space.stages[:s])
                kept: list[int | None] = [*row, *[None] * (len(stage.blocks) - len(row))]
                self.picks[start : start + len(kept)] = kept

    def told(self, block: int) -> str:
        """The title of a block's plot."""
        if not self.found:
            return self.blocks[block]
        pick = self.picks[block]
        return f"{self.blocks[block]}  {'left out' if pick is None else self.ops[pick]}"


@dataclass(frozen=True)
class Departure:
    """A choice of the net that was found which isn't the most probable one.

    Attributes:
        place: the stage or block.
        found, probable: the choices, with their probabilities.
    """

    place: str
    found: str
    probable: str


def departures(
    records: Records, space: SearchSpace | None, subnet: Subnet | None
) -> list[Departure] | None:
    """In the last epoch; None where no probabilities were learned, or the names don't fit them."""
    if not records or space is None or subnet is None or not records[-1].op_probs:
        return None
    names, last = Names(records, space, subnet), records[-1]
    if not names.found:
        return None
    told = []
    if names.depths_by_stage:
        for s, (stage, row) in enumerate(zip(space.stages, last.depth_probs, strict=True)):
            depths = [f"{depth} block{'s' if depth > 1 else ''}" for depth in stage.depths]
            told.append((f"stage {s + 1}", stage.depths.index(subnet.depths[s]), depths, row))
    for block, (pick, row) in enumerate(zip(names.picks, last.op_probs, strict=True)):
        if pick is not None:
            told.append((f"block {names.blocks[block]}", pick, names.ops, row))
    return [
        Departure(place, *(f"{labels[i]} ({row[i]:.2f})" for i in (pick, int(np.argmax(row)))))
        for place, pick, labels, row in told
        if row[pick] < max(row)
    ]


def op_label(name: str) -> str:
    """k5_e6_se as it is read: k5 e6 SE."""
    return name.replace("_se", " SE").replace("_", " ")


def colour(index: int) -> tuple[str, bool]:
    """(colour, dashed) of the index-th of several things."""
    return SERIES[index % len(SERIES)], index >= len(SERIES)


def _epochs(records: Records) -> list[float]:
    return [r.epoch + 1 for r in records]


def _line(
    name: str, y_label: str, y: Sequence[float | None], records: Records, caption: str
) -> Markup:
    drawn = [Line(y_label, _epochs(records), y, SERIES[0])]
    return page.figure(
        lines(name, caption, drawn, x_label="epoch", y_label=y_label, from_zero=True), caption
    )


def _loss(records: Records) -> Markup:
    drawn = [Line("training", _epochs(records), [r.train_loss for r in records], SERIES[0])]
    caption = "Supernet loss on training batches."
    return page.figure(
        lines("loss", caption, drawn, x_label="epoch", y_label="cross-entropy (nats)"), caption
    )


def _accuracy(records: Records) -> Markup:
    x = _epochs(records)
    drawn = [
        Line("training", x, [r.train_top1 for r in records], SERIES[0]),
        Line("held out", x, [r.held_out_top1 for r in records], SERIES[1]),
    ]
    caption = (
        "Supernet accuracy on augmented training batches, and on the part of the data that is "
        "held out for the architecture."
    )
    return page.figure(
        lines("accuracy", caption, drawn, x_label="epoch", y_label="top-1 (%)", from_zero=True),
        caption,
    )


def _latency(records: Records, target_ms: float | None) -> Markup:
    x = _epochs(records)
    drawn = [
        Line("most probable", x, [r.derived_ms for r in records], SERIES[7]),
        Line("scaled", x, [r.scaled_ms for r in records], SERIES[0]),
    ]
    caption = "Latency of the most probable net on the table, before and after scaling its widths."
    if any(r.expected_ms is not None for r in records):
        drawn.append(Line("expected", x, [r.expected_ms for r in records], SERIES[1], dashed=True))
        caption += " Dashed: expected by all probabilities, what the latency loss is given."
    level = None if target_ms is None else (target_ms, "target")
    return page.figure(
        lines("latency", caption, drawn, x_label="epoch", y_label="latency (ms)", level=level),
        caption,
    )


def _entropy(records: Records, names: Names) -> Markup:
    levels = {len(row) for row in records[0].op_probs}  # more where a block may be skipped

    def paint(axes: Axes) -> None:
        told = set()
        for block in range(len(records[0].entropy)):
            stage = names.stages[block] if block < len(names.stages) else 0
            shade, dashed = colour(stage)
            label = f"stage {stage + 1}" if stage not in told else "_"
            told.add(stage)
            y = [r.entropy[block] for r in records]
            plot_line(
                axes, Line(label, _epochs(records), y, shade, dashed), width=1.0, markers=False
            )
        for ops in sorted(levels):
            axes.axhline(math.log(ops), color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
        if levels:  # what hardly moves looks so
            lowest = min((e for r in records for e in r.entropy), default=0.0)
            axes.set_ylim(bottom=min(lowest, 0.9 * math.log(min(levels))))
        count_x(axes)
        axes.set_xlabel("epoch")
        axes.set_ylabel("entropy (nats)")
        legend_above(axes, 4)

    told = " or ".join(map(str, sorted(levels)))
    dashed = f" Dashed: all {told} ops of a block equally probable." if levels else ""
    caption = f"Entropy of the op probabilities, a line a block.{dashed}"
    return page.figure(draw("entropy", caption, paint), caption)


def _panels(
    name: str,
    caption: str,
    count: int,
    paint: Callable[[Axes, int], None],
    *,
    y_label: str,
    legend: Sequence[str] = (),
    share_y: bool = True,
) -> Markup:
    """Small plots over epochs, `COLUMNS` beside each other, with one legend above."""
    columns = min(COLUMNS, max(count, 4))  # few don't become huge
    rows = math.ceil(count / columns)

    def paint_all(grid: Any) -> None:
        from matplotlib.lines import Line2D

        for index, axes in enumerate(grid.flat):
            if index >= count:
                axes.set_visible(False)
                continue
            paint(axes, index)
            count_x(axes, 4)
            if index + columns >= count:
                axes.set_xlabel("epoch")
                axes.tick_params(labelbottom=True)
            if index % columns == 0:
                axes.set_ylabel(y_label)
        if legend:
            handles = []
            for i, label in enumerate(legend):
                shade, dashed = colour(i)
                handle = Line2D([], [], color=shade, label=label)
                handle.set_linestyle("--" if dashed else "-")
                handles.append(handle)
            grid.flat[0].figure.legend(
                handles=handles, loc="outside upper left", ncols=min(8, len(handles)),
                handlelength=1.4, columnspacing=1.4,
            )  # fmt: skip

    height = rows * PANEL[1] + 0.35 + (0.3 if legend else 0)
    drawing = draw(
        name, caption, paint_all, size=(WIDE, height), rows=rows, columns=columns, sharex=True,
        sharey=share_y,
    )  # fmt: skip
    return page.figure(drawing, caption, wide=True)


def _ops_in_panel(
    axes: Axes, names: Names, block: int, records: Records, series: Sequence[Sequence[float]]
) -> None:
    """One line an op; that of the op that was found stands out."""
    pick = names.picks[block]
    for op, y in enumerate(series):
        shade, dashed = colour(op)
        chosen = op == pick
        line = Line("_", _epochs(records), y, shade, dashed)
        plot_line(axes, line, width=2.0 if chosen else 0.9, markers=False, above=chosen)
    axes.set_title(names.told(block), color=MUTED if names.found and pick is None else INK)


def _op_probs(records: Records, names: Names) -> Markup:
    def paint(axes: Axes, block: int) -> None:
        count = len(records[0].op_probs[block])
        axes.axhline(1 / max(1, count), color=MUTED, linewidth=0.8, linestyle=(0, (4, 3)))
        series = [[r.op_probs[block][op] for r in records] for op in range(count)]
        _ops_in_panel(axes, names, block, records, series)

    found = " The op that was found is in the title and drawn thicker." if names.found else ""
    return _panels(
        "op-probabilities",
        f"Op probabilities of each block. Dashed: all equally probable.{found}",
        len(records[0].op_probs),
        paint,
        y_label="probability",
        legend=names.ops,
    )


def _widths(records: Records, names: Names) -> Markup:
    c_in = names.c_in

    def paint(axes: Axes, block: int) -> None:
        unit = c_in[block] if c_in else 1
        count = len(records[0].widths[block])
        series = [[r.widths[block][op] / unit for r in records] for op in range(count)]
        _ops_in_panel(axes, names, block, records, series)

    return _panels(
        "widths",
        "Mid width of each block's ops"
        + (", as a multiple of the block's input channels." if c_in else ".")
        + " Ops of one width lie on one line.",
        len(records[0].widths),
        paint,
        y_label="width / input" if c_in else "channels",
        legend=names.ops,
        share_y=c_in is not None,
    )


def _depth_probs(records: Records, names: Names, space: SearchSpace | None) -> Markup:
    most = max(len(row) for row in records[0].depth_probs)
    least = {stage.min_depth for stage in space.stages} if space is not None else {1}
    first = least.pop() if len(least) == 1 else None
    legend = [
        f"smallest depth + {d}" if first is None else f"depth {d + first}" for d in range(most)
    ]
    caption, panel = "Depth probabilities (betas) of each stage.", "stage"
    if not names.depths_by_stage:
        legend = ["run", "skip"][:most]
        caption = "Probabilities (betas) of running and of skipping each block that may be skipped."
        panel = "gate"

    def paint(axes: Axes, stage: int) -> None:
        for depth in range(len(records[0].depth_probs[stage])):
            shade, dashed = colour(depth)
            y = [r.depth_probs[stage][depth] for r in records]
            plot_line(axes, Line("_", _epochs(records), y, shade, dashed), markers=False)
        axes.set_title(f"{panel} {stage + 1}")

    return _panels(
        "depth-probabilities",
        caption,
        len(records[0].depth_probs),
        paint,
        y_label="probability",
        legend=legend,
    )


def _depths(records: Records) -> Markup:
    most = max(depth for r in records for depth in r.depths)

    def paint(axes: Axes, stage: int) -> None:
        from matplotlib.ticker import MaxNLocator

        y = [float(r.depths[stage]) for r in records]
        plot_line(axes, Line("_", _epochs(records), y, SERIES[0]), markers=False)
        axes.set_ylim(0, most + 0.5)
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_title(f"stage {stage + 1}")

    return _panels(
        "depths",
        "Depth of the most probable net: blocks kept in each stage.",
        len(records[0].depths),
        paint,
        y_label="blocks",
    )


def _sampled(records: Records, names: Names) -> Markup:
    ops = max(len(row) for row in records[0].sampled)
    totals = np.full((len(records[0].sampled), ops), np.nan)
    for block in range(len(totals)):
        for op in range(len(records[0].sampled[block])):
            totals[block, op] = sum(r.sampled[block][op] for r in records)
    top = float(np.nanmax(totals)) if np.isfinite(totals).any() else 0.0
    caption = "How often each op was trained, all epochs and paths." + (
        " Outlined: the op that was found." if names.found else ""
    )
    drawing = heat(
        "sampled", caption, totals, rows=names.blocks, columns=names.ops, most=1.4 * top,
        texts=[[f"{v:,.0f}" for v in row] for row in totals], y_label="block",
        outlined=[(b, p) for b, p in enumerate(names.picks) if p is not None],
        size=(WIDE, 0.5 + 0.2 * len(totals)), above=True,
    )  # fmt: skip
    return page.figure(drawing, caption, wide=True)
