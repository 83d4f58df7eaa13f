"""Readers of published image sets: from files as they're handed out to plain arrays and paths.

Nothing here trusts a file: sizes are checked before memory is taken, a pickle can name no function,
an archive is never unpacked to disk, a list can't point out of its root.
"""

from __future__ import annotations

import gzip
import io
import math
import os
import pickle
import struct
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, ClassVar, cast

import numpy as np

EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".pgm", ".tif", ".tiff")
MAX_BYTES = 1 << 30  # of one file once unpacked; the largest that is published has 155 MB


def read_idx(folder: Path, name: str, dimensions: int) -> np.ndarray:
    """The idx file `name` (or `name`.gz) of a folder, uint8 with that many dimensions.

    Raises FileNotFoundError where there is none, ValueError where it isn't what its name says.
    """
    path = next((p for p in (folder / name, folder / f"{name}.gz") if p.is_file()), None)
    if path is None:
        raise FileNotFoundError(
            f"{folder}: no {name} or {name}.gz; data.root must hold the four idx files of "
            "Fashion-MNIST (data.root=shipped takes the images in this package)"
        )
    expected_magic = bytes([0, 0, 8, dimensions])  # 8: unsigned bytes
    try:
        with cast(IO[bytes], gzip.open(path) if path.suffix == ".gz" else path.open("rb")) as file:
            magic, header = file.read(4), file.read(4 * dimensions)
            if magic != expected_magic or len(header) != 4 * dimensions:
                raise ValueError(
                    f"{path}: starts with {magic.hex()}, expected {expected_magic.hex()} and "
                    f"{dimensions} sizes; this isn't the idx file that its name says"
                )
            shape = struct.unpack(f">{dimensions}I", header)
            size = math.prod(shape)
            if size > MAX_BYTES:
                raise ValueError(f"{path}: its header speaks of {size:,} bytes; it is damaged")
            data = file.read(size + 1)
    except (EOFError, OSError, zlib.error) as error:
        raise ValueError(f"{path}: can't be read ({error}); fetch it again") from error
    if len(data) != size:
        what = "less" if len(data) < size else "more"
        raise ValueError(
            f"{path}: {what} than the {size:,} bytes of pixels or labels that its header {shape} "
            "speaks of; fetch it again"
        )
    return np.frombuffer(data, np.uint8).reshape(shape)


@dataclass(frozen=True)
class CifarLayout:
    """The names in one of the two published python archives."""

    archive: str
    folder: str
    train: tuple[str, ...]
    test: str
    meta: str
    labels_key: bytes
    names_key: bytes
    classes: int


CIFAR10 = CifarLayout(
    archive="cifar-10-python.tar.gz",
    folder="cifar-10-batches-py",
    train=tuple(f"data_batch_{i}" for i in range(1, 6)),
    test="test_batch",
    meta="batches.meta",
    labels_key=b"labels",
    names_key=b"label_names",
    classes=10,
)
CIFAR100 = CifarLayout(
    archive="cifar-100-python.tar.gz",
    folder="cifar-100-python",
    train=("train",),
    test="test",
    meta="meta",
    labels_key=b"fine_labels",
    names_key=b"fine_label_names",
    classes=100,
)


@dataclass(frozen=True, eq=False)
class CifarArrays:
    """A CIFAR set: pixels uint8 (N, 32, 32, 3), labels int64 (N,)."""

    classes: tuple[str, ...]
    train_pixels: np.ndarray
    train_labels: np.ndarray
    test_pixels: np.ndarray
    test_labels: np.ndarray


def read_cifar(path: Path, layout: CifarLayout) -> CifarArrays:
    """Reads the published archive, the folder extracted from it, or a folder that holds either.

    Raises FileNotFoundError where there is none, ValueError where it isn't as published, be it
    damaged or made to do something else.
    """
    places = (path, path / layout.folder, path / layout.archive)
    place = next((p for p in places if p.is_file() or (p / layout.meta).is_file()), None)
    if place is None:
        raise FileNotFoundError(
            f"{path}: neither {layout.archive} nor its folder {layout.folder}; fetch the python "
            "version from https://www.cs.toronto.edu/~kriz/cifar.html"
        )
    read = _read_cifar_archive if place.is_file() else _read_cifar_folder
    files = {file: _unpickled(data, f"{place}: {file}") for file, data in read(place, layout)}
    names = files[layout.meta].get(layout.names_key)
    if not isinstance(names, list) or len(names) != layout.classes:
        raise ValueError(f"{place}: {layout.meta} doesn't list {layout.classes} class names")
    parts = [_cifar_images(files[f], layout, f"{place}: {f}") for f in layout.train]
    test_pixels, test_labels = _cifar_images(files[layout.test], layout, f"{place}: {layout.test}")
    return CifarArrays(
        classes=tuple(
            n.decode("utf-8", "replace") if isinstance(n, bytes) else str(n) for n in names
        ),
        train_pixels=np.concatenate([pixels for pixels, _ in parts]),
        train_labels=np.concatenate([labels for _, labels in parts]),
        test_pixels=test_pixels,
        test_labels=test_labels,
    )


def _read_cifar_folder(folder: Path, layout: CifarLayout) -> Iterator[tuple[str, bytes]]:
    for name in (layout.meta, *layout.train, layout.test):
        path = folder / name
        if not path.is_file():
            raise FileNotFoundError(f"{path}: missing; unpack {layout.archive} again")
        yield name, path.read_bytes()


def _read_cifar_archive(path: Path, layout: CifarLayout) -> Iterator[tuple[str, bytes]]:
    """The files by their exact names, read from within the archive: nothing touches the disk."""
    wanted = {f"{layout.folder}/{n}": n for n in (layout.meta, *layout.train, layout.test)}
    try:
        with tarfile.open(path, "r:*") as archive:
            for member in archive:
                if member.name not in wanted:
                    continue
                file = archive.extractfile(member) if member.isreg() else None
                if file is None or member.size > MAX_BYTES:
                    raise ValueError(f"{path}: {member.name} isn't a plain file of usual size")
                yield wanted.pop(member.name), file.read()
    except (EOFError, OSError, zlib.error, tarfile.TarError) as error:
        raise ValueError(f"{path}: can't be read ({error}); fetch it again") from error
    if wanted:
        raise ValueError(
            f"{path}: lacks {some(sorted(wanted))}; expected the published {layout.archive}"
        )


class _Uint8:
    """Stands in for `numpy.dtype` while unpickling; the only type admitted is uint8."""

    def __init__(self, code: object = None, *_: object) -> None:
        if code not in ("u1", b"u1"):
            raise pickle.UnpicklingError(f"an array of type {code!r}, only u1 is admitted")

    def __setstate__(self, state: object) -> None:
        pass


class _Array:
    """Stands in for `numpy.ndarray` while unpickling: pixels (N, 3072), checked."""

    pixels = np.empty((0, 3072), np.uint8)

    def __setstate__(self, state: object) -> None:
        match state:
            case (1, (int(), 3072) as shape, _Uint8(), False | 0, bytes(raw)):
                self.pixels = np.frombuffer(raw, np.uint8).reshape(shape)
            case _:
                raise pickle.UnpicklingError("an array that isn't uint8 (N, 3072) in C order")


def _new_array(*_: object) -> _Array:
    return _Array()


class _CifarUnpickler(pickle.Unpickler):
    """Reads nothing but dicts, lists, text, numbers and byte arrays.

    Python's unpickler calls whatever function a file names. The published files name just these
    three, and what they get here are stand-ins that can't do anything else.
    """

    _admitted: ClassVar[dict[tuple[str, str], Any]] = {
        ("numpy.core.multiarray", "_reconstruct"): _new_array,
        ("numpy", "ndarray"): _Array,
        ("numpy", "dtype"): _Uint8,
    }

    def find_class(self, module: str, name: str) -> Any:
        try:
            return self._admitted[module, name]
        except KeyError:
            raise pickle.UnpicklingError(
                f"it asks for {module}.{name}, which no published CIFAR file does; don't open it"
            ) from None


def _unpickled(data: bytes, where: str) -> dict[Any, Any]:
    try:
        content = _CifarUnpickler(io.BytesIO(data), encoding="bytes").load()
    except (
        *(pickle.UnpicklingError, EOFError, AttributeError, ImportError, LookupError),
        *(TypeError, ValueError, OverflowError, MemoryError, RecursionError),
    ) as error:  # all that a damaged pickle can raise
        raise ValueError(f"{where}: refused: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{where}: holds a {type(content).__name__}, expected a dict")
    return content


def _cifar_images(
    content: dict[Any, Any], layout: CifarLayout, where: str
) -> tuple[np.ndarray, np.ndarray]:
    array, labels = content.get(b"data"), content.get(layout.labels_key)
    if not isinstance(array, _Array) or not isinstance(labels, list):
        raise ValueError(f"{where}: expected an array `data` and a list `{layout.labels_key!r}`")
    if len(labels) != len(array.pixels) or not all(type(v) is int for v in labels):
        raise ValueError(f"{where}: {len(array.pixels)} images but {len(labels)} labels")
    if not all(0 <= v < layout.classes for v in labels):
        raise ValueError(f"{where}: labels outside of 0 to {layout.classes - 1}")
    pixels = array.pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)  # (N, 32, 32, 3)
    return np.ascontiguousarray(pixels), np.array(labels, np.int64)


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
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{file}: not a text file in UTF-8 ({error})") from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        path, _, label = line.strip().replace("\t", " ").rpartition(" ")
        path = path.strip()
        if not path or not (label.isascii() and label.isdecimal() and len(label) < 10):
            raise ValueError(
                f"{file}, line {number}: {line!r}: expected `path label`, the label a number from "
                "0 up"
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


def some(items: Sequence[object]) -> str:
    """The first five of them, as text for an error."""
    shown = ", ".join(str(item) for item in items[:5])
    return shown if len(items) <= 5 else f"{shown} and {len(items) - 5} more"
