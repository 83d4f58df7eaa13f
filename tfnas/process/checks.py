"""Checks of plain values that every entry point shares: what was given, what was expected."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from tfnas.files.bounded import shown

T = TypeVar("T")


def check_writable(path: Path) -> None:
    """Raises OSError if a file can't be written at `path`; makes its folder."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(f"can't write {path}: {error.strerror or error}") from None
    if path.is_dir() or not os.access(path if path.exists() else path.parent, os.W_OK):
        raise OSError(f"can't write {path}: it is a folder, or its permissions forbid it")


def check_choice(name: str, value: str, known: Any) -> None:
    """Raises ValueError, with the known values, if `value` is none of them."""
    if value not in known:
        raise ValueError(f"{name}={value!r}: expected one of {', '.join(known)}")


def lookup(what: str, name: object, known: Mapping[str, T]) -> T:
    """An entry by its name, which may be anything. Raises ValueError, with the known names."""
    if not isinstance(name, str) or name not in known:
        raise ValueError(f"{what} {shown(name)}: expected one of {', '.join(known)}")
    return known[name]


def smallest(*limits: int | None) -> int | None:
    """The smallest of those that are given."""
    return min((limit for limit in limits if limit is not None), default=None)


def check_positive(**values: float | None) -> None:
    """Raises ValueError for the first value that is given and not a finite number above 0."""
    for name, value in values.items():
        if value is not None and not 0 < value < float("inf"):
            raise ValueError(f"{name}={value}: expected a number above 0")
