"""Own JSON files, to and from frozen dataclasses: the types of the fields say what may stand there.

Bounds are part of a type: `Annotated[float, Meta(ge=0)]`. What no type can say, such as sums and
order, is checked by `__post_init__` or by whoever reads. The text of every ValueError goes after
the name of a file, as those of `tfnas.files.bounded` do: "result.json" + "has seed='x', expected
`int`".
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import msgspec
from msgspec import Meta

from tfnas.files.bounded import MAX_PARTS, parse_json, read_bytes, shown

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Count = Annotated[int, Meta(ge=0)]
Positive = Annotated[float, Meta(gt=0)]
Fraction = Annotated[float, Meta(ge=0, le=1)]
Value = TypeVar("Value")
ERROR = re.compile(r"(.*?)(?: - at (`key` in )?`\$\.?(.*)`)?", re.DOTALL)  # of msgspec
STEP = re.compile(r"(\w+)|\[(\d+)\]")  # of a path such as rows[0].runs


def encode(
    value: DataclassInstance,
    header: Mapping[str, str] | None = None,
    left_out: Collection[str] = (),
) -> str:
    """The text of a file: the header, then the fields in their order, but for those left out."""
    kept = {name: part for name, part in asdict(value).items() if name not in left_out}
    return json.dumps({**(header or {}), **kept}, indent=1, allow_nan=False) + "\n"


def load(
    path: Path,
    kind: type[Value],
    what: str,
    most_bytes: int,
    header: Mapping[str, str] | None = None,
    *,
    older: Collection[str] = (),
    partly: bool = False,
) -> Value:
    """Read a file that `encode` wrote; for the arguments see `decode` and `convert`.

    Raises:
        ValueError: naming the file, which can't be read or is no `what`.
    """
    try:
        text = read_bytes(path, most_bytes).decode()
    except (OSError, ValueError) as error:
        raise ValueError(f"can't read {path}: {error}") from None
    try:
        return decode(text, kind, header, older=older, partly=partly)
    except ValueError as error:
        raise ValueError(f"{path} is no {what}: it {error}") from None


def decode(
    text: str,
    kind: type[Value],
    header: Mapping[str, str] | None = None,
    *,
    older: Collection[str] = (),
    partly: bool = False,
    most: int = MAX_PARTS,
) -> Value:
    """Read JSON of up to about `most` values; see `convert`."""
    return convert(parse_json(text, most), kind, header, older=older, partly=partly)


def convert(
    data: Any,
    kind: type[Value],
    header: Mapping[str, str] | None = None,
    *,
    older: Collection[str] = (),
    partly: bool = False,
    texts: bool = False,
) -> Value:
    """Make a `kind` of plain data.

    Args:
        header: fields that stand beside those of `kind`, with the only value that they may have.
        older: fields that may be missing, as files of before have it, and then have their defaults.
        partly: other fields may stand there too, and all that have a default may be missing.
        texts: numbers and truth values may come as texts, as from YAML that is read without types.

    Raises:
        ValueError: for a field that is missing, unknown, of another type or out of its bounds.
    """
    if header is not None:
        for name, expected in header.items():
            found = data.get(name) if isinstance(data, dict) else data
            if found != expected:
                raise ValueError(f"has the {name} {shown(found)}, expected {expected!r}")
        data = {name: value for name, value in data.items() if name not in header}
    try:
        value = msgspec.convert(data, kind, strict=not texts, str_keys=True)
    except msgspec.ValidationError as error:
        raise ValueError(_reason(str(error), data)) from None
    if not partly:
        _check_names(value, data, older)
    return value


def _reason(said: str, data: Any) -> str:
    """An error of msgspec in our words, with what was found."""
    reason, of_key, where = ERROR.fullmatch(said).groups("")  # type: ignore[union-attr]
    if of_key or "[...]" in where or not reason.startswith("Expected "):
        place = f" at {'a key of ' if of_key else ''}{where}" if where else ""
        return f"is wrong{place}: {reason}"
    expected = reason.removeprefix("Expected ").partition(", got ")[0]
    for name, index in STEP.findall(where):
        data = data[name] if name else data[int(index)]
    return f"{f'has {where}=' if where else 'holds '}{shown(data)}, expected {expected}"


def _check_names(value: Any, data: Any, older: Collection[str]) -> None:
    """Raises ValueError where a dataclass was made of too many fields, or of too few."""
    if is_dataclass(value):
        names = [f.name for f in fields(value)]
        if not set(names) - set(older) <= data.keys() <= set(names):
            raise ValueError(f"has the fields {shown(list(data))}, expected {', '.join(names)}")
        inner: Iterable[tuple[Any, Any]] = ((getattr(value, name), data[name]) for name in data)
    elif isinstance(value, dict):
        inner = zip(value.values(), data.values(), strict=False)
    else:
        inner = zip(value, data, strict=True)
    for each, part in inner:
        if isinstance(part, (dict, list)):
            _check_names(each, part, older)
