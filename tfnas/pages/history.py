"""How a search went, epoch by epoch: what its history tells, and the figures of that.

What a strategy leaves open is left out: `random` and `spos` learn no probabilities, for one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from markupsafe import Markup

from tfnas.pages import page
from tfnas.pages.plots import MUTED, SERIES, Chart, Level, Line, colour_of, draw, heat, panels
from tfnas.space.search_space import SearchSpace
from tfnas.space.subnet import Subnet
from tfnas.strategies.contract import EpochRecord

MOST_PANELS = 60  # of one kind: more can't be told apart


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


@dataclass(frozen=True)
class SearchHistory:
    """The epochs of a search, and the names of what they hold.

    Attributes:
        records: one or more.
        blocks: such as 2.1, the first of stage 2; else numbers.
        stages: of each block, from 0.
        ops: such as `k5 e6 SE`, the same in all blocks, or numbers where they aren't.
        picks: of each block the op that was found, None where the block was left out; None where
            the net isn't known, or its places aren't the history's blocks.
        depths_by_stage: whether depth probabilities are those of each stage's depths.
        first_depth: the smallest depth of a stage, where all have the same.
        c_in: of each block, None where the space isn't known.
        departures: in the last epoch; None where no probabilities were learned, or the names don't
            fit them.
    """

    records: Sequence[EpochRecord]
    blocks: Sequence[str]
    stages: Sequence[int]
    ops: Sequence[str]
    depths_by_stage: bool
    first_depth: int | None
    picks: Sequence[int | None] | None = None
    c_in: Sequence[int] | None = None
    departures: Sequence[Departure] | None = None

    @property
    def epochs(self) -> list[float]:
        return [r.epoch + 1 for r in self.records]


def gather_history(
    records: Sequence[EpochRecord], space: SearchSpace | None, subnet: Subnet | None
) -> SearchHistory:
    """
    Args:
        space: names blocks, ops and stages where it fits the history.
        subnet: what was found.
    """
    first = records[0]
    rows = first.op_probs or first.sampled or first.widths
    most = max(map(len, rows), default=0)
    depths = [len(row) for row in first.depth_probs]
    least = {stage.min_depth for stage in space.stages} if space is not None else {1}
    history = SearchHistory(
        records=records,
        blocks=[str(i + 1) for i in range(len(rows))],
        stages=[0] * len(rows),
        ops=[f"op {i + 1}" for i in range(most)],
        depths_by_stage=len(depths) == len(first.depths),
        first_depth=least.pop() if len(least) == 1 else None,
    )
    if space is None or len(space.blocks) != len(rows):
        return history
    choices = max(map(len, space.blocks))
    if most not in (choices, choices + 1):  # `strategy.depth` may add one
        return history
    places = [(s, b) for s, stage in enumerate(space.stages) for b in range(len(stage.blocks))]
    labels = {tuple(op_label(choice.name) for choice in block) for block in space.blocks}
    by_stage = depths == [len(stage.depths) for stage in space.stages]
    # Where single blocks are skipped, the net's places aren't the history's blocks.
    skips = most > choices or (depths and not by_stage)
    history = replace(
        history,
        blocks=[f"{s + 1}.{b + 1}" for s, b in places],
        stages=[s for s, _ in places],
        ops=[*labels.pop(), "skip"][:most] if len(labels) == 1 else history.ops,
        depths_by_stage=by_stage,
        picks=None if skips or subnet is None else _picks(space, subnet),
        c_in=[block[0].op.c_in for block in space.blocks],
    )
    if subnet is None or history.picks is None or not records[-1].op_probs:
        return history
    return replace(history, departures=_departures(history, space, subnet))


def _picks(space: SearchSpace, subnet: Subnet) -> list[int | None] | None:
    try:
        found = space.choices_of(subnet)
    except ValueError:
        return None
    picks: list[int | None] = []
    for stage, row in zip(space.stages, found, strict=True):
        picks += [*row, *[None] * (len(stage.blocks) - len(row))]
    return picks


def _departures(history: SearchHistory, space: SearchSpace, subnet: Subnet) -> list[Departure]:
    assert history.picks is not None
    last, choices = history.records[-1], []
    if history.depths_by_stage:
        for s, (stage, row) in enumerate(zip(space.stages, last.depth_probs, strict=True)):
            depths = [page.count(depth, "block") for depth in stage.depths]
            choices.append((f"stage {s + 1}", stage.depths.index(subnet.depths[s]), depths, row))
    for block, (pick, row) in enumerate(zip(history.picks, last.op_probs, strict=True)):
        if pick is not None:
            choices.append((f"block {history.blocks[block]}", pick, [*history.ops], row))
    return [
        Departure(place, *(f"{labels[i]} ({row[i]:.2f})" for i in (pick, int(np.argmax(row)))))
        for place, pick, labels, row in choices
        if row[pick] < max(row)
    ]


def op_label(name: str) -> str:
    """k5_e6_se as it is read: k5 e6 SE."""
    return name.replace("_se", " SE").replace("_", " ")


def history_figures(history: SearchHistory, target_ms: float | None) -> Iterator[Markup]:
    """The figures of a history, in the order to read them."""
    first = history.records[0]
    yield _plain(history, "loss", "Supernet loss on training batches.", "cross-entropy (nats)",
                 ("training", "train_loss"))  # fmt: skip
    yield _plain(
        history, "accuracy", "Supernet accuracy on augmented training batches, and on the part of "
        "the data that is held out for the architecture.", "top-1 (%)",
        ("training", "train_top1"), ("held out", "held_out_top1"), bottom=0,
    )  # fmt: skip
    if any(r.scaled_ms is not None for r in history.records):
        yield _latency(history, target_ms)
    if any(r.temperature is not None for r in history.records):
        yield _plain(
            history, "temperature",
            "Temperature of the Gumbel softmax, once the architecture is trained.", "temperature T",
            ("", "temperature"), bottom=0,
        )  # fmt: skip
    yield _plain(history, "learning-rate", "Learning rate of the weights.", "learning rate",
                 ("", "learning_rate"), bottom=0)  # fmt: skip
    most = max(len(history.blocks), len(first.depths), len(first.depth_probs))
    if most > MOST_PANELS:
        yield page.note(
            f"{most} blocks or stages are more than can be drawn one by one: {MOST_PANELS} are the "
            "most."
        )
        return
    for field, drawing in (
        (first.entropy, _entropy),
        (first.depth_probs, _depth_probs),
        (first.depths, _depths),
        (first.sampled, _sampled),
        (first.op_probs, _op_probs),
        (first.widths, _widths),
    ):
        if field:
            yield drawing(history)


def _plain(
    history: SearchHistory,
    name: str,
    caption: str,
    y_label: str,
    *series: tuple[str, str],
    bottom: float | None = None,
) -> Markup:
    """
    Args:
        series: (label, field of the records) of each line.
    """
    lines = [
        Line(label, history.epochs, [getattr(r, field) for r in history.records], SERIES[i])
        for i, (label, field) in enumerate(series)
    ]
    chart = Chart(lines=lines, x_label="epoch", y_label=y_label, whole_x=True, bottom=bottom)
    return draw(name, caption, chart)


def _latency(history: SearchHistory, target_ms: float | None) -> Markup:
    x, records = history.epochs, history.records
    lines = [
        Line("most probable", x, [r.derived_ms for r in records], SERIES[7]),
        Line("scaled", x, [r.scaled_ms for r in records], SERIES[0]),
    ]
    caption = "Latency of the most probable net on the table, before and after scaling its widths."
    if any(r.expected_ms is not None for r in records):
        lines.append(Line("expected", x, [r.expected_ms for r in records], SERIES[1], dashed=True))
        caption += " Dashed: expected by all probabilities, what the latency loss is given."
    chart = Chart(
        lines=lines, levels=() if target_ms is None else [Level(target_ms, "target")],
        x_label="epoch", y_label="latency (ms)", whole_x=True,
    )  # fmt: skip
    return draw("latency", caption, chart)


def _entropy(history: SearchHistory) -> Markup:
    records = history.records
    lines: list[Line] = []
    for block in range(len(records[0].entropy)):
        stage = history.stages[block] if block < len(history.stages) else 0
        colour, dashed = colour_of(stage)
        label = f"stage {stage + 1}"
        label = "" if label in {line.label for line in lines} else label
        y = [r.entropy[block] for r in records]
        lines.append(Line(label, history.epochs, y, colour, dashed, width=1.0, markers=False))
    counts = sorted({len(row) for row in records[0].op_probs})  # more where a block may be skipped
    caption, bottom = "Entropy of the op probabilities, a line a block.", None
    if counts:
        several = " or ".join(map(str, counts))
        caption += f" Dashed: all {several} ops of a block equally probable."
        # What hardly moves looks so.
        bottom = min(*(e for r in records for e in r.entropy), 0.9 * math.log(counts[0]))
    chart = Chart(
        lines=lines, levels=[Level(math.log(ops), colour=MUTED) for ops in counts], bottom=bottom,
        x_label="epoch", y_label="entropy (nats)", whole_x=True,
    )  # fmt: skip
    return draw("entropy", caption, chart)


def _panel(
    history: SearchHistory,
    title: str,
    y_label: str,
    rows: Sequence[Sequence[float]],
    thick: int | None = None,
    thin: float = 1.5,
    **more: Any,
) -> Chart:
    """A line for each choice.

    Args:
        rows: of each epoch a value for every choice.
        thick: the choice whose line stands out, in a panel of lines as `thin`.
    """
    lines = [
        Line("", history.epochs, y, *colour_of(i), width=2.0 if i == thick else thin, markers=False)
        for i, y in enumerate(zip(*rows, strict=True))
    ]
    return Chart("epoch", y_label, title, lines=lines, whole_x=True, **more)


def _op_panel(
    history: SearchHistory,
    block: int,
    y_label: str,
    rows: Sequence[Sequence[float]],
    levels: Sequence[Level] = (),
) -> Chart:
    """A line an op; that of the op that was found stands out."""
    title, pick, muted = history.blocks[block], None, False
    if history.picks is not None:
        pick = history.picks[block]
        title += "  left out" if pick is None else f"  {history.ops[pick]}"
        muted = pick is None
    return _panel(history, title, y_label, rows, pick, 0.9, levels=levels, muted=muted)


def _op_probs(history: SearchHistory) -> Markup:
    charts = []
    for block, row in enumerate(history.records[0].op_probs):
        rows = [r.op_probs[block] for r in history.records]
        level = Level(1 / max(1, len(row)), colour=MUTED)
        charts.append(_op_panel(history, block, "probability", rows, [level]))
    found = " The op that was found is in the title and drawn thicker." if history.picks else ""
    caption = f"Op probabilities of each block. Dashed: all equally probable.{found}"
    return panels("op-probabilities", caption, charts, legend=history.ops)


def _widths(history: SearchHistory) -> Markup:
    c_in, y_label, unit = [1] * len(history.blocks), "channels", ""
    if history.c_in is not None:
        c_in, y_label = [*history.c_in], "width / input"
        unit = ", as a multiple of the block's input channels"
    charts = []
    for block in range(len(history.records[0].widths)):
        rows = [[w / c_in[block] for w in r.widths[block]] for r in history.records]
        charts.append(_op_panel(history, block, y_label, rows))
    caption = f"Mid width of each block's ops{unit}. Ops of one width lie on one line."
    share_y = history.c_in is not None
    return panels("widths", caption, charts, legend=history.ops, share_y=share_y)


def _depth_probs(history: SearchHistory) -> Markup:
    first, least = history.records[0].depth_probs, history.first_depth
    start = "smallest depth + {}" if least is None else "depth {}"
    most = max(map(len, first))
    legend = [start.format(depth + (least or 0)) for depth in range(most)]
    caption, place = "Depth probabilities (betas) of each stage.", "stage"
    if not history.depths_by_stage:
        legend, place = ["run", "skip"][:most], "gate"
        caption = "Probabilities (betas) of running and of skipping each block that may be skipped."
    charts = []
    for i in range(len(first)):
        rows = [r.depth_probs[i] for r in history.records]
        charts.append(_panel(history, f"{place} {i + 1}", "probability", rows))
    return panels("depth-probabilities", caption, charts, legend=legend)


def _depths(history: SearchHistory) -> Markup:
    records = history.records
    top = max(depth for r in records for depth in r.depths) + 0.5
    charts = []
    for s in range(len(records[0].depths)):
        rows = [[r.depths[s]] for r in records]
        charts.append(_panel(history, f"stage {s + 1}", "blocks", rows, bottom=0, top=top))
    return panels("depths", "Depth of the most probable net: blocks kept in each stage.", charts)


def _sampled(history: SearchHistory) -> Markup:
    counts = [row.sampled for row in history.records]
    totals = np.full((len(counts[0]), max(map(len, counts[0]))), np.nan)
    for block, row in enumerate(counts[0]):
        totals[block, : len(row)] = np.sum([epoch[block] for epoch in counts], axis=0)
    found = " Outlined: the op that was found." if history.picks else ""
    return heat(
        "sampled",
        f"How often each op was trained, all epochs and paths.{found}",
        totals,
        rows=history.blocks,
        columns=history.ops,
        outlined=[(b, p) for b, p in enumerate(history.picks or ()) if p is not None],
        y_label="block",
    )
