"""Image sets as numpy archives, with the names that MedMNIST (arXiv 2110.14795) gives its arrays.

Nothing here trusts a file: sizes are checked before memory is taken, and no pickle is read.
"""

from __future__ import annotations

import math
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tfnas.untrusted import MAX_NAME, check_text

MAX_BYTES = 1 << 33  # of an archive once unpacked
MAX_RATIO = 1000  # of unpacked to packed bytes of an array: labels that are sorted pack well
MAX_CLASSES = 100_000
PARTS = ("train", "test")
EXPECTED = (
    "expected the arrays train_images, train_labels, test_images and test_labels: images uint8 "
    "(N, H, W) or (N, H, W, 3), labels whole numbers (N,) or (N, 1); and perhaps the texts classes"
)


@dataclass(frozen=True, eq=False)
class ImageArrays:
    """A set in memory: pixels uint8 (N, H, W, C) with C 1 or 3, labels int64 (N,)."""

    classes: tuple[str, ...]
    train_pixels: np.ndarray
    train_labels: np.ndarray
    test_pixels: np.ndarray
    test_labels: np.ndarray


def read_npz(path: Path) -> ImageArrays:
    """A whole archive. Other arrays in it, such as MedMNIST's val_images, are left alone.

    Raises ValueError where it isn't one, or its arrays don't fit together.
    """
    values = _read(path, [f"{part}_{what}" for part in PARTS for what in ("images", "labels")])
    pixels = {part: _pixels(values[f"{part}_images"], f"{path}: {part}_images") for part in PARTS}
    labels = {
        part: _labels(values[f"{part}_labels"], len(pixels[part]), f"{path}: {part}_labels")
        for part in PARTS
    }
    return ImageArrays(
        _classes(path, [labels[part] for part in PARTS]),
        pixels["train"], labels["train"], pixels["test"], labels["test"],
    )  # fmt: skip


def count_npz(path: Path) -> int:
    """The number of classes of an archive, without reading its images. Same errors."""
    values = _read(path, [f"{part}_labels" for part in PARTS])
    labels = [_labels(v, np.size(v), f"{path}: {name}") for name, v in values.items()]
    return len(_classes(path, labels))


def _classes(path: Path, labels: list[np.ndarray]) -> tuple[str, ...]:
    """The names of the classes, else their numbers."""
    highest = max((int(x.max()) for x in labels if len(x)), default=0)
    if highest >= MAX_CLASSES:
        raise ValueError(f"{path}: a label is {highest:,}; {MAX_CLASSES:,} classes are the most")
    with zipfile.ZipFile(path) as archive:
        named = "classes.npy" in archive.namelist()
    if not named:
        return tuple(map(str, range(highest + 1)))
    names = _read(path, ["classes"])["classes"]
    if names.dtype.kind != "U" or names.ndim != 1 or len(names) <= highest:
        raise ValueError(
            f"{path}: classes is {names.dtype} {names.shape}, expected {highest + 1} texts or more"
        )
    try:
        return tuple(check_text(str(name), MAX_NAME) for name in names)
    except ValueError as error:
        raise ValueError(f"{path}: classes {error} as the name of a class") from None


def _read(path: Path, names: list[str]) -> dict[str, np.ndarray]:
    if not path.is_file():
        raise ValueError(f"{path} is no file: {EXPECTED}")
    try:
        with zipfile.ZipFile(path) as archive:
            infos = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
            if missing := [name for name in names if name not in infos]:
                raise ValueError(f"{path} has no {', '.join(missing)}; {EXPECTED}")
            for name in names:
                _check_size(archive, infos[name])
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in names}
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError) as error:
        raise ValueError(f"{path} is no numpy archive, or a damaged one ({error})") from None
    except (ValueError, MemoryError) as error:
        if str(error).startswith(str(path)):
            raise
        raise ValueError(f"{path}: {error}; {EXPECTED}") from None


def _check_size(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> None:
    """Raises ValueError for an array that is larger than its file can be."""
    size, packed = info.file_size, info.compress_size
    if size > min(MAX_BYTES, max(MAX_RATIO * packed, 1 << 20)):
        raise ValueError(f"{info.filename} would take {size:,} bytes out of {packed:,}")
    with archive.open(info) as file:
        version = np.lib.format.read_magic(file)
        read = {(1, 0): np.lib.format.read_array_header_1_0}.get(
            version, np.lib.format.read_array_header_2_0
        )
        shape, _, dtype = read(file)
    if math.prod(shape) * dtype.itemsize > size:
        raise ValueError(f"{info.filename} says {dtype} {shape} in {size:,} bytes")


def _pixels(array: np.ndarray, where: str) -> np.ndarray:
    gray = array.ndim == 3
    if array.dtype != np.uint8 or not (gray or (array.ndim == 4 and array.shape[3] in (1, 3))):
        raise ValueError(f"{where} is {array.dtype} {array.shape}; {EXPECTED}")
    if 0 in array.shape:
        raise ValueError(f"{where} is empty: {array.shape}")
    return array[..., None] if gray else array


def _labels(array: np.ndarray, count: int, where: str) -> np.ndarray:
    if array.dtype.kind not in "ui" or array.size != count or array.shape[:1] != (count,):
        raise ValueError(f"{where} is {array.dtype} {array.shape} for {count:,} images; {EXPECTED}")
    labels = array.reshape(-1).astype(np.int64)
    if count and labels.min() < 0:
        raise ValueError(f"{where} holds {labels.min()}: expected 0 and more")
    return labels
