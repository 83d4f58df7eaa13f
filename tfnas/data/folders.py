"""Image files in folders, one a class."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import numpy as np

from tfnas.data.images import Dataset, FileImages, Place, data_set, some, split_off
from tfnas.files.bounded import check_text, shown

EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".pgm", ".tif", ".tiff")


def load(place: Place) -> Dataset:
    """From train/<class> and val/<class> (or test/), or from class folders alone."""
    train_folder, test_folder = folder_layout(place.path)
    classes = class_folders(train_folder)
    others: Counter[str] = Counter()
    train = FileImages(*scan_classes(train_folder, classes, others))
    if test_folder is None:
        train, test = split_off(train, classes, str(train_folder))
        origin = f"class folders in {train_folder}, no val/ or test/: a fixed stratified 80/20"
    else:
        test_classes = class_folders(test_folder)
        if test_classes != classes:
            raise ValueError(
                f"{train_folder} and {test_folder} must hold the same classes; only in one of "
                f"them: {some(sorted(set(classes) ^ set(test_classes)))}"
            )
        test = FileImages(*scan_classes(test_folder, classes, others))
        origin = f"class folders in {train_folder}, tested on {test_folder.name}/"
    if others:
        kinds = ", ".join(f"{count:,} {kind}" for kind, count in others.most_common(3))
        origin += f" (passed over as no images: {others.total():,} files, {kinds})"
    return data_set(place.name, classes, train, test, origin)


def count(place: Place) -> int:
    return len(class_folders(folder_layout(place.path)[0]))


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


def scan_classes(
    folder: Path, classes: tuple[str, ...], others: Counter[str]
) -> tuple[tuple[str, ...], np.ndarray]:
    """All images in the folders of the classes, at any depth: N sorted paths, labels int64 (N,).

    Args:
        others: gets how many other files there are, by how their names end.

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
                elif file[0] != ".":
                    others[Path(file).suffix.lower() or "without an ending"] += 1
        if len(paths) == before:
            raise ValueError(
                f"{folder / name}: no images; expected files that end in {', '.join(EXTENSIONS)} "
                "(remove the folder if it isn't a class)"
            )
        labels += [label] * (len(paths) - before)
    return tuple(paths), np.array(labels, np.int64)


def _raise(error: OSError) -> None:  # os.walk passes over what it may not read otherwise
    raise error
