"""HTML pages that need nothing but themselves: one file, one style sheet, no script.

Whatever is no `Markup` is escaped, so what a file says stays text. The page's own policy forbids
the browser to load or run anything, should that ever fail.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import TypeAlias
from urllib.parse import quote

from markupsafe import Markup, escape

Part: TypeAlias = "Markup | str | float | None"  # None is left out

POLICY = "default-src 'none'; style-src 'unsafe-inline'"
VOID = ("meta", "br")
LONGEST = 2_000  # characters of one text: a page is to be read
MOST_ROWS = 1_000  # of a table
NOTHING, MINUS = "–", "−"

STYLE = Path(__file__).with_name("page.css")


def text(value: Part) -> Markup:
    """Escaped, without control characters, of bearable length; `Markup` as it is, None as "".

    Direction marks go as well, which would have a line read backwards.
    """
    if value is None:
        return Markup("")
    if isinstance(value, Markup):
        return value
    plain = str(value)
    if len(plain) > LONGEST:
        plain = f"{plain[: LONGEST - 1]}…"
    return escape("".join(c if c.isprintable() or c == "\n" else " " for c in plain))


def element(tag: str, *parts: Part, **attributes: str | float | bool | None) -> Markup:
    """`<tag attribute="...">parts</tag>`.

    Args:
        attributes: `class_` and `data_ms` become class and data-ms; True is one without a value,
            None and False are left out.
    """
    given = []
    for key, value in attributes.items():
        if value is None or value is False:
            continue
        name = key.rstrip("_").replace("_", "-")
        given.append(f" {name}" if value is True else f' {name}="{text(value)}"')
    start = f"<{tag}{''.join(given)}>"
    if tag in VOID:
        return Markup(start)
    return Markup(start + "".join(map(text, parts)) + f"</{tag}>")


def join(parts: Iterable[Part], between: str = "") -> Markup:
    return text(between).join(map(text, parts))


def document(title: str, *parts: Part) -> str:
    """A whole page; the title is its heading too."""
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=POLICY),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("title", title),
        Markup(f"<style>{STYLE.read_text(encoding='utf-8')}</style>"),
        "\n",
    )
    body = element("body", "\n", element("main", element("h1", title), *parts), "\n")
    return f"<!doctype html>\n{element('html', head, body, lang='en')}\n"


def section(title: str, *parts: Part, name: str | None = None) -> Markup:
    """
    Args:
        name: id, for links within the page.
    """
    return element("section", "\n", element("h2", title), *parts, id=name)


def paragraph(*parts: Part, kind: str | None = None) -> Markup:
    """
    Args:
        kind: None | muted | good | bad | doubt.
    """
    return element("p", *parts, class_=kind)


def note(*parts: Part, kind: str = "doubt") -> Markup:
    """What the reader must not miss.

    Args:
        kind: good | bad | doubt | plain.
    """
    return element("div", *parts, class_=f"note {kind}", role="note")


def code(value: str) -> Markup:
    """A command, on lines of its own."""
    return element("pre", element("code", value))


def tile(label: str, value: Part, below: Part = None, **attributes: str | float | None) -> Markup:
    """A figure to be seen first; see `tiles`."""
    small = element("small", below) if below is not None else None
    return element("div", element("small", label), element("b", value), small, class_="tile",
                   **attributes)  # fmt: skip


def tiles(*parts: Part) -> Markup:
    return element("div", *parts, class_="tiles")


def table(
    header: Sequence[Part],
    rows: Iterable[Sequence[Part]],
    *,
    numeric: Collection[int] = (),
    caption: Part = None,
    name: str | None = None,
    how: str = "",
) -> Markup:
    """
    Args:
        rows: cells; None is an empty one. Those after the first `MOST_ROWS` are left out.
        numeric: columns of figures, which are aligned at their right.
        name: id.
        how: rows that are left out can be had otherwise.
    """
    kept = list(rows)

    def row(tag: str, cells: Sequence[Part]) -> Markup:
        made = (
            element(tag, cell, class_="num" if i in numeric else None)
            for i, cell in enumerate(cells)
        )
        return element("tr", *made)

    inner = element(
        "table",
        element("caption", caption) if caption is not None else None,
        element("thead", row("th", header)),
        element("tbody", *(Markup("\n") + row("td", cells) for cells in kept[:MOST_ROWS])),
        id=name,
    )
    return element("div", inner, class_="scroll") + left_out(len(kept) - MOST_ROWS, "rows", how)


def left_out(number: int, what: str, how: str = "") -> Markup:
    """That there is more than is shown, if there is: a `number` above 0."""
    rest = f"{number:,} more {what} are left out{how}."
    return paragraph(rest, kind="muted") if number > 0 else Markup("")


def ms(value: float | None) -> str:
    """A latency as it is read, without its unit; a dash where there is none."""
    return NOTHING if value is None else f"{value:.4g}"


def off(value: float, target: float) -> str:
    """How far from a target, signed."""
    return f"{100 * (value / target - 1):+.2f} %".replace("-", MINUS)


def count(number: int, one: str, several: str | None = None) -> str:
    """A number of things, by their name."""
    return f"{number} {one if number == 1 else several or f'{one}s'}"


def coloured(label: str, kind: str | None, **attributes: str | None) -> Markup:
    """A word of judgement.

    Args:
        kind: good | bad | doubt | None.
    """
    return element("span", label, class_=kind, **attributes)


def key_values(pairs: Iterable[tuple[Part, Part]]) -> Markup:
    """Names with one value each."""
    return element("dl", *(element("dt", k) + element("dd", v) for k, v in pairs))


def figure(drawing: Markup, caption: Part = None, *, wide: bool = False) -> Markup:
    """
    Args:
        wide: takes the whole row of `figures`; what doesn't fit a narrow screen can be scrolled.
    """
    below = element("figcaption", caption) if caption else None
    return element("figure", drawing, below, class_="wide" if wide else None)


def figures(*parts: Part) -> Markup:
    """Side by side where there is room."""
    return element("div", *parts, class_="figures")


def details(summary: Part, *parts: Part) -> Markup:
    """What only some want to read."""
    return element("details", element("summary", summary), *parts)


def bar(share: float) -> Markup:
    """
    Args:
        share: 0 to 1, the filled part.
    """
    width = 100 * min(1.0, max(0.0, share))
    return element("span", element("i", style=f"width: {width:.1f}%"), class_="bar")


def link(path: PurePosixPath | str, label: Part) -> Markup:
    """To a file beside the page or below; relative, so that the folder can be moved.

    Raises:
        ValueError: for an absolute path.
    """
    if PurePosixPath(path).is_absolute():
        raise ValueError(f"a link to {path}: expected a relative path")
    # "./": a colon in a name makes no scheme of it.
    return element("a", label, href=f"./{quote(str(path))}")
