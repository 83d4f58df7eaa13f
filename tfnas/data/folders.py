"""Image files in folders, one a class."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from tfnas.files.bounded import check_text, shown

EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".pgm", ".tif", ".tiff")
MAX_BYTES = 1 << 30  # of one idx file once unpacked
MAX_RATIO = 20  # of unpacked to packed bytes; Fashion-MNIST has 2, a bomb has 1000
SMALL = 1 << 24  # bytes that may come of the smallest file: sorted labels pack well
MAX_IMAGES = 5_000_000  # of a list; ImageNet has 1.3 million


def folder_layout(path: Path) -> tuple[Path, Path | None]:
    """The folders of the training and of the test classes, the latter None where there is none.

    Raises ValueError for a file, FileNotFoundError for a test folder without a training folder.
    """
    if not path.is_dir():
        raise ValueError(f"{path}: a file; data.root must be the folder of the images")
    tests = [path / name for name in ("val", "test") if (path / name).is_dir()]
    if (path / "train").is_dir():
        return path / "train", tests[0] if tests else None
    if tests:
        raise FileNotFoundError(
            f"{path}: has {tests[0].name}/ but no train/; expected train/<class>/ and val/<class>/"
        )
    return path, None


def class_folders(folder: Path) -> tuple[str, ...]:
    """The sorted names of the folders in `folder`; FileNotFoundError where there are none."""
    names = sorted(p.name for p in folder.iterdir() if p.is_dir() and p.name[0] != ".")
    for name in names:
        try:
            check_text(name)  # it goes into the files of trained nets
        except ValueError:
            raise ValueError(f"{folder}: {shown(name)} isn't a name in UTF-8: rename it") from None
    if not names:
        raise FileNotFoundError(
            f"{folder}: no class folders; expected train/<class>/ and val/<class>/ with images, or "
            "<class>/ alone"
        )
    return tuple(names)


def scan_classes(folder: Path, classes: tuple[str, ...]) -> tuple[tuple[str, ...], np.ndarray]:
    """All images in the folders of the classes, at any depth: N sorted paths, labels int64 (N,).

    Raises ValueError for a class without images.
    """
    paths: list[str] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        before = len(paths)
        for place, below, files in os.walk(folder / name, onerror=_raise):
            below.sort()  # the order of os.walk is the disk's
            for file in sorted(files):
                if file.lower().endswith(EXTENSIONS) and file[0] != ".":
                    paths.append(f"{place}/{file}")
        if len(paths) == before:
            raise ValueError(
                f"{folder / name}: no images; expected files that end in {', '.join(EXTENSIONS)} "
                "(remove the folder if it isn't a class)"
            )
        labels += [label] * (len(paths) - before)
    return tuple(paths), np.array(labels, np.int64)


def _raise(error: OSError) -> None:  # os.walk passes over what it may not read otherwise
    raise error
