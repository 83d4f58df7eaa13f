"""Figures as SVG for `tfnas.pages.page`, drawn by matplotlib: text stays text, colours follow the
theme.

A `Chart` is plain data: lines, points, bars and levels. `draw`, `panels` and `heat` draw; what they
draw depends on nothing but their arguments.
"""

from __future__ import annotations

import io
import logging
import math
import re
import warnings
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from tfnas.files.bounded import printable
from tfnas.pages.page import Part, figure, text

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes

# Colours that nothing else has: they become the variables of the style sheet.
COLOURS = (
    "paper", "panel", "ink", "muted", "line", "good", "bad", "doubt",
    "s1", "s2", "s3", "s4", "s5", "s6", "s7", "s8",
)  # fmt: skip
PLACEHOLDERS = {name: f"#fe{index:02x}01" for index, name in enumerate(COLOURS)}
PAPER, _, INK, MUTED, GRID, GOOD, BAD, DOUBT, *SERIES = PLACEHOLDERS.values()
FONT = "DejaVu Sans"  # comes with matplotlib: lengths of text are estimated with it everywhere
WIDTH, HEIGHT = 3.9, 2.5  # inches: two or three beside each other
WIDE = 12.2  # inches: alone in its row
COLUMNS = 6  # of small plots beside each other
PANEL_HEIGHT = 1.35  # inches
FEW = 20  # points that can be told apart
DASHED = (0, (4, 3))
LONGEST = 24  # characters of a name in a figure
LABEL_HEIGHT = 11.0  # points: of a line of text beside a point

STYLE: Any = {
    "svg.fonttype": "none",
    "text.parse_math": False,  # a name may hold dollars
    "font.family": [FONT],
    "font.size": 9.5,
    "axes.labelsize": 9.5,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "legend.fontsize": 8.5,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "text.color": INK,
    "axes.labelcolor": MUTED,
    "xtick.color": GRID,
    "ytick.color": GRID,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "axes.edgecolor": GRID,
    "axes.formatter.useoffset": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "legend.frameon": False,
    "lines.linewidth": 1.5,
    "lines.markersize": 3.5,
    "hatch.color": PAPER,
}


@dataclass(frozen=True)
class Line:
    """One line, with a marker at each of its points where they are few.

    Attributes:
        label: "" or "_": not in the legend.
        y: may hold None where there is no value.
        width: points; a thicker line lies above thinner ones.
        spread: half of the interval at each point; 0 where it isn't known.
        ringed: indices of points that deserve doubt.
        name: a part of its id.
    """

    label: str
    x: Sequence[float]
    y: Sequence[float | None]
    colour: str
    dashed: bool = False
    width: float = 1.5
    markers: bool = True
    spread: Sequence[float] = ()
    ringed: Sequence[int] = ()
    name: str | None = None


@dataclass(frozen=True)
class Point:
    """One point with its intervals: (low, high) or None."""

    x: float
    y: float
    label: str = ""
    x_interval: tuple[float, float] | None = None
    y_interval: tuple[float, float] | None = None
    group: str = ""  # of one colour, named in the legend
    colour: str | None = None  # None: that of the group
    marker: str = "o"


@dataclass(frozen=True)
class Bars:
    """One bar in each row; a length and an interval (low, high) may be None."""

    label: str
    lengths: Sequence[float | None]
    colour: str | Sequence[str]
    intervals: Sequence[tuple[float, float] | None] = ()


@dataclass(frozen=True)
class Level:
    """A value to compare with: a dashed line across the chart."""

    value: float
    label: str = ""  # in the legend
    colour: str = INK


@dataclass(frozen=True)
class Chart:
    """What is drawn on one pair of axes, with a legend where there are several things.

    Attributes:
        muted: the title.
        groups: of points: all that charts beside this one show, in one order for the same colours.
        rows: names for y = 0, 1, ... from the top; levels and the band are then those of x.
        band: what is wanted: (low, high), without a low end (None) all that is lower.
        diagonal: x and y are the same quantity; a line shows where they are equal.
        whole_x: x counts something.
        bottom: the lower end of y.
        top: the upper end of y, which counts something.
    """

    x_label: str = ""
    y_label: str = ""
    title: str = ""
    muted: bool = False
    lines: Sequence[Line] = ()
    points: Sequence[Point] = ()
    bars: Sequence[Bars] = ()
    groups: Sequence[str] = ()
    rows: Sequence[str] = ()
    levels: Sequence[Level] = ()
    band: tuple[float | None, float] | None = None
    diagonal: bool = False
    whole_x: bool = False
    bottom: float | None = None
    top: float | None = None


def colour_of(index: int) -> tuple[str, bool]:
    """(colour, dashed) of one of several lines."""
    return SERIES[index % len(SERIES)], index >= len(SERIES)


def short(name: str) -> str:
    """A name that leaves room for what it names, as one line."""
    return printable(name if len(name) <= LONGEST else f"{name[: LONGEST - 1]}…")


def rows_height(chart: Chart) -> float:
    """Inches that its rows need."""
    return 0.75 + 0.2 * len(chart.rows) * (1 + 0.6 * max(0, len(chart.bars) - 1))


def draw(
    name: str,
    caption: Part,
    *charts: Chart,
    label: str | None = None,
    height: float = HEIGHT,
    wide: bool = False,
    share_y: bool = False,
) -> Markup:
    """A figure of one chart, or of several beside each other.

    Args:
        name: unique in the page, a part of every id within: lower case, digits, hyphens.
        label: what the figure shows, for who can't see it; None: its caption.
        height: inches.
        wide: the figure takes the whole row, and what doesn't fit a narrow screen can be scrolled.
    """

    def paint(grid: Any) -> None:
        for axes, chart in zip(grid.flat, charts, strict=True):
            _paint(axes, chart)
            _legend_above(axes, least=1 if len(chart.groups) > 1 else 2)

    return _figure(name, caption, paint, (1, len(charts)), label, height, wide, share_y)


def panels(
    name: str,
    caption: str,
    charts: Sequence[Chart],
    *,
    legend: Sequence[str] = (),
    share_y: bool = True,
) -> Markup:
    """Many small charts of one kind over one x, `COLUMNS` beside each other.

    Args:
        legend: of lines in the colours of `colour_of`, one above all.
    """
    columns = min(COLUMNS, max(len(charts), 4))  # few don't become huge
    rows = math.ceil(len(charts) / columns)

    def paint(grid: Any) -> None:
        from matplotlib.lines import Line2D

        for axes in grid.flat[len(charts) :]:
            axes.set_visible(False)
        for index, (axes, chart) in enumerate(zip(grid.flat, charts, strict=False)):
            _paint(axes, chart, ticks=4)
            if index + columns >= len(charts):
                axes.tick_params(labelbottom=True)
            else:
                axes.set_xlabel("")
            if index % columns:
                axes.set_ylabel("")
        if legend:
            handles = [Line2D([], [], color=colour_of(i)[0], label=n) for i, n in enumerate(legend)]
            for i, handle in enumerate(handles):
                handle.set_linestyle("--" if colour_of(i)[1] else "-")
            grid.flat[0].figure.legend(
                handles=handles, loc="outside upper left", ncols=min(8, len(handles)),
                handlelength=1.4, columnspacing=1.4,
            )  # fmt: skip

    height = rows * PANEL_HEIGHT + 0.35 + (0.3 if legend else 0)
    return _figure(name, caption, paint, (rows, columns), None, height, True, share_y, share_x=True)


def heat(
    name: str,
    caption: str,
    counts: np.ndarray,
    *,
    rows: Sequence[str],
    columns: Sequence[str],
    outlined: Collection[tuple[int, int]] = (),
    y_label: str = "",
) -> Markup:
    """A matrix as cells with their numbers, from transparent (0) to strong (the largest).

    Args:
        counts: (rows, columns); nan is left out.
        outlined: (row, column) of cells to be seen first.
    """
    import numpy as np
    from matplotlib.patches import Rectangle

    def paint(grid: Any) -> None:
        axes, (height, width) = grid.flat[0], counts.shape
        known = np.argwhere(np.isfinite(counts))
        most = max((counts[i, j] for i, j in known), default=0.0) or 1.0
        for i, j in known:
            strength = 0.54 * counts[i, j] / most
            axes.add_patch(
                Rectangle((j, i), 1, 1, facecolor=SERIES[0], alpha=strength, linewidth=0)
            )
            axes.text(
                j + 0.5, i + 0.5, f"{counts[i, j]:,.0f}", ha="center", va="center", fontsize=7.5
            )
        for i, j in outlined:
            axes.add_patch(Rectangle((j, i), 1, 1, facecolor="none", edgecolor=INK, linewidth=1.3))
        axes.set_xlim(0, width)
        axes.set_ylim(height, 0)
        axes.set_xticks([j + 0.5 for j in range(width)], list(map(short, columns)))
        axes.set_yticks([i + 0.5 for i in range(height)], list(map(short, rows)))
        axes.tick_params(length=0, labeltop=True, labelbottom=False)
        axes.grid(False)
        axes.spines[:].set_visible(False)
        axes.set_ylabel(y_label)

    return _figure(name, caption, paint, (1, 1), None, 0.5 + 0.2 * len(rows), True)


def _figure(
    name: str,
    caption: Part,
    paint: Callable[[Any], None],
    grid: tuple[int, int],
    label: str | None,
    height: float,
    wide: bool,
    share_y: bool = False,
    share_x: bool = False,
) -> Markup:
    """
    Args:
        paint: draws on an array of Axes, of the shape of `grid`.
    """
    # It logs what it keeps in a home, and that there is none.
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with warnings.catch_warnings(), mpl.rc_context():
        # The browser has fonts of its own.
        warnings.filterwarnings("ignore", "Glyph .* missing from font", UserWarning)
        mpl.rcdefaults()  # a matplotlibrc of the user's changes nothing
        mpl.rcParams.update({**STYLE, "svg.hashsalt": name})
        canvas = Figure(figsize=(WIDE if wide else WIDTH, height), layout="constrained")
        paint(canvas.subplots(*grid, squeeze=False, sharex=share_x, sharey=share_y))
        file = io.StringIO()
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        canvas.savefig(file, format="svg", metadata=nothing)
    return figure(_inline(file.getvalue(), name, label or str(caption)), caption, wide=wide)


def _inline(svg: str, name: str, label: str) -> Markup:
    """What matplotlib wrote, as a part of a page: unique ids, and variables for colours."""
    body = svg[svg.index("<svg") :]
    start, body = body.split(">", 1)
    box = re.search(r'viewBox="([-\d. ]+)"', start)
    assert box is not None
    body = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", body, flags=re.DOTALL)
    body = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", body)
    body = re.sub(r"\n\s*", "\n", body)
    for variable, colour in PLACEHOLDERS.items():
        body = body.replace(colour, f"var(--{variable})")
    body = body.replace(f"'{FONT}'", "var(--font)")
    head = f'<svg class="plot" viewBox="{box[1]}" role="img" aria-label="{text(label)}">'
    return Markup(head + body.rstrip())


def _paint(axes: Axes, chart: Chart, ticks: int = 8) -> None:
    """
    Args:
        ticks: the most of an x that counts something.
    """
    from matplotlib.ticker import MaxNLocator

    if chart.diagonal and chart.points:
        ends = [f(v for p in chart.points for v in (p.x, p.y)) for f in (min, max)]
        axes.plot(ends, ends, color=MUTED, linewidth=1, linestyle=DASHED)
    for line in chart.lines:
        _paint_line(axes, line)
    _paint_points(axes, chart)
    _paint_bars(axes, chart.bars)
    for level in chart.levels:
        across = axes.axvline if chart.rows else axes.axhline
        across(
            level.value, color=level.colour, linewidth=1, linestyle=DASHED, label=short(level.label)
        )
    if chart.band is not None:
        _paint_band(axes, *chart.band, upright=bool(chart.rows))
    if chart.rows:
        axes.set_yticks(range(len(chart.rows)), list(map(short, chart.rows)))
        axes.set_ylim(len(chart.rows) - 0.5, -0.5)
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="y", visible=False)
    if chart.whole_x:
        found = [*(x for line in chart.lines for x in line.x), *(p.x for p in chart.points)]
        pad = 0.04 * (max(found) - min(found)) or 0.5
        axes.set_xlim(min(found) - pad, max(found) + pad)
        axes.xaxis.set_major_locator(MaxNLocator(ticks, integer=True, min_n_ticks=1))
    if chart.bottom is not None:
        axes.set_ylim(bottom=chart.bottom)
    if chart.top is not None:
        axes.set_ylim(top=chart.top)
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_title(chart.title, color=MUTED if chart.muted else INK)
    axes.set_xlabel(chart.x_label)
    axes.set_ylabel(chart.y_label)


def _paint_line(axes: Axes, line: Line) -> None:
    x, y = list(line.x), [math.nan if v is None else v for v in line.y]
    few = len(x) <= FEW and line.markers
    (drawn,) = axes.plot(
        x,
        y,
        color=line.colour,
        linestyle="--" if line.dashed else "-",
        linewidth=line.width,
        marker="o" if few or len(x) == 1 else None,
        markersize=line.width + 2,
        label=short(line.label),
        zorder=2 + line.width / 10,
    )
    drawn.set_gid(line.name)
    if any(line.spread):
        low, high = (
            [v + sign * s for v, s in zip(y, line.spread, strict=True)] for sign in (-1, 1)
        )
        if few:
            axes.vlines(x, low, high, color=line.colour, linewidth=1)
        else:
            axes.fill_between(x, low, high, color=line.colour, alpha=0.2, linewidth=0)
    if line.ringed:
        axes.plot(
            [x[i] for i in line.ringed], [y[i] for i in line.ringed], "o", markersize=9,
            markerfacecolor="none", markeredgecolor=DOUBT, markeredgewidth=1.5,
        )  # fmt: skip


def _paint_points(axes: Axes, chart: Chart) -> None:
    order = list(dict.fromkeys((*chart.groups, *(p.group for p in chart.points))))
    named = set()
    for p in chart.points:
        colour = p.colour or SERIES[order.index(p.group) % len(SERIES)]
        if p.x_interval is not None:
            axes.plot(p.x_interval, (p.y, p.y), color=colour)
        if p.y_interval is not None:
            axes.plot((p.x, p.x), p.y_interval, color=colour)
        label = "" if p.group in named else short(p.group)
        named.add(p.group)
        axes.plot([p.x], [p.y], p.marker, color=colour, markersize=5, label=label)
    if chart.points:
        axes.margins(0.12)
        _name_points(axes, chart.points)


def _name_points(axes: Axes, points: Sequence[Point]) -> None:
    """Labels at the right of points, lower where one would cover another."""
    placed: list[tuple[float, float, float]] = []  # left, right, bottom: points of a print
    scale = 72 / axes.get_figure(root=True).dpi  # type: ignore[union-attr]
    for p in sorted(points, key=lambda p: -p.y):
        if not p.label:
            continue
        x, y = (scale * v for v in axes.transData.transform((p.x, p.y)))
        left, right, bottom = x, x + 5 + 4.8 * len(short(p.label)), y + 4
        for other_left, other_right, other in sorted(placed, key=lambda box: -box[2]):
            if left < other_right and other_left < right and abs(other - bottom) < LABEL_HEIGHT:
                bottom = other - LABEL_HEIGHT
        placed.append((left, right, bottom))
        axes.annotate(
            short(p.label), (p.x, p.y), (5, bottom - y), textcoords="offset points", fontsize=8
        )


def _paint_bars(axes: Axes, bars: Sequence[Bars]) -> None:
    """One of each beside each other in every row."""
    thick = 0.8 / max(1, len(bars))
    for index, each in enumerate(bars):
        places = [row - 0.4 + thick * (index + 0.5) for row in range(len(each.lengths))]
        lengths = [x or 0.0 for x in each.lengths]
        axes.barh(places, lengths, height=0.86 * thick, color=each.colour, label=short(each.label))
        for place, interval in zip(places, each.intervals, strict=False):
            if interval is not None:
                axes.plot(interval, (place, place), color=INK, linewidth=1)


def _paint_band(axes: Axes, low: float | None, high: float, *, upright: bool) -> None:
    """All that is wanted in green, and in sight."""
    span, ends, limit = (
        (axes.axvspan, axes.get_xlim(), axes.set_xlim)
        if upright
        else (axes.axhspan, axes.get_ylim(), axes.set_ylim)
    )
    start = ends[0] if low is None else low
    span(start, high, color=GOOD, alpha=0.16, linewidth=0)
    limit(min(ends[0], start), max(ends[1], high))


def _legend_above(axes: Axes, least: int) -> None:
    """A legend that hides nothing, with fewer columns where names are long.

    Args:
        least: with fewer things there is none.
    """
    handles, names = axes.get_legend_handles_labels()
    if len(handles) < least:
        return
    canvas = axes.get_figure(root=True)
    assert canvas is not None
    room = 13 * (canvas.get_figwidth() - 0.6)  # characters
    lengths = [len(name) + 5 for name in names]
    fit = len(names) if sum(lengths) <= room else max(1, int(room / max(lengths)))
    axes.legend(
        loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0.2, handlelength=1.2,
        columnspacing=1.0, handletextpad=0.5, ncols=min(4, fit),
    )  # fmt: skip
