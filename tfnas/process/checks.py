"""Checks of plain values that every entry point shares: what was given, what was expected."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, is_dataclass
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from tfnas.files.bounded import shown

T = TypeVar("T")


@dataclass(frozen=True)
class Allowed:
    """The values that a field may have, as its annotation says: `lr: Annotated[float, ABOVE_0]`."""

    expected: str
    fits: Callable[[Any], bool]


ABOVE_0 = Allowed("a number above 0", lambda v: 0 < v < math.inf)
AT_LEAST_0 = Allowed("a number of at least 0", lambda v: 0 <= v < math.inf)
INSIDE_0_1 = Allowed("a number above 0 and below 1", lambda v: 0 < v < 1)
FROM_0_BELOW_1 = Allowed("a number from 0 to below 1", lambda v: 0 <= v < 1)


def one_of(names: Iterable[str]) -> Allowed:
    known = tuple(names)
    return Allowed(f"one of {', '.join(known)}", lambda v: v in known)


def between(low: float, high: float) -> Allowed:
    return Allowed(f"{low:g} to {high:g}", lambda v: low <= v <= high)


def check_fields(group: str, values: object) -> None:
    """Raise ValueError, naming the option, for the first field that isn't `Allowed`.

    Args:
        group: that the options belong to; "" for none. Dataclasses among them are groups in it.
    """
    for field, hint in get_type_hints(type(values), include_extras=True).items():
        name, value = f"{group}.{field}".lstrip("."), getattr(values, field)
        if is_dataclass(value):
            check_fields(name, value)
        for allowed in getattr(hint, "__metadata__", ()):
            if value is not None and not allowed.fits(value):
                raise ValueError(f"{name}={value!r}: expected {allowed.expected}")


def check_writable(path: Path, otherwise: str = "") -> None:
    """Raises OSError if a file can't be written at `path`; makes its folder.

    Args:
        otherwise: what gives another place.
    """
    reason = "it is a folder, or its permissions forbid it"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.is_dir() and os.access(path if path.exists() else path.parent, os.W_OK):
            return
    except OSError as error:
        reason = error.strerror or str(error)
    raise OSError(f"can't write {path}: {reason}{otherwise and f'; {otherwise}'}")


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
