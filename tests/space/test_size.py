"""Sizes of squares and oblongs: one form for equal ones."""

from __future__ import annotations

import json
from math import ceil

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfnas.space.size import (
    MAX_SIZE,
    Oblong,
    Size,
    area,
    is_size,
    scaled,
    sides,
    size_given,
    size_of,
    strided,
)

SIDES = st.integers(1, MAX_SIZE)


@given(SIDES, SIDES)
def test_a_size_has_one_form(height: int, width: int) -> None:
    size = size_of(height, width)
    assert isinstance(size, int) == (height == width)
    assert is_size(size)
    assert sides(size) == (height, width)
    assert area(size) == height * width
    assert size_given("x", [height, width]) == size_given("x", size) == size
    assert msgspec.convert(json.loads(json.dumps(size)), Size) == size


@given(SIDES, SIDES, st.integers(1, 8))
def test_strides_take_both_sides(height: int, width: int, stride: int) -> None:
    found = strided(size_of(height, width), stride)
    assert sides(found) == (ceil(height / stride), ceil(width / stride))
    assert is_size(found)


@given(SIDES, SIDES, SIDES)
def test_scaling_keeps_proportions(height: int, width: int, shorter: int) -> None:
    size = size_of(height, width)
    assert scaled(size, None) == scaled(size, min(height, width)) == size
    found = sides(scaled(size, shorter))
    assert min(found) == shorter
    assert max(found) == pytest.approx(max(height, width) * shorter / min(height, width), abs=0.51)


def test_what_it_is_called() -> None:
    assert f"{size_of(160, 320)} px, {size_of(224, 224)} px" == "160x320 px, 224 px"


@pytest.mark.parametrize("value", [0, -1, 2.0, "8", None, True, [8], [8, 8, 8], [8, 0], {}, 8193])
def test_what_is_no_size(value: object) -> None:
    with pytest.raises(ValueError, match=r"space\.resolution=.*expected pixels from 1 to 8192, or"):
        size_given("space.resolution", value)
    assert not is_size(value)


def test_a_square_of_two_sides_is_no_size() -> None:
    assert not is_size(Oblong(8, 8))
