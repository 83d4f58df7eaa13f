"""Figures as SVG for `tfnas.pages.page`, drawn by matplotlib: text stays text, colours follow the
theme.

`draw` gives axes to draw on with any of matplotlib's methods, in the colours below; the rest are
the plots that our pages have in common. What is drawn depends on nothing but the arguments.
"""

from __future__ import annotations

import io
import logging
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from tfnas.files.bounded import printable
from tfnas.pages.page import LIGHT, text

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes

# Colours that nothing else has: they become the variables of the style sheet.
PLACEHOLDERS = {name: f"#fe{index:02x}01" for index, name in enumerate(LIGHT)}
PAPER, PANEL, INK, MUTED, GRID = (
    PLACEHOLDERS[name] for name in ("paper", "panel", "ink", "muted", "line")
)
GOOD, BAD, DOUBT = (PLACEHOLDERS[name] for name in ("good", "bad", "doubt"))
SERIES = tuple(PLACEHOLDERS[name] for name in LIGHT if re.fullmatch(r"s\d", name))
FONT = "DejaVu Sans"  # comes with matplotlib: lengths of text are estimated with it everywhere
SIZE = (3.9, 2.5)  # inches: two or three beside each other
WIDE = 12.2  # inches: alone in its row
FEW = 20  # points that can be told apart
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
    """One line of a plot; `y` may hold None where there is no value."""

    label: str
    x: Sequence[float]
    y: Sequence[float | None]
    colour: str
    dashed: bool = False


@dataclass(frozen=True)
class Point:
    """One point with its interval: (low, high) or None."""

    x: float
    y: float
    label: str = ""
    x_interval: tuple[float, float] | None = None
    y_interval: tuple[float, float] | None = None
    group: str = ""  # of one colour, named in the legend
    colour: str | None = None  # None: that of the group


def draw(
    name: str,
    label: str,
    paint: Callable[[Any], None],
    *,
    size: tuple[float, float] = SIZE,
    rows: int | None = None,
    columns: int | None = None,
    **subplots: Any,
) -> Markup:
    """A figure as inline SVG.

    Args:
        name: unique in the page, a part of every id within: lower case, digits, hyphens.
        label: what the figure shows, for who can't see it.
        paint: draws on the Axes that it is given, or on an array (rows, columns) of them where
            `rows` or `columns` is given.
        size: width and height in inches; it is scaled to the room there is.
        subplots: see `matplotlib.figure.Figure.subplots`.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    # A first figure tells of the font cache that it makes.
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    with warnings.catch_warnings(), mpl.rc_context():
        # The browser has fonts of its own.
        warnings.filterwarnings("ignore", "Glyph .* missing from font", UserWarning)
        mpl.rcdefaults()  # a matplotlibrc of the user's changes nothing
        mpl.rcParams.update({**STYLE, "svg.hashsalt": name})
        figure = Figure(figsize=size, layout="constrained")
        if rows is None and columns is None:
            paint(figure.subplots(**subplots))
        else:
            paint(figure.subplots(rows or 1, columns or 1, squeeze=False, **subplots))
        file = io.StringIO()
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(file, format="svg", metadata=nothing)
    return _inline(file.getvalue(), name, label)


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


def lines(
    name: str,
    label: str,
    drawn: Sequence[Line],
    *,
    x_label: str,
    y_label: str,
    level: tuple[float, str] | None = None,
    from_zero: bool = False,
    whole_x: bool = True,
    size: tuple[float, float] = SIZE,
) -> Markup:
    """Lines over a common x, with a legend where there are several.

    Args:
        drawn: one or more, none of them empty.
        level: of y, such as a target, with its label: a dashed line.
        whole_x: x counts something.
    """

    def paint(axes: Axes) -> None:
        for line in drawn:
            plot_line(axes, line)
        if level is not None:
            mark_level(axes, *level)
        if from_zero:
            axes.set_ylim(bottom=0)
        ends = [x for line in drawn for x in (min(line.x), max(line.x))]
        pad = 0.04 * (max(ends) - min(ends)) or 0.5
        axes.set_xlim(min(ends) - pad, max(ends) + pad)
        if whole_x:
            count_x(axes)
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        legend_above(axes)

    return draw(name, label, paint, size=size)


def short(name: str) -> str:
    """A name that leaves room for what it names, as one line."""
    return printable(name if len(name) <= LONGEST else f"{name[: LONGEST - 1]}…")


def plot_line(
    axes: Axes, line: Line, *, width: float = 1.5, markers: bool = True, above: bool = False
) -> None:
    """A line, with a marker at each of its points where there are few.

    Args:
        width: points.
        above: over lines that were drawn before and after.
    """
    axes.plot(
        list(line.x),
        [float("nan") if y is None else y for y in line.y],
        color=line.colour,
        linestyle="--" if line.dashed else "-",
        linewidth=width,
        marker="o" if len(line.x) == 1 or (markers and len(line.x) <= FEW) else None,
        markersize=width + 2,
        label=short(line.label),
        zorder=3 if above else 2,
    )


def mark_level(axes: Axes, value: float, label: str) -> None:
    """A dashed line across, to be named in the legend."""
    axes.axhline(value, color=INK, linewidth=1, linestyle=(0, (4, 3)), label=short(label))


def legend_above(axes: Axes, columns: int = 3, least: int = 2) -> None:
    """A legend that hides nothing, where there are several things to tell apart.

    Args:
        columns: the most; fewer where names are long.
        least: with fewer things there is none.
    """
    handles, names = axes.get_legend_handles_labels()
    if len(handles) < least:
        return
    figure = axes.get_figure(root=True)
    assert figure is not None
    room = 13 * (figure.get_figwidth() - 0.6)  # characters
    lengths = [len(name) + 5 for name in names]
    fit = len(names) if sum(lengths) <= room else max(1, int(room / max(lengths)))
    axes.legend(
        loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0.2, handlelength=1.2,
        columnspacing=1.0, handletextpad=0.5, ncols=min(columns, fit),
    )  # fmt: skip


def count_x(axes: Axes, ticks: int = 8) -> None:
    """Whole numbers only."""
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=ticks))


def heat(
    name: str,
    label: str,
    values: np.ndarray,
    *,
    rows: Sequence[str],
    columns: Sequence[str],
    most: float,
    texts: Sequence[Sequence[str]] | None = None,
    outlined: Sequence[tuple[int, int]] = (),
    x_label: str = "",
    y_label: str = "",
    above: bool = False,
    size: tuple[float, float] = SIZE,
) -> Markup:
    """A matrix as cells from transparent (0) to full (`most`).

    Args:
        values: (rows, columns); nan is left out.
        texts: within the cells.
        outlined: (row, column) of cells to be seen first.
        above: the columns' names stand above them.
    """
    import numpy as np
    from matplotlib.patches import Rectangle

    def paint(axes: Axes) -> None:
        height, width = values.shape
        for i, j in np.argwhere(np.isfinite(values)):
            share = min(1.0, max(0.0, float(values[i, j]) / most)) if most else 0.0
            axes.add_patch(
                Rectangle((j, i), 1, 1, facecolor=SERIES[0], alpha=0.75 * share, linewidth=0)
            )
            if texts is not None:
                axes.text(
                    j + 0.5, i + 0.5, texts[i][j], ha="center", va="center",
                    fontsize=7.5,
                )  # fmt: skip
        for i, j in outlined:
            axes.add_patch(Rectangle((j, i), 1, 1, facecolor="none", edgecolor=INK, linewidth=1.3))
        axes.set_xlim(0, width)
        axes.set_ylim(height, 0)
        axes.set_xticks([j + 0.5 for j in range(width)], list(map(short, columns)))
        axes.set_yticks([i + 0.5 for i in range(height)], list(map(short, rows)))
        axes.tick_params(length=0, labeltop=above, labelbottom=not above)
        axes.grid(False)
        axes.spines[:].set_visible(False)
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)

    return draw(name, label, paint, size=size)


def bars(
    name: str,
    label: str,
    groups: Sequence[str],
    series: Sequence[tuple[str, Sequence[float | None], str]],
    *,
    x_label: str,
    intervals: Sequence[Sequence[tuple[float, float] | None]] | None = None,
    size: tuple[float, float] | None = None,
) -> Markup:
    """Horizontal bars, one of each series beside each other in every group, the first at the top.

    Args:
        series: (label, a length a group, colour); None where there is none.
        intervals: (low, high) of each series' bars, absolute.
    """
    thick = 0.8 / max(1, len(series))

    def paint(axes: Axes) -> None:
        for s, (title, lengths, colour) in enumerate(series):
            places = [g - 0.4 + thick * (s + 0.5) for g in range(len(groups))]
            axes.barh(
                places,
                [x or 0.0 for x in lengths],
                height=0.86 * thick,
                color=colour,
                label=short(title),
            )
            for place, between in zip(places, intervals[s] if intervals else (), strict=False):
                if between is not None:
                    axes.plot(between, (place, place), color=INK, linewidth=1)
        axes.set_yticks(range(len(groups)), list(map(short, groups)))
        axes.set_ylim(len(groups) - 0.5, -0.5)
        axes.set_xlim(left=0)
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="y", visible=False)
        axes.set_xlabel(x_label)
        legend_above(axes)

    height = 0.75 + 0.2 * len(groups) * (1 + 0.6 * (len(series) - 1))
    return draw(name, label, paint, size=size or (SIZE[0], max(1.6, height)))


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


def scatter(
    name: str,
    label: str,
    points: Sequence[Point],
    *,
    x_label: str,
    y_label: str,
    level: tuple[float, str] | None = None,
    diagonal: bool = False,
    groups: Sequence[str] = (),
    size: tuple[float, float] = SIZE,
) -> Markup:
    """Points with their intervals and labels, coloured by group.

    Args:
        level: see `lines`.
        groups: all that figures beside this one show, in one order for the same colours.
        diagonal: x and y are the same quantity; a line shows where they are equal.
    """

    def paint(axes: Axes) -> None:
        if diagonal and points:
            values = [v for p in points for v in (p.x, p.y)]
            ends = [min(values), max(values)]
            axes.plot(ends, ends, color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
        order = list(dict.fromkeys((*groups, *(p.group for p in points))))
        told = set()
        for p in points:
            colour = p.colour or SERIES[order.index(p.group) % len(SERIES)]
            if p.x_interval is not None:
                axes.plot(p.x_interval, (p.y, p.y), color=colour, linewidth=1.2)
            if p.y_interval is not None:
                axes.plot((p.x, p.x), p.y_interval, color=colour, linewidth=1.2)
            label = p.group if p.group and p.group not in told else "_"
            told.add(p.group)
            axes.plot([p.x], [p.y], "o", color=colour, markersize=5, label=short(label))
        if level is not None:
            mark_level(axes, *level)
        axes.margins(0.12)
        _name_points(axes, points)
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        legend_above(axes, least=1 if len(groups) > 1 else 2)

    return draw(name, label, paint, size=size)
