"""Figures: text as text, colours of the theme, ids that don't clash."""

from __future__ import annotations

import re
import subprocess
import sys

import matplotlib as mpl
import numpy as np
import pytest
from markupsafe import Markup

from tests.support.browser import check_self_contained
from tfnas.pages import page, plots

pytestmark = pytest.mark.slow

HOSTILE = "<script> $x_$ \\frac"
X = [1.0, 2.0, 3.0]


def made(name: str) -> dict[str, Markup]:
    """One of each plot, named after `name`."""
    lines = [
        plots.Line(HOSTILE, X, [1.0, None, 2.0], plots.SERIES[0]),
        plots.Line("b", X, X, plots.SERIES[1], True, spread=[0.1, 0, 0.2], ringed=[1]),
    ]
    points = [plots.Point(1, 2, HOSTILE, (0.9, 1.1), (1.8, 2.2), "a"), plots.Point(2, 3, group="b")]
    bars = [
        plots.Bars("table", [1.0, None], plots.SERIES[0]),
        plots.Bars("device", [1.1, 2.0], plots.SERIES[1], [(1.0, 1.2), (1.8, 2.2)]),
    ]
    level = plots.Level(1.5, HOSTILE)
    return {
        "lines": plots.draw(
            f"{name}-lines", HOSTILE,
            plots.Chart(HOSTILE, "ms", lines=lines, levels=[level], whole_x=True),
        ),
        "heat": plots.heat(
            f"{name}-heat", HOSTILE, np.array([[0.0, 1.0], [np.nan, 5]]), rows=[HOSTILE, "b"],
            columns=["c", "d"], outlined=[(0, 1)],
        ),
        "bars": plots.draw(
            f"{name}-bars", HOSTILE, plots.Chart("ms", bars=bars, rows=["stem", HOSTILE])
        ),
        "scatter": plots.draw(
            f"{name}-scatter", HOSTILE,
            plots.Chart("ms", "%", points=points, diagonal=True, levels=[level], band=(None, 3.0)),
        ),
        "panels": plots.panels(
            f"{name}-panels", HOSTILE, [plots.Chart("x", "y", HOSTILE, lines=lines)] * 2,
            legend=["a", HOSTILE],
        ),
    }  # fmt: skip


@pytest.mark.parametrize("kind", ["lines", "heat", "bars", "scatter", "panels"])
def test_plots_fit_a_page(kind: str) -> None:
    one, other = made("one")[kind], made("other")[kind]
    found = check_self_contained(page.document("two of a kind", one, other))
    assert "var(--s1)" in one
    assert not re.search("#fe[0-9a-f]{4}", one)
    assert HOSTILE in found.text
    assert [attrs["aria-label"] for tag, attrs in found.found if tag == "svg"] == [HOSTILE] * 2
    assert "DejaVu" not in one


def test_names_of_points_in_one_place_stand_below_each_other() -> None:
    points = [plots.Point(1, 2, f"net {i}") for i in range(4)] + [plots.Point(9, 9, "far")]
    drawing = plots.draw("x", "x", plots.Chart("ms", "%", points=points))
    heights = [float(y) for y in re.findall(r' y="([\d.]+)"[^>]*>net \d<', drawing)]
    assert len(heights) == 4
    apart = sorted(abs(a - b) for i, a in enumerate(heights) for b in heights[:i])
    assert apart[0] >= plots.LABEL_HEIGHT - 0.1


def test_the_same_arguments_give_the_same_figure() -> None:
    first = made("x")
    with mpl.rc_context({"lines.linewidth": 9, "font.size": 30, "svg.fonttype": "path"}):
        assert made("x") == first


def test_a_value_that_is_missing_leaves_a_gap() -> None:
    line = plots.Line("a", X, [1.0, None, 2.0], plots.SERIES[0])
    broken = plots.draw("x", "x", plots.Chart("x", "y", lines=[line]))
    path = re.search(r'<path d="([^"]*)"[^>]*style="fill: none; stroke: var\(--s1\)', broken)
    assert path is not None
    assert path[1].count("M") == 2 or path[1].count("L") == 0


def test_the_middle_of_a_heat_map_is_half_as_strong() -> None:
    drawn = plots.heat("x", "x", np.array([[2.0, 4.0]]), rows=["a"], columns=["b", "c"])
    strengths = re.findall(r"fill: var\(--s1\); opacity: ([\d.]+)", drawn)
    assert [float(s) for s in strengths] == pytest.approx([0.27, 0.54])


def named(name: str) -> Markup:
    """Charts that name a line, a level, points, a row and bars so."""
    line, bars = plots.Line(name, X, X, plots.SERIES[0]), plots.Bars(name, [1.0], plots.SERIES[0])
    points = [plots.Point(1, 2, name, group=name), plots.Point(2, 3)]
    charts = (
        plots.Chart("x", "y", lines=[line, line], levels=[plots.Level(2.0, name)]),
        plots.Chart("x", "y", points=points),
        plots.Chart("ms", bars=[bars], rows=[name]),
    )
    return page.join(plots.draw("x", "x", chart) for chart in charts)


@pytest.mark.parametrize("name", ["x" * 300, "電話 📱"])
def test_any_name_leaves_room(name: str) -> None:
    found = re.findall(r"<text[^>]*>([^<]*)", named(name))
    assert sum(text.startswith(name[:20]) for text in found) >= 5
    assert max(map(len, found)) <= plots.LONGEST


def test_no_name_brings_control_characters() -> None:
    drawn = named("a\x00\x1b\u202e\nb")
    assert "a    b" in drawn
    assert drawn.replace("\n", "").isprintable()


def test_matplotlib_is_imported_where_it_draws_only() -> None:
    code = (
        "import sys, tfnas, tfnas.pages.page, tfnas.pages.plots, tfnas.report;"
        "import tfnas.pages.run;"
        "sys.exit('matplotlib' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
