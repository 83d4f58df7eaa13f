"""compare.html: a comparison as one page, see `tfnas.page`."""

from __future__ import annotations

from tfnas.comparison import Comparison

PAGE = "compare.html"


def page(comparison: Comparison) -> str:
    return ""
