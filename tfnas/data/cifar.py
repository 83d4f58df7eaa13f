"""CIFAR-10 and CIFAR-100 as their python archives."""

from __future__ import annotations

import gzip
import tarfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

import numpy as np

from tfnas.data.idx import unpacked
from tfnas.data.images import ArrayImages, Dataset, Place, data_set, some
from tfnas.files.bounded import MAX_NAME, check_text, read_bytes
from tfnas.files.pickles import Made, parse_pickle

MAX_CIFAR_BYTES = 1 << 28  # of one file or a whole archive once unpacked; published are 186 MB


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


def load(place: Place, layout: CifarLayout) -> Dataset:
    classes, train, test = read_cifar(place.path, layout)
    return data_set(place.name, classes, train, test, f"python archive {place.path}")


def read_cifar(path: Path, layout: CifarLayout) -> tuple[tuple[str, ...], ArrayImages, ArrayImages]:
    """The classes, training and test images of the published archive, the folder extracted from
    it, or a folder that holds either.

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
    *train, test = (
        ArrayImages(*_cifar_images(files[file], layout, f"{place}: {file}"))
        for file in (*layout.train, layout.test)
    )
    pixels = np.concatenate([part.pixels for part in train])
    labels = np.concatenate([part.labels for part in train])
    return classes, ArrayImages(pixels, labels), test


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
            content = packed if plain else cast(IO[bytes], gzip.GzipFile(fileobj=packed))
            # In stream mode, which reads in small pieces, whatever size a header speaks of.
            stream = cast(IO[bytes], _Bounded(content, unpacked(path, MAX_CIFAR_BYTES)))
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
