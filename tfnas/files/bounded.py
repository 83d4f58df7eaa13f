"""Files from elsewhere as plain data: numbers, texts, lists and dicts, in bounded amounts.

Nothing that a file holds is run: `parse_pickle` is a small machine that imports and calls nothing,
YAML has neither tags nor aliases. The text of every ValueError of the parsers goes after the name
of a file: "table.json" + "holds the key 'a' twice".
"""

from __future__ import annotations

import json
import re
import reprlib
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

MAX_PARTS = 500_000  # values of a text, opcodes of a pickle: CIFAR-100 has 200,000
MAX_DEPTH = 8  # of lists and dicts
MAX_NUMBER = 1e15  # beyond, sums lose digits and powers overflow
MAX_TEXT, MAX_NAME = 10_000, 255  # characters
NUMBER = re.compile(r"[+-]?\d+(\.\d+)?([eE][+-]?\d+)?")

_REPR = reprlib.Repr()
_REPR.maxstring = _REPR.maxother = 200
_REPR.maxlevel = 2


def shown(value: object) -> str:
    """A value for a message, shortened."""
    try:
        return _REPR.repr(value)
    except ValueError:  # Python prints no integer of more than 4300 digits
        return "an integer of thousands of digits"


def printable(text: str) -> str:
    """Without control characters, which a terminal would obey, and without direction marks."""
    return "".join(c if c.isprintable() else " " for c in text)


def csv_cell(value: Any) -> str:
    """Text that no spreadsheet takes for a formula."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    text = printable(str(value))
    if text.lstrip().startswith(("=", "+", "-", "@")) and not NUMBER.fullmatch(text):
        return f"'{text}"
    return text


def read_bytes(path: Path, limit: int) -> bytes:
    """The bytes of a plain file.

    Raises:
        OSError: if it isn't there, can't be read or is no plain file: a pipe may wait for ever, a
            device may never end.
        ValueError: if it has more than `limit` bytes. The texts of both go after "can't read FILE:"
    """
    try:
        status = path.stat()
    except ValueError as error:  # a NUL in its name
        raise OSError(str(error)) from None
    if not stat.S_ISREG(status.st_mode):
        raise OSError("not a plain file")
    if status.st_size > limit:
        raise ValueError(f"{status.st_size:,} bytes, {limit:,} are the most")
    with path.open("rb") as file:
        return file.read(status.st_size)


def check_text(value: object, most: int = MAX_TEXT) -> str:
    """A text as it is; raises ValueError if it is none, is too long or can't be written out."""
    if type(value) is not str:
        raise ValueError(f"holds {shown(value)}, expected a text")
    if len(value) > most:
        raise ValueError(f"holds a text of {len(value):,} characters, {most:,} are the most")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError(f"holds half a character: {shown(value)}") from None
    return value


def parse_json(text: str, most: int = MAX_PARTS) -> Any:
    """JSON of up to about `most` values, no key twice, every number finite.

    Raises ValueError for anything else.
    """
    if sum(map(text.count, "[{,")) > most:
        raise ValueError(f"has more than {most:,} values")
    try:
        data = json.loads(text, object_pairs_hook=lambda pairs: put({}, pairs), parse_int=_integer)
    except json.JSONDecodeError as error:
        raise ValueError(f"is not JSON: {error}") from None
    except RecursionError:
        raise ValueError("is not JSON that can be read: nested too deeply") from None
    check_plain(data, 3 * most + 1)  # at most a dict, its key and its value for each mark counted
    return data


def _integer(digits: str) -> int:
    if len(digits) > 16:
        raise ValueError(f"holds an integer of {len(digits)} digits")
    return int(digits)


def put(target: dict[Any, Any], pairs: Iterable[tuple[Any, Any]]) -> dict[Any, Any]:
    for key, value in pairs:
        # Tuples as keys could be nested so that hashing them takes for ever, or the whole stack.
        if type(key) not in (str, int):
            raise ValueError(f"holds the key {shown(key)}, expected a text or an integer")
        if key in target:
            raise ValueError(f"holds the key {shown(key)} twice")
        target[key] = value
    return target


def check_plain(data: Any, most: int, *, finite: bool = True) -> None:
    """Raises ValueError for types, numbers, texts and depths that are out of bounds, and where
    shared parts unfold to more values than `most`."""
    level, seen = [data], 1
    for _ in range(MAX_DEPTH + 1):
        inner: list[Any] = []
        for value in level:
            kind = type(value)
            if kind is dict:
                inner += value
                inner += value.values()
            elif kind is list or kind is tuple:
                inner += value
            elif kind is str:
                check_text(value)
            elif kind is int or kind is float:
                if finite and not abs(value) <= MAX_NUMBER:
                    raise ValueError(f"holds {shown(value)}, beyond ±{MAX_NUMBER:g}")
            elif value is not None and kind is not bool:
                raise ValueError(f"holds a {kind.__name__}")
            if seen + len(inner) > most:
                raise ValueError(f"unfolds to more than {most:,} values")
        if not inner:
            return
        level, seen = inner, seen + len(inner)
    raise ValueError(f"is nested deeper than {MAX_DEPTH}")


NUMBER = re.compile(r"[-+]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][-+]?[0-9]{1,3})?|[-+]?\.inf|\.nan")


def parse_yaml(text: str) -> Any:
    """One YAML document of mappings, lists, numbers and texts.

    Tags would name types to build, and with aliases a few lines unfold to any size.

    Raises ValueError for anything else.
    """
    root: list[Any] = []
    stack = [root]  # a mapping is a list of keys and values in turn until it ends
    try:
        events = yaml.parse(text, Loader=getattr(yaml, "CBaseLoader", yaml.BaseLoader))
        for count, event in enumerate(events):
            if count > MAX_PARTS:
                raise ValueError(f"has more than {MAX_PARTS:,} parts")
            if getattr(event, "anchor", None) or getattr(event, "tag", None):
                raise ValueError("uses an anchor, an alias or a tag, which no table needs")
            if isinstance(event, yaml.CollectionEndEvent):
                items = stack.pop()
                if isinstance(event, yaml.MappingEndEvent):
                    stack[-1][-1] = put({}, zip(items[::2], items[1::2], strict=True))
            elif isinstance(event, yaml.ScalarEvent):
                stack[-1].append(_scalar(event.value) if event.implicit[0] else event.value)
            elif isinstance(event, yaml.CollectionStartEvent):
                items = []
                stack[-1].append(items)
                stack.append(items)
    except yaml.YAMLError as error:
        raise ValueError(f"is not YAML: {shown(str(error))}") from None
    if len(root) != 1:
        raise ValueError(f"holds {len(root)} YAML documents, expected one")
    check_plain(root[0], MAX_PARTS, finite=False)
    return root[0]


def _scalar(text: str) -> int | float | str:
    if len(text) > 40 or not NUMBER.fullmatch(text):
        return text
    if text.isdecimal() and len(text) <= 15:
        return int(text)
    return float(text.replace(".inf", "inf").replace(".nan", "nan"))
