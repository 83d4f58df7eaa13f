"""Pages in a real browser, and as text."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path

import pytest

LOADING = {"script", "iframe", "object", "embed", "link", "base", "form", "image", "img"}
NAMES = ("chromium", "chromium-browser", "google-chrome")


@dataclass(frozen=True)
class Rendered:
    """A page as a browser has it, and what it complained about."""

    dom: str
    console: tuple[str, ...]


def render(file: Path, tmp: Path) -> Rendered:
    """Skips the test where there is no browser."""
    program = next((found for name in NAMES if (found := shutil.which(name))), None)
    if program is None:
        pytest.skip("no Chromium here: install Debian's package chromium")
    done = subprocess.run(
        [program, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run",
         "--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage",
         f"--user-data-dir={tmp / 'browser'}", "--enable-logging=stderr", "--v=0", "--dump-dom",
         file.resolve().as_uri()],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    said = [line for line in done.stderr.splitlines() if ":CONSOLE" in line]
    return Rendered(done.stdout, tuple(said))


class Elements(HTMLParser):
    """All elements of a page with their attributes, and its text.

    Attributes:
        found: (tag, attributes), in order.
    """

    def __init__(self, html: str):
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._silent = 0
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        self._silent += tag in ("style", "script")

    def handle_endtag(self, tag: str) -> None:
        self._silent -= tag in ("style", "script")

    def handle_data(self, data: str) -> None:
        if not self._silent:
            self.text += data

    def values(self, attribute: str) -> list[str]:
        """Of all elements that have it."""
        return [str(attrs[attribute]) for _, attrs in self.found if attribute in attrs]


def check_self_contained(html: str) -> Elements:
    """That a page runs and loads nothing, and its inner references lead somewhere."""
    page = Elements(html)
    tags = {tag for tag, _ in page.found}
    assert not tags & LOADING
    handlers = {name for _, attrs in page.found for name in attrs if name.startswith("on")}
    assert not handlers
    assert not page.values("src")
    ids = page.values("id")
    assert len(ids) == len(set(ids))
    for reference in page.values("href") + page.values("xlink:href"):
        assert reference.startswith("./") or reference[1:] in ids, reference
    for reference in re.findall(r"url\(\s*([^)]*)\)", html):
        assert reference[0] == "#", reference
        assert reference[1:] in ids, reference
    assert "@import" not in html
    policy = [attrs.get("content") for tag, attrs in page.found if "http-equiv" in attrs]
    assert policy == ["default-src 'none'; style-src 'unsafe-inline'"]
    return page
