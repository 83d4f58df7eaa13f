"""Pages that need nothing but themselves."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from markupsafe import Markup

from tests.support.browser import check_self_contained, render
from tfnas.pages import page
from tfnas.pages.plots import COLOURS

HOSTILE = "<script>alert('x')</script> \" ' & \x1b[31m \u202e"


def test_what_is_no_markup_is_escaped() -> None:
    html = page.document(
        HOSTILE,
        HOSTILE,
        page.section(HOSTILE, HOSTILE),
        page.paragraph(HOSTILE),
        page.note(HOSTILE),
        page.code(HOSTILE),
        page.tiles(page.tile(HOSTILE, HOSTILE, HOSTILE, data_x=HOSTILE)),
        page.table([HOSTILE], [[HOSTILE]], caption=HOSTILE),
        page.key_values([(HOSTILE, HOSTILE)]),
        page.figure(Markup("<svg></svg>"), HOSTILE),
        page.details(HOSTILE, HOSTILE),
        page.link(HOSTILE, HOSTILE),
        page.join([HOSTILE, HOSTILE], HOSTILE),
    )
    found = check_self_contained(html)
    assert found.values("data-x") == ["<script>alert('x')</script> \" ' &  [31m  "]
    assert found.text.count("<script>alert('x')</script>") == 23
    assert "\x1b" not in html
    assert "\u202e" not in html


@pytest.mark.parametrize(
    ("value", "told"),
    [(None, ""), (1.5, "1.5"), ("a\nb\tc", "a\nb c"), (Markup("<b>"), "<b>"), ("<", "&lt;")],
)
def test_text(value: page.Part, told: str) -> None:
    assert page.text(value) == told


def test_long_texts_are_cut() -> None:
    assert len(page.text("x" * 100_000)) == page.LONGEST


def test_attributes() -> None:
    made = page.element("a", "x", class_="c", data_ms=1.5, open=True, title=None, hidden=False)
    assert made == '<a class="c" data-ms="1.5" open>x</a>'
    assert page.element("br") == "<br>"


def test_columns_of_figures_are_marked() -> None:
    html = page.table(("name", "ms"), [("a", "1")], numeric=(1,))
    assert html.count('class="num"') == 2
    assert '<td class="num">1</td>' in html


def test_links_stay_beside_the_page() -> None:
    assert 'href="./javascript%3Aalert%281%29"' in page.link("javascript:alert(1)", "x")
    assert 'href="./a%20b/report.html"' in page.link("a b/report.html", "x")
    with pytest.raises(ValueError, match="relative"):
        page.link("/etc/passwd", "x")


@pytest.mark.parametrize(("share", "width"), [(0.254, "25.4%"), (-1, "0.0%"), (7, "100.0%")])
def test_bars_stay_in_their_track(share: float, width: str) -> None:
    assert f"width: {width}" in page.bar(share)


def test_both_themes_have_all_colours() -> None:
    light, dark = (
        re.findall(r"--(\w+): #\w{6};", theme)
        for theme in page.STYLE.read_text().split("* {")[0].split("@media")
    )
    assert light == dark == list(COLOURS)
    assert "prefers-color-scheme: dark" in page.document("x")


def test_a_browser_takes_the_style_sheet_and_refuses_to_load_and_run(tmp_path: Path) -> None:
    good, bad = tmp_path / "good.html", tmp_path / "bad.html"
    good.write_text(page.document("title", page.code("x")))
    rendered = render(good, tmp_path)
    assert rendered.console == ()
    assert "<code>x</code>" in rendered.dom
    # What must never happen, to see that it would be noticed.
    evil = "<script>document.title = 'run'</script><img src='https://example.invalid/x.png'>"
    bad.write_text(page.document("title", Markup(evil)))
    rendered = render(bad, tmp_path)
    assert "<title>title</title>" in rendered.dom
    assert len(rendered.console) == 2
    with pytest.raises(AssertionError):
        check_self_contained(bad.read_text())
