"""What of the emoji packages becomes an image, and on which side of the split."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from benchmarks.quality import make_emoji
from benchmarks.quality.make_emoji import TEST_SHARE, Emoji, code, drawings, emojis, slug

MAN, OLD_MAN, OLD_WOMAN = "1F468", "1F474", "1F475"


def test_keys_are_tested_up_to_the_share_of_each_class() -> None:
    """Whatever else begins with them, and in whatever order they come."""
    drawn = [Emoji(f"{s} {k}", f"{1000 + 7 * k:X}", s) for s in range(3) for k in range(40 + s)]
    drawn += [Emoji(f"role {i}", MAN, 1) for i in range(30)]
    tested = make_emoji.test_keys(drawn)
    assert MAN not in tested
    all_of, tested_of = Counter(e.subgroup for e in drawn), Counter[int]()
    for emoji in drawn:
        tested_of[emoji.subgroup] += emoji.key in tested
    for subgroup, count in all_of.items():
        assert TEST_SHARE / 2 * count < tested_of[subgroup] <= TEST_SHARE * count
    assert make_emoji.test_keys(drawn[::-1]) == tested


@pytest.mark.parametrize(
    ("label", "name"),
    [
        ("Grinning face", "grinning-face"),
        ("woman’s sandal", "womans-sandal"),
        ("man's shoe", "mans-shoe"),
        ("Trinidad & Tobago", "trinidad-and-tobago"),
        ("piñata", "pinata"),
        ("flag: Réunion", "flag-reunion"),
    ],
)
def test_slug(label: str, name: str) -> None:
    assert slug(label) == name


def test_code_leaves_out_what_only_asks_for_colour() -> None:
    assert code("2764-fe0f-200D-1f525") == "2764-200D-1F525"
    assert code("FE0F") == ""


@pytest.mark.parametrize(
    ("name", "codes", "has_none"),
    [
        ("waving-hand", ["1f44b"], True),
        ("waving-hand", ["1f44b", "1f44b-1f3fb"], False),
        ("waving-hand", ["1f44b-1F3FF"], False),
        ("waving-hand-medium-light-skin-tone", [], False),
        ("waving-hand-dark", [], False),
        ("dark-chocolate", ["1f3fa"], True),
        ("light-bulb", [], True),
    ],
)
def test_skin_tones(name: str, codes: list[str], has_none: bool) -> None:
    assert make_emoji.toneless(name, codes) is has_none


def write(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def names(folder: Path) -> Path:
    rows = [
        {"label": "old man", "hexcode": OLD_MAN, "subgroup": 20},
        {"label": "old woman", "hexcode": OLD_WOMAN, "subgroup": 20},
        {"label": "man: red hair", "hexcode": f"{MAN}-200D-1F9B0", "subgroup": 20},
        {"label": "man", "hexcode": f"{MAN}-FE0F", "subgroup": 20},
        {"label": "regional indicator A", "hexcode": "1F1E6"},
    ]
    write(folder / "en" / "data.json", rows)
    return folder


def icons(folder: Path, licence: str = "MIT") -> Path:
    write(folder / "info.json", {"license": {"spdx": licence}})
    drawn = {
        "a-man": {"body": "<a/>", "width": 64, "left": 2},
        "man": {"body": "<second/>"},
        "man-red-hair": {"body": "<b/>"},
        "no-emoji": {"body": "<c/>"},
        "old-man": {"body": "<d/>", "hidden": True},
        "old-woman": {"body": "<e/>"},
        "old-woman-dark": {"body": "<f/>"},
    }
    write(folder / "icons.json", {"icons": drawn, "width": 32, "height": 48})
    chars = {MAN.lower(): "a-man", f"{OLD_WOMAN.lower()}-1f3ff": "old-woman-dark"}
    write(folder / "chars.json", chars)
    return folder


def test_relatives_have_one_key_only_where_their_first_code_point_is_one(tmp_path: Path) -> None:
    known = emojis(names(tmp_path))
    assert known["man"] is known[MAN]
    assert known["man"].key == known["man-red-hair"].key == MAN
    assert known["old-man"].key != known["old-woman"].key
    assert "1F1E6" not in known


def test_drawings_of_a_package(tmp_path: Path) -> None:
    known = emojis(names(tmp_path / "names"))
    found = {emoji.name: svg for emoji, svg in drawings(icons(tmp_path / "icons"), known)}
    start = '<svg xmlns="http://www.w3.org/2000/svg" viewBox='
    assert found == {
        "man": f'{start}"2 0 64 48"><a/></svg>',  # once, though two icons are it
        "man: red hair": f'{start}"0 0 32 48"><b/></svg>',
        "old woman": f'{start}"0 0 32 48"><e/></svg>',
    }


@pytest.mark.parametrize("licence", ["CC-BY-SA-4.0", "GPL-3.0", ""])
def test_other_licences_are_refused(tmp_path: Path, licence: str) -> None:
    with pytest.raises(ValueError, match=f"licence {licence}, expected one of Apache-2.0, CC-BY"):
        drawings(icons(tmp_path, licence), {})
