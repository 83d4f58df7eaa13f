"""Files from elsewhere as plain data: numbers, texts, lists and dicts, in bounded amounts.

Nothing that a file holds is run: `parse_pickle` is a small machine that imports and calls nothing,
YAML has neither tags nor aliases. The text of every ValueError of the parsers goes after the name
of a file: "table.json" + "holds the key 'a' twice".
"""

from __future__ import annotations

import json
import pickletools
import re
import reprlib
import stat
import warnings
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

MAX_PARTS = 500_000  # values of a text, opcodes of a pickle: CIFAR-100 has 200,000
MAX_DEPTH = 8  # of lists and dicts
MAX_NUMBER = 1e15  # beyond, sums lose digits and powers overflow
MAX_TEXT, MAX_NAME = 10_000, 255  # characters

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
        data = json.loads(text, object_pairs_hook=lambda pairs: _put({}, pairs), parse_int=_integer)
    except json.JSONDecodeError as error:
        raise ValueError(f"is not JSON: {error}") from None
    except RecursionError:
        raise ValueError("is not JSON that can be read: nested too deeply") from None
    _check_plain(data, 3 * most + 1)  # at most a dict, its key and its value for each mark counted
    return data


def _integer(digits: str) -> int:
    if len(digits) > 16:
        raise ValueError(f"holds an integer of {len(digits)} digits")
    return int(digits)


def _put(target: dict[Any, Any], pairs: Iterable[tuple[Any, Any]]) -> dict[Any, Any]:
    for key, value in pairs:
        # Tuples as keys could be nested so that hashing them takes for ever, or the whole stack.
        if type(key) not in (str, int):
            raise ValueError(f"holds the key {shown(key)}, expected a text or an integer")
        if key in target:
            raise ValueError(f"holds the key {shown(key)} twice")
        target[key] = value
    return target


def _check_plain(data: Any, most: int, *, finite: bool = True) -> None:
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
                    stack[-1][-1] = _put({}, zip(items[::2], items[1::2], strict=True))
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
    _check_plain(root[0], MAX_PARTS, finite=False)
    return root[0]


def _scalar(text: str) -> int | float | str:
    if len(text) > 40 or not NUMBER.fullmatch(text):
        return text
    if text.isdecimal() and len(text) <= 15:
        return int(text)
    return float(text.replace(".inf", "inf").replace(".nan", "nan"))


@dataclass(repr=False, eq=False)
class Made:
    """What a callable that a pickle names would have made, had it been called."""

    name: str  # module.name
    arguments: tuple[Any, ...]
    state: Any = None


@dataclass(frozen=True)
class _Callable:
    name: str


ORDERED_DICT = "collections.OrderedDict"
CONSTANTS = re.compile("INT|BININT[12]?|LONG1?|(BIN)?FLOAT|((SHORT_)?BIN)?(STRING|UNICODE)")
SINGLETONS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}


def parse_pickle(data: bytes, named: Collection[str] = ()) -> Any:
    """What a pickle of numbers, texts, lists, dicts and OrderedDicts holds.

    Texts of Python 2 come a character a byte.

    Args:
        named: callables that it may name besides; what they'd have made is a `Made`. With them it
            may hold tuples, truth values and None too, and is not checked for depth.

    Raises ValueError for anything else.
    """
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[int, Any] = {}

    def marked() -> list[Any]:
        start = marks.pop()
        items = stack[start:]
        del stack[start:]
        return items

    def last(count: int) -> list[Any]:
        return [stack.pop() for _ in range(count)][::-1]

    def step(opcode: str, argument: Any) -> None:
        if CONSTANTS.fullmatch(opcode):
            if type(argument) is int and abs(argument) > MAX_NUMBER:
                raise ValueError(f"holds {shown(argument)}, beyond ±{MAX_NUMBER:g}")
            stack.append(argument)
            return
        match opcode:
            case "PROTO" | "FRAME" | "STOP":
                pass
            case "MARK":
                marks.append(len(stack))
            case "PUT" | "BINPUT" | "LONG_BINPUT":
                if argument > MAX_PARTS:
                    raise ValueError(f"has more than {MAX_PARTS:,} parts")
                memo[argument] = stack[-1]
            case "MEMOIZE":
                memo[len(memo)] = stack[-1]
            case "GET" | "BINGET" | "LONG_BINGET":
                stack.append(memo[argument])
            case "EMPTY_LIST":
                stack.append([])
            case "LIST":
                stack.append(marked())
            case "EMPTY_DICT":
                stack.append({})
            case "DICT":
                stack.append(_put({}, _pairs(marked())))
            case "EMPTY_TUPLE":
                stack.append(())
            case "TUPLE":
                stack.append(tuple(marked()))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                stack.append(tuple(last(int(opcode[-1]))))
            case "APPEND" | "APPENDS":
                items = marked() if opcode == "APPENDS" else last(1)
                _of_type(list, stack[-1]).extend(items)
            case "SETITEM" | "SETITEMS":
                items = marked() if opcode == "SETITEMS" else last(2)
                _put(_of_type(dict, stack[-1]), _pairs(items))
            case "GLOBAL" | "STACK_GLOBAL":
                parts = argument.split() if opcode == "GLOBAL" else map(check_text, last(2))
                name = ".".join(parts)
                if name != ORDERED_DICT and name not in named:
                    raise ValueError(f"asks for {name}, which nothing that belongs here does")
                stack.append(_Callable(name))
            case "REDUCE":
                function, arguments = last(2)
                made = Made(_of_type(_Callable, function).name, _of_type(tuple, arguments))
                stack.append(_ordered_dict(made) if made.name == ORDERED_DICT else made)
            case "BUILD":
                (state,) = last(1)
                _of_type(Made, stack[-1]).state = state
            case "NONE" | "NEWTRUE" | "NEWFALSE" if named:
                stack.append(SINGLETONS[opcode])
            case _:
                raise ValueError(f"uses {opcode}, which nothing that belongs here does")

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pickletools' own of odd escapes in texts
        for count, (opcode, argument) in enumerate(_opcodes(data)):
            if count > MAX_PARTS:
                raise ValueError(f"has more than {MAX_PARTS:,} parts")
            try:
                step(opcode, argument)
            except (IndexError, KeyError):
                raise ValueError(f"is corrupt: {opcode} takes what isn't there") from None
    if not stack:
        raise ValueError("is corrupt: it holds nothing")
    if not named:
        _check_plain(stack[-1], MAX_PARTS, finite=False)
    return stack[-1]


def _opcodes(data: bytes) -> Iterator[tuple[str, Any]]:
    try:
        for opcode, argument, _ in pickletools.genops(data):
            yield opcode.name, argument
    except ValueError as error:
        raise ValueError(f"is corrupt: {shown(str(error))}") from None


def _of_type(expected: type, value: Any) -> Any:
    if type(value) is not expected:
        raise ValueError(f"is corrupt: a {type(value).__name__} where a {expected.__name__} goes")
    return value


def _pairs(items: list[Any]) -> Iterable[tuple[Any, Any]]:
    if len(items) % 2:
        raise ValueError("is corrupt: a key without a value")
    return zip(items[::2], items[1::2], strict=True)


def _ordered_dict(made: Made) -> dict[Any, Any]:
    """Python 2 gave it one list of pairs, Python 3 gives it nothing and sets items later."""
    result: dict[Any, Any] = {}
    for pair in _of_type(list, made.arguments[0]) if made.arguments else []:
        _put(result, _pairs(_of_type(list, pair)))
    return result
