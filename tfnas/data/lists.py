"""Text files that list images with their labels."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from tfnas.data.images import Dataset, FileImages, Place, data_set, some
from tfnas.files.bounded import shown

MAX_IMAGES = 5_000_000  # of a list; ImageNet has 1.3 million
MAX_LINE = 4_500  # characters; Linux has no longer paths


def load(place: Place) -> Dataset:
    """From two text files of `path label` lines, the paths relative to the root."""
    train_list, test_list = place.train_list, place.test_list
    train, test = _listed("train_list", train_list, place), _listed("test_list", test_list, place)
    count = _classes_of(train.labels, train_list)
    if test.labels.max() >= count:
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
    return _classes_of(train.labels, place.train_list)


def _listed(key: str, given: str | None, place: Place) -> FileImages:
    if given is None:
        raise ValueError(f"data=list needs data.{key}: a text file of `path label` lines")
    return FileImages(*read_list(Path(given).expanduser(), place.path))


def _classes_of(labels: np.ndarray, train_list: str | None) -> int:
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
    if not file.is_file():
        raise FileNotFoundError(f"{file}: no such list file")
    base = str(root.absolute()).rstrip("/")
    paths: list[str] = []
    labels: list[int] = []
    for number, line in _lines(file):
        if not line.strip():
            continue
        path, _, label = line.strip().replace("\t", " ").rpartition(" ")
        path = path.strip()
        if not path or not (label.isascii() and label.isdecimal() and len(label) < 10):
            raise ValueError(
                f"{file}, line {number}: {shown(line)}: expected `path label`, the label a number "
                "from 0 up"
            )
        full = path if path.startswith("/") else f"{base}/{path}"
        if ".." in path.replace("\\", "/").split("/") or not full.startswith(f"{base}/"):
            raise ValueError(
                f"{file}, line {number}: {path} leads out of data.root={root}; expected paths "
                "below it"
            )
        paths.append(full)
        labels.append(int(label))
    if not paths:
        raise ValueError(f"{file}: an empty list; expected `path label` lines")
    return tuple(paths), np.array(labels, np.int64)


def _lines(file: Path) -> Iterator[tuple[int, str]]:
    """Numbered from 1."""
    try:
        with file.open(encoding="utf-8-sig") as text:
            for number, line in enumerate(iter(lambda: text.readline(MAX_LINE), ""), 1):
                if number > MAX_IMAGES or len(line) == MAX_LINE:
                    raise ValueError(
                        f"{file}, line {number}: expected up to {MAX_IMAGES:,} lines of less than "
                        f"{MAX_LINE:,} characters"
                    )
                yield number, line
    except UnicodeDecodeError as error:
        raise ValueError(f"{file}: not a text file in UTF-8 ({error})") from error
