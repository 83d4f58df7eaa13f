"""Readers of published image sets: from files as they're handed out to plain arrays and paths.

Nothing here trusts a file: sizes are checked before memory is taken, a pickle is never run, an
archive is never unpacked to disk, a list can't point out of its root.
"""

from __future__ import annotations

import gzip
import math
import os
import struct
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

import numpy as np

from tfnas.arrays import ImageArrays
from tfnas.untrusted import MAX_NAME, Made, check_text, parse_pickle, read_bytes, shown

EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".pgm", ".tif", ".tiff")
MAX_BYTES = 1 << 30  # of one idx file once unpacked
MAX_CIFAR_BYTES = 1 << 28  # of one file or a whole archive once unpacked; published are 186 MB
MAX_RATIO = 20  # of unpacked to packed bytes; Fashion-MNIST has 2, a bomb has 1000
SMALL = 1 << 24  # bytes that may come of the smallest file: sorted labels pack well
MAX_IMAGES = 5_000_000  # of a list; ImageNet has 1.3 million
MAX_LINE = 4_500  # characters; Linux has no longer paths


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
            if not 1 <= size <= _unpacked(path, MAX_BYTES):
                raise ValueError(
                    f"{path}: its header speaks of {size:,} bytes in a file of "
                    f"{path.stat().st_size:,}; it is damaged, fetch it again"
                )
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


def _unpacked(path: Path, most: int) -> int:
    """How many bytes a packed file of images may hold: no bomb, that is."""
    return min(most, max(MAX_RATIO * path.stat().st_size, SMALL))


@dataclass(frozen=True)
class CifarLayout:
    """The names in one of the two published python archives."""

    archive: str
    folder: str
    train: tuple[str, ...]
    test: str
    meta: str
    labels_key: str
    names_key: str
    classes: int


CIFAR10 = CifarLayout(
    archive="cifar-10-python.tar.gz",
    folder="cifar-10-batches-py",
    train=tuple(f"data_batch_{i}" for i in range(1, 6)),
    test="test_batch",
    meta="batches.meta",
    labels_key="labels",
    names_key="label_names",
    classes=10,
)
CIFAR100 = CifarLayout(
    archive="cifar-100-python.tar.gz",
    folder="cifar-100-python",
    train=("train",),
    test="test",
    meta="meta",
    labels_key="fine_labels",
    names_key="fine_label_names",
    classes=100,
)


def read_cifar(path: Path, layout: CifarLayout) -> ImageArrays:
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
    try:
        classes = tuple(check_text(name, MAX_NAME) for name in names)
    except ValueError as error:
        raise ValueError(f"{place}: {layout.meta} {error} as the name of a class") from None
    parts = [_cifar_images(files[f], layout, f"{place}: {f}") for f in layout.train]
    test_pixels, test_labels = _cifar_images(files[layout.test], layout, f"{place}: {layout.test}")
    return ImageArrays(
        classes=classes,
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
        try:
            yield name, read_bytes(path, MAX_CIFAR_BYTES)
        except ValueError as error:
            raise ValueError(f"{path}: {error}; unpack {layout.archive} again") from None


class _Bounded:
    """The unpacked bytes of an archive, up to a limit: what it says of itself may be made up."""

    def __init__(self, file: IO[bytes], limit: int) -> None:
        self.file, self.left = file, limit

    def read(self, size: int) -> bytes:
        self.left -= size  # also past the end, where tarfile would go on for a made-up size
        if self.left < 0:
            raise tarfile.ReadError("it speaks of more bytes than any published archive has")
        return self.file.read(size)


def _read_cifar_archive(path: Path, layout: CifarLayout) -> Iterator[tuple[str, bytes]]:
    """The files by their exact names, read from within the archive: nothing touches the disk."""
    wanted = {f"{layout.folder}/{n}": n for n in (layout.meta, *layout.train, layout.test)}
    try:
        with path.open("rb") as packed:
            plain = packed.read(2) != b"\x1f\x8b"
            packed.seek(0)
            unpacked = packed if plain else cast(IO[bytes], gzip.GzipFile(fileobj=packed))
            # In stream mode, which reads in small pieces, whatever size a header speaks of.
            stream = cast(IO[bytes], _Bounded(unpacked, _unpacked(path, MAX_CIFAR_BYTES)))
            with tarfile.open(fileobj=stream, mode="r|") as archive:
                for member in archive:
                    if member.name not in wanted:
                        continue
                    file = archive.extractfile(member) if member.isreg() else None
                    if file is None:
                        raise tarfile.ReadError(f"{member.name} isn't a plain file")
                    yield wanted.pop(member.name), file.read()
    except Exception as error:  # on a damaged archive tarfile raises whatever it stumbles over
        raise ValueError(f"{path}: can't be read ({error}); fetch it again") from error
    if wanted:
        raise ValueError(
            f"{path}: lacks {some(sorted(wanted))}; expected the published {layout.archive}"
        )


NAMED = ("numpy.core.multiarray._reconstruct", "numpy.ndarray", "numpy.dtype")


def _unpickled(data: bytes, where: str) -> dict[Any, Any]:
    try:
        content = parse_pickle(data, NAMED)
    except ValueError as error:
        raise ValueError(f"{where}: refused: it {error}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{where}: holds a {type(content).__name__}, expected a dict")
    return content


def _cifar_images(
    content: dict[Any, Any], layout: CifarLayout, where: str
) -> tuple[np.ndarray, np.ndarray]:
    labels = content.get(layout.labels_key)
    pixels = _cifar_pixels(content.get("data"))  # (N, 3, 32, 32)
    if pixels is None:
        raise ValueError(f"{where}: expected `data`, an array of uint8 (N, 3072) in C order")
    if not isinstance(labels, list) or not all(type(v) is int for v in labels):
        raise ValueError(f"{where}: expected `{layout.labels_key}`, a list of numbers")
    if len(labels) != len(pixels):
        raise ValueError(f"{where}: {len(pixels)} images but {len(labels)} labels")
    if not all(0 <= v < layout.classes for v in labels):
        raise ValueError(f"{where}: labels outside of 0 to {layout.classes - 1}")
    pixels = np.ascontiguousarray(pixels.transpose(0, 2, 3, 1))  # (N, 32, 32, 3)
    return pixels, np.array(labels, np.int64)


def _cifar_pixels(array: object) -> np.ndarray | None:
    """From an array as NumPy of that time pickled it; None for anything else."""
    match array:
        case Made(
            name="numpy.core.multiarray._reconstruct",
            state=(
                1,
                (int(count), 3072),
                Made(name="numpy.dtype", arguments=("u1", 0, 1)),
                False,
                str(raw),
            ),
        ) if 0 < len(raw) == 3072 * count:
            with suppress(UnicodeEncodeError):
                pixels = np.frombuffer(raw.encode("latin-1"), np.uint8)
                return pixels.reshape(-1, 3, 32, 32)
    return None


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


def some(items: Sequence[object]) -> str:
    """The first five of them, as text for an error."""
    first = ", ".join(str(item) for item in items[:5])
    return first if len(items) <= 5 else f"{first} and {len(items) - 5} more"
