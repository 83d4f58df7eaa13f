"""Own JSON files: what the types let in, and one line for each thing that they don't."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

import pytest
from msgspec import Meta

from tfnas.files.decode import Count, Fraction, Positive, convert, decode, encode, load

HEADER = {"format": "test/1", "unit": "ms"}


@dataclass(frozen=True, slots=True)
class Part:
    name: Annotated[str, Meta(max_length=9)]
    ms: Positive

    def __post_init__(self) -> None:
        if self.name == "bad":
            raise ValueError(f"a part of the name {self.name}")


@dataclass(frozen=True)
class Whole:
    seed: Count
    share: Fraction
    parts: tuple[Part, ...]
    by_width: Mapping[Count, Part]
    more: Mapping[str, Any] = field(default_factory=dict)
    interval: tuple[float, float] | None = None


WHOLE = Whole(3, 0.5, (Part("a", 1.0), Part("b", 2.0)), {8: Part("c", 3.0)}, {"x": [{"y": 1}]})


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "whole.json"
    for whole in (WHOLE, Whole(0, 1, (), {}, {}, (1, 2))):
        path.write_text(encode(whole, HEADER))
        assert load(path, Whole, "whole", 10_000, HEADER) == whole
        assert list(json.loads(path.read_text())) == [*HEADER, *asdict(whole)]
    with pytest.raises(ValueError, match="not JSON compliant"):
        encode(Part("a", float("nan")))


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "format": ({"format": "test/2"}, "has the format 'test/2', expected 'test/1'"),
    "unit": ({"unit": None}, "has the unit None, expected 'ms'"),
    "type": ({"seed": "3"}, "has seed='3', expected `int`"),
    "truth": ({"seed": True}, "has seed=True, expected `int`"),
    "fraction for a count": ({"seed": 3.0}, "has seed=3.0, expected `int`"),
    "bound": ({"seed": -1}, "has seed=-1, expected `int` >= 0"),
    "inside": ({"parts": [{"name": "a", "ms": 0}]}, "has parts[0].ms=0, expected `float` > 0"),
    "no list": ({"parts": {}}, "has parts={}, expected `array`"),
    "length": ({"interval": [1]}, "has interval=[1], expected `array` of length 2"),
    "long": ({"parts": [{"name": "x" * 10, "ms": 1}]}, "expected `str` of length <= 9"),
    "key": ({"by_width": {"x": {"name": "a", "ms": 1}}}, "is wrong at a key of by_width"),
    "value of a key": ({"by_width": {"8": 3}}, "by_width[...]: Expected `object`, got `int`"),
    "own check": ({"parts": [{"name": "bad", "ms": 1}]}, "at parts[0]: a part of the name bad"),
    "missing": ({"parts": [{"name": "a"}]}, "at parts[0]: Object missing required field `ms`"),
    "unknown": ({"extra": 1}, "has the fields ['seed', "),
    "unknown inside": ({"by_width": {"8": {"name": "a", "ms": 1, "x": 1}}}, "expected name, ms"),
    "huge": ({"share": 1e300}, "holds 1e+300, beyond"),
}


@pytest.mark.parametrize("case", WRONG)
def test_each_wrong_thing_is_told_with_what_was_expected(case: str, tmp_path: Path) -> None:
    change, said = WRONG[case]
    path = tmp_path / "whole.json"
    path.write_text(json.dumps({**HEADER, **asdict(WHOLE), **change}))
    with pytest.raises(ValueError, match=re.escape(said)) as error:
        load(path, Whole, "whole", 10_000, HEADER)
    assert str(error.value).startswith(f"{path} is no whole: it ")
    assert "\n" not in str(error.value)
    assert type(error.value) is ValueError


TEXTS = [
    "", "{", "[]", "7", "null", '"x"', "[" * 100_000, '{"a": ' * 100_000, '{"seed": NaN}',
    '{"seed": Infinity}', '{"seed": ' + "9" * 5_000 + "}", '{"seed": 1, "seed": 2}',
    '{"name": "\\ud800"}', '{"name": " - at `$.other`", "ms": -1}', "\x00",
    '{"name": "bad", "ms": 1}',
]  # fmt: skip


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("kind", [Whole, Part, dict[str, Part], tuple[int, Part]])
def test_no_text_is_any_other_error(kind: type[object], text: str) -> None:
    for header in (None, HEADER):
        with pytest.raises(ValueError, match=r"^.{1,1000}$") as error:
            decode(text, kind, header)
        assert type(error.value) is ValueError


def test_files_that_can_t_be_read(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    with pytest.raises(ValueError, match=r"can't read .*x\.json"):
        load(path, Part, "part", 100)
    for content in (b"\xff\xfe", b" " * 101):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"can't read .*x\.json"):
            load(path, Part, "part", 100)


def test_what_may_be_missing_or_more() -> None:
    data = {"seed": 3, "share": 0, "parts": [], "by_width": {}}
    with pytest.raises(ValueError, match="has the fields"):
        convert(data, Whole)
    expected = Whole(3, 0.0, (), {})
    assert convert(data, Whole, older=("more", "interval")) == expected
    assert convert({**data, "new": {}}, Whole, partly=True) == expected
    assert convert({"name": "a", "ms": "2"}, Part, texts=True) == Part("a", 2.0)
