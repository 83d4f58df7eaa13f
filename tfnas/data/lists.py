"""Text files that list images with their labels."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from tfnas.data.folders import MAX_IMAGES
from tfnas.files.bounded import shown

MAX_LINE = 4_500  # characters; Linux has no longer paths


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
        with file.open(encoding="utf-8") as text:
            for number, line in enumerate(iter(lambda: text.readline(MAX_LINE), ""), 1):
                if number > MAX_IMAGES or len(line) == MAX_LINE:
                    raise ValueError(
                        f"{file}, line {number}: expected up to {MAX_IMAGES:,} lines of less than "
                        f"{MAX_LINE:,} characters"
                    )
                yield number, line
    except UnicodeDecodeError as error:
        raise ValueError(f"{file}: not a text file in UTF-8 ({error})") from error
