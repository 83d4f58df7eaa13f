"""python -m benchmarks.quality.make_emoji --packages DIR --out emoji.npz

Makes the emoji images of `benchmarks.quality`: emoji of six permissively licensed sets, drawn
at 32 px on white, labelled by their Unicode subgroup. The split goes by the first code point: all
drawings, of whatever set, of all sequences that begin with the same one stand on one side.
Relatives that begin with another one may stand on both sides: genders (old man, old woman; boy,
child) and colours with code points of their own. Of 1,685 test images 3 are nearly the drawing of
a training image.

DIR is where npm put the packages that hold the drawings and the names:

    npm install --prefix DIR --ignore-scripts \\
        @iconify-json/noto@1.2.9 @iconify-json/fluent-emoji@1.2.7 \\
        @iconify-json/fluent-emoji-flat@1.2.6 @iconify-json/twemoji@1.2.5 \\
        @iconify-json/emojione@1.2.3 @iconify-json/noto-v1@1.2.5 emojibase-data@17.0.0
    pip install resvg-py==0.5.0

Licences: noto and noto-v1 Apache 2.0, fluent-emoji and fluent-emoji-flat MIT, twemoji and emojione
CC BY 4.0, emojibase-data MIT. Sets under share-alike licences are left out. The file is an archive
of numpy arrays named as MedMNIST names them: `data=npz data.root=emoji.npz` reads it.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

SETS = ("noto", "fluent-emoji", "fluent-emoji-flat", "twemoji", "emojione", "noto-v1")
PERMISSIVE = {"Apache-2.0", "MIT", "CC-BY-4.0"}
TEST_SHARE = 0.25  # of the drawings of a class, at most
LEAST_TESTED = 10  # drawings of a class
SKIN_TONES = range(0x1F3FB, 0x1F400)


@dataclass(frozen=True)
class Emoji:
    """One emoji as Unicode knows it.

    Attributes:
        key: its first code point, in hexadecimal, which other emoji may begin with too.
    """

    name: str
    key: str
    subgroup: int


def slug(text: str) -> str:
    """As icons are named: `grinning-face`."""
    text = text.lower().replace("’", "").replace("'", "").replace("&", "and")
    return re.sub(r"[^a-z0-9]+", "-", text.replace("ñ", "n").replace("é", "e")).strip("-")


def emojis(package: Path) -> dict[str, Emoji]:
    """All emoji without skin tones, by slug and by `code` of their code points."""
    found: dict[str, Emoji] = {}
    for row in json.loads((package / "en" / "data.json").read_text()):
        if row.get("subgroup") is None:
            continue
        emoji = Emoji(row["label"], row["hexcode"].split("-")[0], row["subgroup"])
        for name in (slug(row["label"]), code(row["hexcode"])):
            found.setdefault(name, emoji)
    return found


def code(hexcode: str) -> str:
    """Code points, without what only asks for colour."""
    return "-".join(c for c in hexcode.upper().split("-") if c != "FE0F")


def toneless(name: str, codes: list[str]) -> bool:
    """Whether an icon has no skin tone: those repeat one drawing up to 25 times."""
    toned = any(int(c, 16) in SKIN_TONES for one in codes for c in one.split("-"))
    return not toned and not re.search(r"(light|medium|dark)-skin-tone|-(light|dark|medium)$", name)


def drawings(package: Path, known: dict[str, Emoji]) -> list[tuple[Emoji, str]]:
    """(emoji, SVG) of each icon that is one of the known emoji.

    Raises:
        ValueError: if the set's licence isn't one of the permissive ones.
    """
    info = json.loads((package / "info.json").read_text())
    if info["license"]["spdx"] not in PERMISSIVE:
        raise ValueError(f"{package}: licence {info['license']['spdx']}, expected one of "
                         f"{', '.join(sorted(PERMISSIVE))}")  # fmt: skip
    icons: dict[str, Any] = json.loads((package / "icons.json").read_text())
    chars = json.loads((package / "chars.json").read_text())
    codes: dict[str, list[str]] = {}
    for hexcode, name in chars.items():
        codes.setdefault(name, []).append(hexcode)
    found, seen = [], set()
    for name, icon in sorted(icons["icons"].items()):
        its = codes.get(name, [])
        if icon.get("hidden") or not toneless(name, its):
            continue
        emoji = next((known[c] for c in (*map(code, its), name) if c in known), None)
        if emoji is None or emoji.name in seen:
            continue
        seen.add(emoji.name)
        width = icon.get("width", icons.get("width", 16))
        height = icon.get("height", icons.get("height", 16))
        box = f"{icon.get('left', 0)} {icon.get('top', 0)} {width} {height}"
        svg = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{box}">{icon["body"]}</svg>'
        found.append((emoji, svg))
    return found


def draw(svg: str, size: int) -> np.ndarray:
    """uint8 (size, size, 3), on white; drawn at four times the size and averaged."""
    import resvg_py

    svg = svg.replace("<svg ", '<svg xmlns:xlink="http://www.w3.org/1999/xlink" ', 1)
    png = bytes(resvg_py.svg_to_bytes(svg_string=svg, width=4 * size, height=4 * size))
    drawn = Image.open(io.BytesIO(png)).convert("RGBA")
    white = Image.new("RGBA", drawn.size, "white")
    image = Image.alpha_composite(white, drawn).convert("RGB")
    return np.asarray(image.resize((size, size), Image.Resampling.BOX))


def test_keys(emojis: Sequence[Emoji]) -> set[str]:
    """The first code points whose drawings are test images: about a quarter of each class.

    One key after another, in an order that only its hash decides, becomes a test key where no class
    gets more than its share by it. So the many families and roles of `man` and `woman` are trained
    on, and what little their classes have besides is tested on.
    """
    drawn = Counter(emoji.subgroup for emoji in emojis)
    by_key: dict[str, Counter[int]] = {}
    for emoji in emojis:
        by_key.setdefault(emoji.key, Counter())[emoji.subgroup] += 1
    tested: Counter[int] = Counter()
    chosen = set()
    for key in sorted(by_key, key=lambda k: hashlib.sha256(k.encode()).digest()):
        after = tested + by_key[key]
        if all(after[s] <= TEST_SHARE * drawn[s] for s in by_key[key]):
            tested, chosen = after, {*chosen, key}
    return chosen


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quality.make_emoji")
    parser.add_argument("--packages", type=Path, required=True, metavar="DIR")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE")
    parser.add_argument("--size", type=int, default=32, metavar="PIXELS")
    parser.add_argument("--least", type=int, default=75, help="drawings that a class needs")
    args = parser.parse_args()
    modules = args.packages / "node_modules"
    known = emojis(modules / "emojibase-data")
    pairs = [
        pair for name in SETS for pair in drawings(modules / "@iconify-json" / name, known)
    ]  # fmt: skip
    groups = json.loads((modules / "emojibase-data" / "meta" / "groups.json").read_text())
    counts = Counter(emoji.subgroup for emoji, _ in pairs)
    pairs = [(emoji, svg) for emoji, svg in pairs if counts[emoji.subgroup] >= args.least]
    tested = test_keys([emoji for emoji, _ in pairs])
    counts = Counter(emoji.subgroup for emoji, _ in pairs if emoji.key in tested)
    kept = sorted(subgroup for subgroup, n in counts.items() if n >= LEAST_TESTED)
    arrays: dict[str, list[Any]] = {
        f"{part}_{what}": [] for part in ("train", "test") for what in ("images", "labels")
    }
    for emoji, svg in pairs:
        if emoji.subgroup in kept:
            part = "test" if emoji.key in tested else "train"
            arrays[f"{part}_images"].append(draw(svg, args.size))
            arrays[f"{part}_labels"].append(kept.index(emoji.subgroup))
    names = [groups["subgroups"][str(s)] for s in kept]
    stacked = {
        name: np.stack(rows) if name.endswith("images") else np.array(rows, np.int64)
        for name, rows in arrays.items()
    }
    np.savez_compressed(args.out, classes=np.array(names), **stacked)
    sizes = np.bincount(stacked["test_labels"], minlength=len(names))
    print(f"{args.out}: {len(names)} classes, {len(stacked['train_labels'])} training and "
          f"{len(stacked['test_labels'])} test images; the largest class is "
          f"{sizes.max() / sizes.sum():.1%} of the test images")  # fmt: skip


if __name__ == "__main__":
    main()
