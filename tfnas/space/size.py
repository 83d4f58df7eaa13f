"""How large an image or a map is, in pixels: the side of a square, or height and width."""

from __future__ import annotations

from math import ceil
from typing import Annotated, Any, NamedTuple

from msgspec import Meta

from tfnas.files.bounded import shown

MAX_SIZE = 8_192
Side = Annotated[int, Meta(ge=1, le=MAX_SIZE)]


class Oblong(NamedTuple):
    """Height and width that differ; in files a list of both."""

    height: Side
    width: Side

    def __str__(self) -> str:
        return f"{self.height}x{self.width}"


Size = int | Oblong  # a square is the number alone, so that equal sizes are equal


def size_of(height: int, width: int) -> Size:
    return height if height == width else Oblong(height, width)


def sides(size: Size) -> tuple[int, int]:
    """Height and width."""
    return (size, size) if isinstance(size, int) else size


def area(size: Size) -> int:
    height, width = sides(size)
    return height * width


def strided(size: Size, stride: int) -> Size:
    """What a layer with "same" padding makes of it."""
    height, width = sides(size)
    return size_of(ceil(height / stride), ceil(width / stride))


def scaled(size: Size, shorter: int | None) -> Size:
    """In proportion, with so many pixels on the shorter side; as it is where none are given."""
    if shorter is None:
        return size
    height, width = sides(size)
    factor = shorter / min(height, width)
    return size_of(max(1, round(height * factor)), max(1, round(width * factor)))


def is_size(value: Any) -> bool:
    if type(value) is Oblong:
        return value.height != value.width and all(map(_is_side, value))
    return _is_side(value)


def size_given(name: str, value: Any) -> Size:
    """The size that a user gives as a number or as [height, width].

    Raises:
        ValueError: for anything else.
    """
    pair = value if isinstance(value, list | tuple) else [value, value]
    if len(pair) != 2 or not all(map(_is_side, pair)):
        raise ValueError(
            f"{name}={shown(value)}: expected pixels from 1 to {MAX_SIZE}, or [height, width]"
        )
    return size_of(*pair)


def _is_side(value: Any) -> bool:
    return type(value) is int and 1 <= value <= MAX_SIZE
