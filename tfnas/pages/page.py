"""HTML pages that need nothing but themselves: one file, one style sheet, no script.

Whatever is no `Markup` is escaped, so what a file says stays text. The page's own policy forbids
the browser to load or run anything, should that ever fail.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from pathlib import PurePosixPath
from typing import TypeAlias
from urllib.parse import quote

from markupsafe import Markup, escape

Part: TypeAlias = "Markup | str | float | None"  # None is left out

POLICY = "default-src 'none'; style-src 'unsafe-inline'"
VOID = ("meta", "br", "hr", "wbr")
LONGEST = 2_000  # characters of one text: a page is to be read

# Colours stand for what they mean; `tfnas.pages.plots` draws with the same names. The series were
# chosen to differ in lightness as well, for who sees colours otherwise.
LIGHT = {
    "paper": "#ffffff", "panel": "#f6f7f9", "ink": "#1c2128", "muted": "#5b6573", "line": "#d9dee5",
    "good": "#1a7f4b", "bad": "#b3261e", "doubt": "#935f00",
    "s1": "#1f5fa8", "s2": "#d2691e", "s3": "#2e8b57", "s4": "#8e44ad",
    "s5": "#c0392b", "s6": "#0f8b8d", "s7": "#a67c00", "s8": "#6c757d",
}  # fmt: skip
DARK = {
    "paper": "#14171c", "panel": "#1c2027", "ink": "#e4e8ee", "muted": "#9aa5b4", "line": "#363d48",
    "good": "#5fc48f", "bad": "#f28b82", "doubt": "#e0b252",
    "s1": "#74aef2", "s2": "#f2a566", "s3": "#7ccf9f", "s4": "#c99be6",
    "s5": "#f2857b", "s6": "#5fc9cb", "s7": "#dcb85c", "s8": "#a7b0ba",
}  # fmt: skip

RULES = """
* { box-sizing: border-box }
html { -webkit-text-size-adjust: 100%; color-scheme: light dark }
body { margin: 0; background: var(--paper); color: var(--ink); font: 15px/1.5 var(--font) }
main { max-width: 1120px; margin: 0 auto; padding: 2rem 1.25rem 4rem }
h1 { font-size: 1.55rem; line-height: 1.25; margin: 0 0 .25rem; overflow-wrap: anywhere }
h2 { font-size: 1.1rem; margin: 2.75rem 0 .75rem; padding-bottom: .35rem;
  border-bottom: 1px solid var(--line) }
h3 { font-size: .95rem; margin: 1.5rem 0 .5rem }
p { margin: .5rem 0; max-width: 75ch; overflow-wrap: anywhere }
a { color: var(--s1) }
.muted, figcaption, caption, dt, .tile small { color: var(--muted) }
.num, td.num, th.num { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap }
.good { color: var(--good) } .bad { color: var(--bad) } .doubt { color: var(--doubt) }
code, pre { font: .87em/1.5 var(--mono) }
pre { margin: .5rem 0; padding: .7rem .9rem; background: var(--panel); border-radius: 6px;
  white-space: pre-wrap; overflow-wrap: anywhere }
.note { border-left: 3px solid var(--muted); background: var(--panel); border-radius: 0 6px 6px 0;
  padding: .5rem .9rem; margin: .75rem 0 }
.note.bad, .note.doubt { color: inherit }
.note.good { border-color: var(--good); color: inherit }
.note.bad { border-color: var(--bad) } .note.doubt { border-color: var(--doubt) }
.scroll { margin: .75rem 0 }
/* What doesn't fit scrolls; an edge with more behind it is shaded, until it is reached. */
.scroll, .wide { overflow-x: auto;
  --shade: color-mix(in srgb, var(--ink) 24%, transparent);
  background:
    linear-gradient(to right, var(--paper) 40%, transparent) left / 2.5rem 100% local,
    linear-gradient(to left, var(--paper) 40%, transparent) right / 2.5rem 100% local,
    linear-gradient(to right, var(--shade), transparent) left / .7rem 100%,
    linear-gradient(to left, var(--shade), transparent) right / .7rem 100%;
  background-repeat: no-repeat }
table { border-collapse: collapse; min-width: 40%; font-size: .93rem }
caption { text-align: left; padding-bottom: .4rem }
th, td { text-align: left; vertical-align: baseline; padding: .32rem 1rem .32rem 0;
  border-bottom: 1px solid var(--line) }
th { font-weight: 600; color: var(--muted) }
tr > :last-child { padding-right: 0 }
dl { display: grid; grid-template-columns: max-content minmax(0, 1fr); gap: .2rem 1.25rem;
  margin: .75rem 0 }
dd { margin: 0; overflow-wrap: anywhere; font-variant-numeric: tabular-nums }
figure { margin: 0; min-width: 0; break-inside: avoid }
figcaption { font-size: .88rem; margin-top: .25rem }
figure > .scroll { margin: 0 }
.figures { display: grid; gap: 1.75rem 1.5rem; margin: 1rem 0;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 330px), 1fr)) }
.figures > .wide { grid-column: 1 / -1 }
svg.plot { display: block; width: 100%; height: auto }
.wide > svg.plot { min-width: 46rem }
svg.plot * { stroke-linejoin: round; stroke-linecap: butt }
.tiles { display: grid; gap: 1rem; margin: 1.25rem 0;
  grid-template-columns: repeat(auto-fit, minmax(12rem, 1fr)) }
.tile { background: var(--panel); border-radius: 8px; padding: .75rem 1rem }
.tile small { display: block; font-size: .85rem }
.tile b { display: block; font-size: 1.2rem; font-weight: 600; line-height: 1.4;
  white-space: nowrap;
  font-variant-numeric: tabular-nums }
.badge { font-weight: 600 }
.bar { display: block; position: relative; height: .6em; min-width: 4.5em; background: var(--line);
  border-radius: 2px; overflow: hidden }
.bar > i { position: absolute; top: 0; bottom: 0; left: 0; background: var(--bar, var(--s1)) }
.net { width: 100%; font-size: .88rem }
.net th, .net td { vertical-align: middle; padding: .24rem .8rem .24rem 0; white-space: nowrap }
.net tr.first > td { border-top: 2px solid var(--line) }
.net th:first-child, .net td:first-child { border-left: 4px solid var(--bar, transparent);
  padding-left: .6rem }
.net .span { width: 22% } .net .share { width: 17% }
.net .bounds { display: grid; grid-template-columns: 2.6em minmax(4.5em, 1fr) 5em; gap: .6em;
  align-items: center; font-size: .85em }
.net .bounds > :first-child { text-align: right }
.kernel { display: inline-block; vertical-align: -.2em; width: 1.05em; height: 1.05em;
  margin-right: .45em; fill: var(--bar, var(--ink)) }
.mark { display: inline-block; font-size: .8em; font-weight: 600; padding: 0 .45em;
  border-radius: 3px; background: var(--line) }
summary { cursor: pointer; margin: .75rem 0 }
@media (min-width: 48rem) { .figures > .scroll { grid-column: span 2; margin: 0 } }
@media (max-width: 30rem) { dl { grid-template-columns: 1fr } dd { margin-bottom: .4rem } }
@media print {
  @page { margin: 14mm }
  body { font-size: 10pt }
  main { max-width: none; padding: 0 }
  * { -webkit-print-color-adjust: exact; print-color-adjust: exact }
  h2, h3 { break-after: avoid }
  .scroll, .wide { overflow: visible; background: none }
  .figures { grid-template-columns: repeat(3, 1fr) }
  .figures > .scroll { grid-column: span 2; margin: 0 }
  .figures table { font-size: .8rem }
  .wide > svg.plot { min-width: 0 }
  tr, .note, .tile { break-inside: avoid }
  details > summary { list-style: none }
  details::details-content { content-visibility: visible; display: block; block-size: auto }
}
"""


def style() -> str:
    """The style sheet: light on paper and by default, dark where the reader's system is."""

    def variables(colours: dict[str, str]) -> str:
        return "; ".join(f"--{name}: {colour}" for name, colour in colours.items())

    fonts = (
        "--font: system-ui, 'Segoe UI', Roboto, 'Helvetica Neue', 'DejaVu Sans', sans-serif; "
        "--mono: ui-monospace, 'SF Mono', Menlo, Consolas, 'DejaVu Sans Mono', monospace"
    )
    return (
        f":root {{ {variables(LIGHT)}; {fonts} }}\n"
        f"@media screen and (prefers-color-scheme: dark) {{ :root {{ {variables(DARK)} }} }}"
        f"{RULES}"
    )


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
        Markup(f"<style>{style()}</style>"),
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
) -> Markup:
    """
    Args:
        rows: cells; None is an empty one.
        numeric: columns of figures, which are aligned at their right.
        name: id.
    """

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
        element("tbody", *(Markup("\n") + row("td", cells) for cells in rows)),
        id=name,
    )
    return element("div", inner, class_="scroll")


def key_values(pairs: Iterable[tuple[Part, Part]]) -> Markup:
    """Names with one value each."""
    return element("dl", *(element("dt", k) + element("dd", v) for k, v in pairs))


def figure(drawing: Markup, caption: Part = None, *, wide: bool = False) -> Markup:
    """
    Args:
        wide: takes the whole row of `figures`; what doesn't fit a narrow screen can be scrolled.
    """
    told = element("figcaption", caption) if caption is not None else None
    return element("figure", drawing, told, class_="wide" if wide else None)


def figures(*parts: Part) -> Markup:
    """Side by side where there is room."""
    return element("div", *parts, class_="figures")


def details(summary: Part, *parts: Part, opened: bool = False) -> Markup:
    """What only some want to read."""
    return element("details", element("summary", summary), *parts, open=opened)


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


def in_page(name: str, label: Part) -> Markup:
    """A link to the `section` of that name."""
    return element("a", label, href=f"#{name}")
