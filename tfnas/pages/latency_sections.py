"""Sections of a run's page on latency: against the target, by stage, and while closing on it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from tfnas.files.decode import convert
from tfnas.intervals import plus_minus
from tfnas.latency.stages import StageTimes, parts_of, table_ms
from tfnas.latency.table import LatencyTable
from tfnas.pages import page
from tfnas.pages.plots import (
    BAD,
    DOUBT,
    FEW,
    GOOD,
    INK,
    SERIES,
    WIDE,
    bars,
    draw,
    legend_above,
    mark_level,
)
from tfnas.runs.result import Result
from tfnas.runs.run import clean
from tfnas.space.subnet import Subnet

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MINUS = "−"
MOST_STEPS = 200  # of the closed loop that are shown


def off(ms: float, target_ms: float) -> str:
    """How far from the target, signed."""
    return f"{100 * (ms / target_ms - 1):+.2f} %".replace("-", MINUS)


def scale(result: Result) -> Markup:
    """Target with its tolerance, table and measured on one line of milliseconds."""
    low = result.target_ms * (1 - result.tolerance)
    high = result.target_ms * (1 + result.tolerance)

    def paint(axes: Axes) -> None:
        axes.axvline(result.target_ms, color=GOOD, linewidth=1.4)
        names = ["table"]
        axes.plot([result.table_ms], [0], "D", color=SERIES[7], markersize=6)
        if result.measured_ms is not None and result.measured_ci_ms is not None:
            names.append("measured")
            colour = DOUBT if result.noisy else (INK if result.within else BAD)
            axes.plot(result.measured_ci_ms, (1, 1), color=colour, linewidth=2.2)
            axes.plot([result.measured_ms], [1], "o", color=colour, markersize=7)
        axes.set_yticks(range(len(names)), names)
        axes.set_ylim(len(names) - 0.5, -0.5)
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="y", visible=False)
        axes.spines["left"].set_visible(False)
        axes.margins(x=0.08)
        left, right = axes.get_xlim()
        start = left if result.at_most else low
        axes.axvspan(start, high, color=GOOD, alpha=0.16, linewidth=0)
        axes.set_xlim(min(left, start), max(right, high))
        axes.set_xlabel("latency (ms)")

    caption = f"Green: {_wanted(result)}. Bar: 95 % interval."
    return page.figures(
        page.figure(draw("scale", caption, paint, size=(WIDE, 1.25)), caption, wide=True)
    )


def _wanted(result: Result) -> str:
    lower = "and all that is lower, with" if result.at_most else "and"
    return f"the target {lower} its tolerance of {100 * result.tolerance:g} %"


def stages_section(
    subnet: Subnet | None, table: LatencyTable | None, times: StageTimes | None
) -> Markup:
    """Where the milliseconds go, table against device as far as measured."""
    title = "Where the milliseconds go"
    if times is not None:
        return page.section(title, *_measured_stages(times), name="stages")
    if table is None or subnet is None:
        told = "Not told: stages weren't measured, and the table can't be read here."
        return page.section(title, page.paragraph(told, kind="muted"), name="stages")
    parts = [(n, table_ms(table, n, ops)) for n, ops in parts_of(subnet)]
    known = [(name, ms) for name, ms in parts if ms is not None]
    if len(known) < len(parts):
        known.insert(0, ("stem and head", table.fixed_ms(subnet)))
    series = [("table", [ms for _, ms in known], SERIES[7])]
    caption = "By the table; stages weren't measured on the device."
    drawing = bars("stages", caption, [n for n, _ in known], series, x_label="latency (ms)")
    rows = [(name, f"{ms:.4g}") for name, ms in known]
    return page.section(
        title,
        page.figures(
            page.figure(drawing, caption), page.table(("part", "table, ms"), rows, numeric=(1,))
        ),
        name="stages",
    )


def _measured_stages(stages: StageTimes) -> Iterator[Markup]:
    parts = stages.parts
    drawing = bars(
        "stages",
        "Stages: table against device",
        [part.name for part in parts],
        [
            ("table", [part.table_ms for part in parts], SERIES[7]),
            ("device, the part alone", [part.device_ms for part in parts], SERIES[0]),
        ],
        x_label="latency (ms)",
        intervals=[[None] * len(parts), [part.device_ci_ms for part in parts]],
    )
    rows = [
        (
            part.name,
            "–" if part.table_ms is None else f"{part.table_ms:.4g}",
            f"{part.device_ms:.4g}",
            plus_minus(*part.device_ci_ms),
        )
        for part in (*parts, stages.whole)
    ]
    rows.insert(-1, ("sum of the parts", "", f"{stages.sum_ms:.4g}", ""))
    header = ("part", "table, ms", "device, ms", "95 %")
    yield page.figures(
        page.figure(drawing, f"On {clean(stages.device)}; lines: 95 % intervals."),
        page.table(header, rows, numeric=(1, 2, 3), name="stage-times"),
    )
    yield page.paragraph(
        "The table's figures are what a part costs inside a net. On the device each part was a "
        "model of its own, with the caches to itself: the parts don't add up to the net.",
        kind="muted",
    )


@dataclass(frozen=True)
class _Step:
    table_ms: float
    measured_ms: float
    measured_ci_ms: tuple[float, float]
    samples: int
    moved: int
    seconds: float


def loop_section(loop: list[dict[str, Any]], result: Result) -> Markup:
    """What the closed loop measured, step by step; result.json says no more than that it is a list
    of objects."""
    title = "Closing on the device"
    try:
        steps = [convert(step, _Step, partly=True) for step in loop[:MOST_STEPS]]
    except ValueError as error:
        return page.section(title, page.note(f"The loop's trail can't be read: a step {error}"))
    target_ms, tolerance = result.target_ms, result.tolerance

    def paint(axes: Axes) -> None:
        mark_level(axes, target_ms, f"target {target_ms:.4g} ms")
        numbers = range(1, len(steps) + 1)
        for number, step in zip(numbers, steps, strict=True):
            axes.plot((number, number), step.measured_ci_ms, color=SERIES[0])
        measured = [step.measured_ms for step in steps]
        axes.plot(numbers, measured, "o", color=SERIES[0], markersize=5, label="measured")
        table = [step.table_ms for step in steps]
        axes.plot(numbers, table, "D", color=SERIES[7], markersize=4, label="table")
        legend_above(axes)
        lowest, highest = axes.get_ylim()
        start = lowest if result.at_most else target_ms * (1 - tolerance)
        end = target_ms * (1 + tolerance)
        axes.axhspan(start, end, color=GOOD, alpha=0.16, linewidth=0)
        axes.set_ylim(min(lowest, start), max(highest, end))
        axes.set_xlim(0.5, len(steps) + 0.5)
        if len(steps) <= FEW:
            axes.set_xticks(numbers)
        axes.set_xlabel("step")
        axes.set_ylabel("latency (ms)")

    caption = (
        "The best net after each step, with its 95 % interval, and what the table says of it. "
        f"Green: {_wanted(result)}."
    )
    left_out = len(loop) - len(steps)
    if left_out:
        caption += f" Of {len(loop):,} steps the last {left_out:,} are left out."
    rows = [
        (str(i), f"{s.table_ms:.4g}", f"{s.measured_ms:.4g}", plus_minus(*s.measured_ci_ms),
         off(s.measured_ms, target_ms), str(s.samples), str(s.moved), f"{s.seconds:g}")
        for i, s in enumerate(steps, 1)
    ]  # fmt: skip
    header = ("step", "table, ms", "measured, ms", "95 %", "off", "samples", "moved", "s")
    return page.section(
        title,
        page.figures(
            page.figure(draw("loop", caption, paint), caption),
            page.table(header, rows, numeric=range(8), name="loop"),
        ),
        page.paragraph(
            "Moved: ops or widths that differ from the derived net. Each step's figure rests on "
            "all that was measured until then.",
            kind="muted",
        ),
        name="closed-loop",
    )
