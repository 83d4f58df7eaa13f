"""Pickles read as plain data, without running what they name."""

from __future__ import annotations

import pickletools
import re
import warnings
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from tfnas.files.bounded import MAX_NUMBER, MAX_PARTS, check_plain, check_text, put, shown


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
                stack.append(put({}, _pairs(marked())))
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
                put(_of_type(dict, stack[-1]), _pairs(items))
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
        check_plain(stack[-1], MAX_PARTS, finite=False)
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
        put(result, _pairs(_of_type(list, pair)))
    return result
