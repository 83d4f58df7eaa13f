"""Bounds that stand in types."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

import pytest

from tfnas.process.checks import ABOVE_0, INSIDE_0_1, between, check_fields, one_of


@dataclass
class Inner:
    share: Annotated[float, INSIDE_0_1] = 0.5


@dataclass
class Options:
    inner: Inner
    count: Annotated[int | None, ABOVE_0] = None
    seed: Annotated[int, between(0, 9)] = 0
    kind: Annotated[str, one_of(("a", "b"))] = "a"
    any: float = math.nan


def test_what_is_allowed_passes() -> None:
    check_fields("", Options(Inner()))
    check_fields("", Options(Inner(), count=1, seed=9, kind="b"))


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (Options(Inner(), count=0), "count=0: expected a number above 0"),
        (Options(Inner(), seed=10), "seed=10: expected 0 to 9"),
        (Options(Inner(), kind="c"), "kind='c': expected one of a, b"),
        (Options(Inner(share=1.0)), "inner.share=1.0: expected a number above 0 and below 1"),
        (Options(Inner(share=math.nan)), "inner.share=nan: expected"),
    ],
)
def test_what_is_not_is_named(options: Options, line: str) -> None:
    with pytest.raises(ValueError, match=f"^{line}"):
        check_fields("", options)
    with pytest.raises(ValueError, match=rf"^group\.{line}"):
        check_fields("group", options)
