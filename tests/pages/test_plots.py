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

HOSTILE = "<script> $x_$ \\frac"
X = [1.0, 2.0, 3.0]


def made(name: str) -> dict[str, Markup]:
    """One of each plot, named after `name`."""
    line = plots.Line(HOSTILE, X, [1.0, None, 2.0], plots.SERIES[0])
    points = [plots.Point(1, 2, HOSTILE, (0.9, 1.1), (1.8, 2.2), "a"), plots.Point(2, 3, group="b")]
    return {
        "lines": plots.lines(
            f"{name}-lines", HOSTILE, [line, plots.Line("b", X, X, plots.SERIES[1], True)],
            x_label=HOSTILE, y_label="ms", level=(1.5, HOSTILE),
        ),
        "heat": plots.heat(
            f"{name}-heat", HOSTILE, np.array([[0.0, 1.0], [np.nan, 0.5]]), rows=[HOSTILE, "b"],
            columns=["c", "d"], most=1, texts=[["0", "1"], ["", HOSTILE]], outlined=[(0, 1)],
        ),
        "bars": plots.bars(
            f"{name}-bars", HOSTILE, ["stem", HOSTILE],
            [("table", [1.0, None], plots.SERIES[0]), ("device", [1.1, 2.0], plots.SERIES[1])],
            x_label="ms", intervals=[[None, None], [(1.0, 1.2), (1.8, 2.2)]],
        ),
        "scatter": plots.scatter(
            f"{name}-scatter", HOSTILE, points, x_label="ms", y_label="%", diagonal=True,
            level=(2.0, "level"),
        ),
    }  # fmt: skip


@pytest.mark.parametrize("kind", ["lines", "heat", "bars", "scatter"])
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
    drawing = plots.scatter("x", "x", points, x_label="ms", y_label="%")
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
    broken = plots.lines("x", "x", [line], x_label="x", y_label="y")
    path = re.search(r'<path d="([^"]*)"[^>]*style="fill: none; stroke: var\(--s1\)', broken)
    assert path is not None
    assert path[1].count("M") == 2 or path[1].count("L") == 0


def test_the_middle_of_a_heat_map_is_half_as_strong() -> None:
    drawn = plots.heat(
        "x", "x", np.array([[0.5, 1.0]]), rows=["a"], columns=["b", "c"], most=1
    )  # fmt: skip
    strengths = re.findall(r"fill: var\(--s1\); opacity: ([\d.]+)", drawn)
    assert [float(s) for s in strengths] == pytest.approx([0.375, 0.75])


@pytest.mark.parametrize("name", ["x" * 300, "電話 📱"])
def test_any_name_leaves_room(name: str) -> None:
    line = plots.Line(name, X, X, plots.SERIES[0])
    drawn = plots.lines("x", name, [line, line], x_label="x", y_label="y", level=(2.0, name))
    assert name[:20] in drawn
    points = [plots.Point(1, 2, name, group=name), plots.Point(2, 3)]
    drawn = plots.scatter("x", name, points, x_label="x", y_label="y")
    assert name[:20] in drawn
    drawn = plots.bars("x", name, [name], [(name, [1.0], plots.SERIES[0])], x_label="ms")
    assert name[:20] in drawn


def test_no_name_brings_control_characters() -> None:
    evil = "a\x00\x1b\u202e\nb"
    line = plots.Line(evil, X, X, plots.SERIES[0])
    drawn = plots.lines("x", evil, [line, line], x_label="x", y_label="y", level=(2.0, evil))
    drawn += plots.bars("x", evil, [evil], [(evil, [1.0], plots.SERIES[0])], x_label="ms")
    assert "a    b" in drawn
    assert drawn.replace("\n", "").isprintable()


def test_matplotlib_is_imported_where_it_draws_only() -> None:
    code = (
        "import sys, tfnas, tfnas.pages.page, tfnas.pages.plots, tfnas.report;"
        "import tfnas.pages.run_page;"
        "sys.exit('matplotlib' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
