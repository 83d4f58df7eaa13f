"""Image sets as numpy archives, with the names that MedMNIST (arXiv 2110.14795) gives its arrays.

Nothing here trusts a file: sizes are checked before memory is taken, and no pickle is read.
"""

from __future__ import annotations

import math
import textwrap
import warnings
import zipfile
from pathlib import Path

import numpy as np

from tfnas.data.images import ArrayImages, Dataset, Place, data_set
from tfnas.files.bounded import MAX_NAME, check_text, shown

MAX_BYTES = 1 << 33  # of all that is read of an archive, once unpacked
MAX_RATIO = 1000  # of unpacked to packed bytes of an array: labels that are sorted pack well
MAX_CLASSES = 100_000
PARTS = ("train", "test")
CLASSES, SUFFIX = "classes", ".npy"
EXPECTED = (
    "expected the arrays train_images, train_labels, test_images and test_labels: images uint8 "
    "(N, H, W) or (N, H, W, channels), labels whole numbers (N,) or (N, 1), or several for each "
    "image (N, K); and perhaps the texts classes"
)


def load(place: Place) -> Dataset:
    classes, train, test = read_npz(place.path)
    return data_set(place.name, classes, train, test, f"numpy archive {place.path}")


def count(place: Place) -> int:
    return count_npz(place.path)


def read_npz(path: Path) -> tuple[tuple[str, ...], ArrayImages, ArrayImages]:
    """The classes, training and test images of an archive. Other arrays in it, such as MedMNIST's
    val_images, are left alone.

    Raises ValueError where it isn't one, or its arrays don't fit together.
    """
    values = _read(path, [f"{part}_{what}" for part in PARTS for what in ("images", "labels")])
    pixels = [_pixels(values[f"{part}_images"], f"{path}: {part}_images") for part in PARTS]
    labels = [
        _labels(values[f"{part}_labels"], len(images), f"{path}: {part}_labels")
        for part, images in zip(PARTS, pixels, strict=True)
    ]
    train, test = map(ArrayImages, pixels, labels)
    return _classes(path, values.get(CLASSES), labels), train, test


def count_npz(path: Path) -> int:
    """The number of classes of an archive, without reading its images. Same errors."""
    names = [f"{part}_labels" for part in PARTS]
    values = _read(path, names)
    labels = [
        _labels(values[n], values[n].size // _width(values[n]), f"{path}: {n}") for n in names
    ]
    return len(_classes(path, values.get(CLASSES), labels))


def _classes(path: Path, names: np.ndarray | None, labels: list[np.ndarray]) -> tuple[str, ...]:
    """The names of the classes, else their numbers."""
    if labels[0].shape[1:] != labels[1].shape[1:]:
        told = " and ".join(_form(x) for x in labels)
        raise ValueError(f"{path}: labels {told}, expected as many for each image in both parts")
    several = labels[0].ndim == 2
    highest = max((int(x.max()) for x in labels if len(x)), default=0)
    highest = labels[0].shape[1] - 1 if several else highest
    if highest >= MAX_CLASSES:
        raise ValueError(f"{path}: a label is {highest:,}; {MAX_CLASSES:,} classes are the most")
    most = highest + 1 if several else MAX_CLASSES
    if names is None:
        return tuple(map(str, range(highest + 1)))
    if names.dtype.kind != "U" or names.ndim != 1 or not highest < len(names) <= most:
        raise ValueError(
            f"{path}: classes is {_form(names)}, expected {highest + 1} texts or more, {most:,} "
            "at most"
        )
    try:
        return tuple(check_text(str(name), MAX_NAME) for name in names)
    except (ValueError, SystemError) as error:  # SystemError: numpy's, where it is no Unicode
        raise ValueError(f"{path}: classes {error} as the name of a class") from None


def _read(path: Path, names: list[str]) -> dict[str, np.ndarray]:
    """The arrays of these names, and `classes` if it is there.

    Raises ValueError for whatever can't be read.
    """
    if not path.is_file():
        raise ValueError(f"{path} is no file: {EXPECTED}")
    try:
        with zipfile.ZipFile(path) as archive, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # numpy's own of headers that Python 2 wrote
            infos = _entries(archive, names)
            for info in infos.values():
                _check_size(archive, info)
            return {name: _array(archive, info) for name, info in infos.items()}
    except Exception as error:  # zipfile, what unpacks and numpy raise whatever they stumble over
        reason = textwrap.shorten(str(error) or type(error).__name__, 300)
        raise ValueError(f"{path} can't be read as a numpy archive: {reason}; {EXPECTED}") from None


def _entries(archive: zipfile.ZipFile, names: list[str]) -> dict[str, zipfile.ZipInfo]:
    """By the name of the array; raises ValueError unless it is clear which entries are meant, and
    memory holds them."""
    found: dict[str, zipfile.ZipInfo] = {}
    for info in archive.infolist():
        name = info.filename.removesuffix(SUFFIX)
        if name == info.filename or name not in {*names, CLASSES}:
            continue
        if name in found:
            raise ValueError(f"it has {info.filename} twice")
        found[name] = info
    if missing := [name for name in names if name not in found]:
        raise ValueError(f"it has no {', '.join(missing)}")
    if (size := sum(info.file_size for info in found.values())) > MAX_BYTES:
        raise ValueError(f"it would take {size:,} bytes, {MAX_BYTES:,} are the most")
    return found


def _check_size(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> None:
    """Raises ValueError for an array that is larger than its file can be."""
    size, packed = info.file_size, info.compress_size
    if size > max(MAX_RATIO * packed, 1 << 20):
        raise ValueError(f"{info.filename} would take {size:,} bytes out of {packed:,}")
    with archive.open(info) as file:
        version = np.lib.format.read_magic(file)
        read = {(1, 0): np.lib.format.read_array_header_1_0}.get(
            version, np.lib.format.read_array_header_2_0
        )
        shape, _, dtype = read(file)
    if math.prod(shape) * dtype.itemsize > size:
        raise ValueError(f"{info.filename} says {dtype.name} {shown(shape)} in {size:,} bytes")


def _array(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> np.ndarray:
    with archive.open(info) as file:
        array: np.ndarray = np.lib.format.read_array(file, allow_pickle=False)
    return array


def _form(array: np.ndarray) -> str:
    return f"{array.dtype.name} {array.shape}"


def _pixels(array: np.ndarray, where: str) -> np.ndarray:
    gray = array.ndim == 3
    if array.dtype != np.uint8 or not (gray or array.ndim == 4):
        raise ValueError(f"{where} is {_form(array)}; {EXPECTED}")
    if 0 in array.shape:
        raise ValueError(f"{where} is empty: {array.shape}")
    return array[..., None] if gray else array


def _width(array: np.ndarray) -> int:
    """How many labels each image has."""
    several = array.ndim == 2 and array.shape[1] and array.dtype.kind in "uif"
    return array.shape[1] if several else 1


def _labels(array: np.ndarray, count: int, where: str) -> np.ndarray:
    """int64 (N,), or float32 (N, K) where there are several for each image, or they are floats."""
    if (width := _width(array)) > 1 or (array.dtype.kind == "f" and array.ndim == 2):
        if array.shape != (count, width):
            raise ValueError(f"{where} is {_form(array)} for {count:,} images; {EXPECTED}")
        with np.errstate(over="ignore"):
            numbers = array.astype(np.float32)
        if not np.isfinite(numbers).all():
            raise ValueError(f"{where} holds numbers that aren't finite")
        return numbers
    if array.dtype.kind not in "ui" or array.size != count or array.shape[:1] != (count,):
        raise ValueError(f"{where} is {_form(array)} for {count:,} images; {EXPECTED}")
    labels = array.reshape(-1).astype(np.int64)
    if count and labels.min() < 0:
        raise ValueError(f"{where} holds {labels.min()}: expected 0 and more")
    return labels
