"""Latency on a run's page: against the target, by stage, and while closing on it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from tfnas.files.decode import convert
from tfnas.intervals import plus_minus
from tfnas.latency.stages import StageTimes, parts_of, table_ms
from tfnas.latency.table import LatencyTable
from tfnas.pages import page
from tfnas.pages.plots import (
    BAD,
    DOUBT,
    GOOD,
    INK,
    SERIES,
    Bars,
    Chart,
    Level,
    Point,
    draw,
    rows_height,
)
from tfnas.runs.result import Result
from tfnas.runs.run import clean
from tfnas.space.subnet import Subnet

MOST_STEPS = 200  # of the closed loop that are shown


@dataclass(frozen=True)
class LoopStep:
    """What the closed loop knew after one step."""

    table_ms: float
    measured_ms: float
    measured_ci_ms: tuple[float, float]
    samples: int
    moved: int
    seconds: float


def scale(result: Result) -> Markup:
    """Target with its tolerance, table and measured on one line of milliseconds."""
    points = [Point(result.table_ms, 0, colour=SERIES[7], marker="D")]
    if result.measured_ms is not None and result.measured_ci_ms is not None:
        colour = DOUBT if result.noisy else (INK if result.within else BAD)
        points.append(Point(result.measured_ms, 1, x_interval=result.measured_ci_ms, colour=colour))
    chart = Chart(
        points=points, rows=("table", "measured")[: len(points)], x_label="latency (ms)",
        levels=[Level(result.target_ms, colour=GOOD)], band=_band(result),
    )  # fmt: skip
    caption = f"Green: {_wanted(result)}. Bar: 95 % interval."
    return page.figures(draw("scale", caption, chart, height=1.25, wide=True))


def _band(result: Result) -> tuple[float | None, float]:
    low = None if result.at_most else result.target_ms * (1 - result.tolerance)
    return low, result.target_ms * (1 + result.tolerance)


def _wanted(result: Result) -> str:
    lower = "and all that is lower, with" if result.at_most else "and"
    return f"the target {lower} its tolerance of {100 * result.tolerance:g} %"


def stages_section(
    subnet: Subnet | None, table: LatencyTable | None, times: StageTimes | None
) -> Markup:
    """Where the milliseconds go, table against device as far as measured."""
    if times is not None:
        parts = _measured_stages(times)
    elif table is not None and subnet is not None:
        parts = [_table_stages(_stages_of(subnet, table))]
    else:
        unknown = "Not known: stages weren't measured, and the table can't be read here."
        parts = [page.paragraph(unknown, kind="muted")]
    return page.section("Where the milliseconds go", *parts, name="stages")


def _stages_of(subnet: Subnet, table: LatencyTable) -> list[tuple[str, float]]:
    """(name, ms) of each part that the table has; stem and head together where it has so."""
    parts = [(name, table_ms(table, name, ops)) for name, ops in parts_of(subnet)]
    known = [(name, ms) for name, ms in parts if ms is not None]
    if len(known) < len(parts):
        known.insert(0, ("stem and head", table.fixed(subnet)))
    return known


def _table_stages(stages: Sequence[tuple[str, float]]) -> Markup:
    series = Bars("table", [ms for _, ms in stages], SERIES[7])
    chart = Chart(bars=[series], rows=[name for name, _ in stages], x_label="latency (ms)")
    caption = "By the table; stages weren't measured on the device."
    rows = [(name, page.ms(ms)) for name, ms in stages]
    return page.figures(
        draw("stages", caption, chart, height=max(1.6, rows_height(chart))),
        page.table(("part", "table, ms"), rows, numeric=(1,)),
    )


def _measured_stages(times: StageTimes) -> list[Markup]:
    parts = times.parts
    table = Bars("table", [part.table_ms for part in parts], SERIES[7])
    device = Bars(
        "device, the part alone", [part.device_ms for part in parts], SERIES[0],
        [part.device_ci_ms for part in parts],
    )  # fmt: skip
    chart = Chart(bars=[table, device], rows=[part.name for part in parts], x_label="latency (ms)")
    drawing = draw(
        "stages", f"On {clean(times.device)}; lines: 95 % intervals.", chart,
        label="Stages: table against device", height=max(1.6, rows_height(chart)),
    )  # fmt: skip
    rows = [
        (part.name, page.ms(part.table_ms), page.ms(part.device_ms), plus_minus(*part.device_ci_ms))
        for part in (*parts, times.whole)
    ]
    rows.insert(-1, ("sum of the parts", "", page.ms(times.sum_ms), ""))
    header = ("part", "table, ms", "device, ms", "95 %")
    return [
        page.figures(drawing, page.table(header, rows, numeric=(1, 2, 3), name="stage-times")),
        page.paragraph(
            "The table's figures are what a part costs inside a net. On the device each part was a "
            "model of its own, with the caches to itself: the parts don't add up to the net.",
            kind="muted",
        ),
    ]


def loop_section(loop: Sequence[Mapping[str, Any]], result: Result) -> Markup:
    """What the closed loop measured, step by step; result.json says no more than that it is a list
    of objects."""
    title = "Closing on the device"
    try:
        steps = [convert(step, LoopStep, partly=True) for step in loop[:MOST_STEPS]]
    except ValueError as error:
        return page.section(title, page.note(f"The loop's trail can't be read: a step {error}"))
    points, rows = [], []
    for number, s in enumerate(steps, 1):
        points += [
            Point(number, s.measured_ms, y_interval=s.measured_ci_ms, group="measured"),
            Point(number, s.table_ms, group="table", colour=SERIES[7], marker="D"),
        ]
        rows.append(
            (str(number), page.ms(s.table_ms), page.ms(s.measured_ms),
             plus_minus(*s.measured_ci_ms), page.off(s.measured_ms, result.target_ms),
             str(s.samples), str(s.moved), f"{s.seconds:g}")
        )  # fmt: skip
    caption = (
        "The best net after each step, with its 95 % interval, and what the table says of it. "
        f"Green: {_wanted(result)}."
    )
    chart = Chart(
        points=points, x_label="step", y_label="latency (ms)", whole_x=True, band=_band(result),
        levels=[Level(result.target_ms, f"target {result.target_ms:.4g} ms")],
    )  # fmt: skip
    header = ("step", "table, ms", "measured, ms", "95 %", "off", "samples", "moved", "s")
    return page.section(
        title,
        page.figures(
            draw("loop", caption, chart), page.table(header, rows, numeric=range(8), name="loop")
        ),
        page.left_out(len(loop) - len(steps), "steps"),
        page.paragraph(
            "Moved: ops or widths that differ from the derived net. Each step's figure rests on "
            "all that was measured until then.",
            kind="muted",
        ),
        name="closed-loop",
    )
