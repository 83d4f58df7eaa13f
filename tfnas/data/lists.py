"""Text files that list images with their labels: a class for each, or numbers."""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from tfnas.data.images import Dataset, FileImages, Place, data_set, some
from tfnas.files.bounded import shown

MAX_IMAGES = 5_000_000  # of a list; ImageNet has 1.3 million
MAX_LINE = 30_000  # characters: a path, of which Linux has none above 4,096, and its numbers
MAX_NUMBERS = 1 << 28  # of a list, which take a gigabyte
NUMBER = re.compile(r"[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?", re.ASCII)
MOST = float(np.finfo(np.float32).max)


def load(place: Place) -> Dataset:
    """From two text files of `path label` lines, the paths relative to the root."""
    train_list, test_list = place.train_list, place.test_list
    train, test = _listed("train_list", train_list, place), _listed("test_list", test_list, place)
    count = _count(train.labels, train_list)
    if place.numbers:
        if test.labels.shape[1] != count:
            raise ValueError(
                f"{test_list}: {test.labels.shape[1]} numbers for each image, expected {count} as "
                f"in {train_list}"
            )
    elif test.labels.max() >= count:
        raise ValueError(
            f"{test_list}: label {test.labels.max()}, expected 0 to {count - 1} as in {train_list}"
        )
    for given, images in ((train_list, train), (test_list, test)):
        absent = [path for path in images.paths if not Path(path).is_file()]
        if absent:
            raise FileNotFoundError(
                f"{given}: {len(absent):,} of {len(images):,} files aren't there, the first "
                f"{absent[0]}; data.root must be the folder that the list's paths start from"
            )
    classes = tuple(str(label) for label in range(count))
    origin = f"{train_list} and {test_list} below {place.root}"
    return data_set(place.name, classes, train, test, origin)


def count(place: Place) -> int:
    train = _listed("train_list", place.train_list, place)
    return _count(train.labels, place.train_list)


def _listed(key: str, given: str | None, place: Place) -> FileImages:
    if given is None:
        raise ValueError(f"data=list needs data.{key}: a text file of `path label` lines")
    read = read_numbers if place.numbers else read_list
    return FileImages(*read(Path(given).expanduser(), place.path))


def _count(labels: np.ndarray, train_list: str | None) -> int:
    """Of classes, or of the numbers that each image has."""
    if labels.ndim == 2:
        return int(labels.shape[1])
    used = np.unique(labels)
    count = int(used[-1]) + 1
    if len(used) != count:
        unused = np.setdiff1d(np.arange(min(count, len(used) + 10)), used)
        raise ValueError(
            f"{train_list}: labels up to {count - 1} but no image with label "
            f"{some(unused.tolist())}; number the classes from 0 without gaps"
        )
    return count


def read_list(file: Path, root: Path) -> tuple[tuple[str, ...], np.ndarray]:
    """The `path label` lines of a list file: N paths with the root before them, labels int64 (N,).

    Doesn't look whether the paths exist. Raises FileNotFoundError for a missing list, ValueError,
    naming the line, for a line that isn't `path label` or that leads out of the root.
    """
    base = _base(root)
    paths: list[str] = []
    labels: list[int] = []
    for where, line in _lines(file):
        path, _, label = line.replace("\t", " ").rpartition(" ")
        if not path.strip() or not (label.isascii() and label.isdecimal() and len(label) < 10):
            numbers = "; numbers are for tfnas.train with task=multi_label or task=regression"
            raise ValueError(
                f"{where}: {shown(line)}: expected `path label`, the label a number from 0 up"
                f"{numbers if NUMBER.fullmatch(label) else ''}"
            )
        paths.append(_below(base, path.strip(), where))
        labels.append(int(label))
    if not paths:
        raise ValueError(f"{file}: an empty list; expected `path label` lines")
    return tuple(paths), np.array(labels, np.int64)


def read_numbers(file: Path, root: Path) -> tuple[tuple[str, ...], np.ndarray]:
    """The `path number ...` lines of a list file: N paths, and numbers float32 (N, K).

    A path ends at the first tab. On a line without one it ends before the numbers at its end, so
    that names may hold spaces. Raises as `read_list`, also for a line of more or fewer numbers than
    the first one.
    """
    base = _base(root)
    paths: list[str] = []
    numbers, width = array("f"), 0
    for where, line in _lines(file):
        path, words = _row(line)
        if not path or not words or not all(map(NUMBER.fullmatch, words)):
            raise ValueError(
                f"{where}: {shown(line)}: expected `path number`, or several numbers after the path"
            )
        width = width or len(words)
        if len(words) != width:
            raise ValueError(
                f"{where}: {shown(line)}: {len(words)} numbers, expected {width} as before"
            )
        row = list(map(float, words))
        if max(map(abs, row)) > MOST:
            raise ValueError(f"{where}: {shown(line)}: expected numbers that float32 can hold")
        paths.append(_below(base, path, where))
        numbers.extend(row)
        if len(numbers) > MAX_NUMBERS:
            raise ValueError(f"{where}: expected up to {MAX_NUMBERS:,} numbers in all")
    if not paths:
        raise ValueError(f"{file}: an empty list; expected `path number` lines")
    return tuple(paths), np.frombuffer(numbers, np.float32).reshape(len(paths), width)


def _row(line: str) -> tuple[str, list[str]]:
    """A line's path, and the words after it."""
    path, tab, rest = line.partition("\t")
    if tab:
        return path.strip(), rest.split()
    words = line.split(" ")
    last = len(words)  # of the path
    while last and (not words[last - 1] or NUMBER.fullmatch(words[last - 1])):
        last -= 1
    return " ".join(words[:last]).strip(), [word for word in words[last:] if word]


def _base(root: Path) -> str:
    return str(root.absolute()).rstrip("/")


def _below(base: str, path: str, where: str) -> str:
    """The path with the root before it; raises ValueError if it leads elsewhere."""
    full = path if path.startswith("/") else f"{base}/{path}"
    if ".." in path.replace("\\", "/").split("/") or not full.startswith(f"{base}/"):
        raise ValueError(
            f"{where}: {path[:300]} leads out of data.root={base}; expected paths below it"
        )
    return full


def _lines(file: Path) -> Iterator[tuple[str, str]]:
    """Those that hold something, without space around it, and where they stand, from line 1."""
    if not file.is_file():
        raise FileNotFoundError(f"{file}: no such list file")
    try:
        with file.open(encoding="utf-8-sig") as text:
            for number, line in enumerate(iter(lambda: text.readline(MAX_LINE), ""), 1):
                where = f"{file}, line {number}"
                if number > MAX_IMAGES or len(line) == MAX_LINE:
                    raise ValueError(
                        f"{where}: expected up to {MAX_IMAGES:,} lines of less than "
                        f"{MAX_LINE:,} characters"
                    )
                if line.strip():
                    yield where, line.strip()
    except UnicodeDecodeError as error:
        raise ValueError(f"{file}: not a text file in UTF-8 ({error})") from error
