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


def _read_idx(folder: Path, name: str, dimensions: int) -> np.ndarray:
    path = next((p for p in (folder / name, folder / f"{name}.gz") if p.is_file()), None)
    if path is None:
        raise FileNotFoundError(
            f"{folder}: no {name} or {name}.gz; data.root must hold the four idx files of "
            f"Fashion-MNIST (data.root={SHIPPED} takes the images in this package)"
        )
    expected_magic = bytes([0, 0, 8, dimensions])  # 8: unsigned bytes
    opened: IO[bytes] = gzip.open(path) if path.suffix == ".gz" else path.open("rb")
    try:
        with opened as file:
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
class _Cifar:
    archive: str
    folder: str
    train: tuple[str, ...]
    test: str
    meta: str
    labels_key: bytes
    names_key: bytes
    classes: int


_CIFAR10 = _Cifar(
    archive="cifar-10-python.tar.gz",
    folder="cifar-10-batches-py",
    train=tuple(f"data_batch_{i}" for i in range(1, 6)),
    test="test_batch",
    meta="batches.meta",
    labels_key=b"labels",
    names_key=b"label_names",
    classes=10,
)
_CIFAR100 = _Cifar(
    archive="cifar-100-python.tar.gz",
    folder="cifar-100-python",
    train=("train",),
    test="test",
    meta="meta",
    labels_key=b"fine_labels",
    names_key=b"fine_label_names",
    classes=100,
)


@@READ_CIFAR@@


def _read_cifar_folder(folder: Path, layout: _Cifar) -> Iterator[tuple[str, bytes]]:
    for name in (layout.meta, *layout.train, layout.test):
        path = folder / name
        if not path.is_file():
            raise FileNotFoundError(f"{path}: missing; unpack {layout.archive} again")
        yield name, path.read_bytes()


def _read_cifar_archive(path: Path, layout: _Cifar) -> Iterator[tuple[str, bytes]]:
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
            f"{path}: lacks {_some(sorted(wanted))}; expected the published {layout.archive}"
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

    _admitted: dict[tuple[str, str], Any] = {
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
    import io

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


def _cifar_images(content: dict[Any, Any], layout: _Cifar, where: str) -> ArrayImages:
    array, labels = content.get(b"data"), content.get(layout.labels_key)
    if not isinstance(array, _Array) or not isinstance(labels, list):
        raise ValueError(f"{where}: expected an array `data` and a list `{layout.labels_key!r}`")
    if len(labels) != len(array.pixels) or not all(type(v) is int for v in labels):
        raise ValueError(f"{where}: {len(array.pixels)} images but {len(labels)} labels")
    if not all(0 <= v < layout.classes for v in labels):
        raise ValueError(f"{where}: labels outside of 0 to {layout.classes - 1}")
    pixels = array.pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)  # (N, 32, 32, 3)
    return ArrayImages(np.ascontiguousarray(pixels), np.array(labels, np.int64))


def _folder_layout(root: str | None) -> tuple[Path, Path | None]:
    """The folders that hold the class folders, the second None where a part must be split off."""
    path = _existing_root("folder", root)
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


def _class_folders(folder: Path) -> tuple[str, ...]:
    names = sorted(p.name for p in folder.iterdir() if p.is_dir() and p.name[0] != ".")
    if not names:
        raise FileNotFoundError(
            f"{folder}: no class folders; expected train/<class>/ and val/<class>/ with images, or "
            "<class>/ alone"
        )
    return tuple(names)


def _scan(folder: Path, classes: tuple[str, ...]) -> FileImages:
    paths: list[str] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        before = len(paths)
        for place, below, files in os.walk(folder / name):
            below.sort()  # the order of os.walk is the disk's
            for file in sorted(files):
                if file.lower().endswith(EXTENSIONS) and file[0] != ".":
                    paths.append(os.path.join(place, file))
        if len(paths) == before:
            raise ValueError(
                f"{folder / name}: no images; expected files that end in {', '.join(EXTENSIONS)} "
                "(remove the folder if it isn't a class)"
            )
        labels += [label] * (len(paths) - before)
    return FileImages(tuple(paths), np.array(labels, np.int64))


def _read_list(key: str, given: str | None, root: Path) -> FileImages:
    if given is None:
        raise ValueError(f"data=list needs data.{key}: a text file of `path label` lines")
    file, base = Path(given).expanduser(), os.path.abspath(root)
    if not file.is_file():
        raise FileNotFoundError(f"data.{key}={given}: no such file")
    paths: list[str] = []
    labels: list[int] = []
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{given}: not a text file in UTF-8 ({error})") from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        path, _, label = line.strip().replace("\t", " ").rpartition(" ")
        path = path.strip()
        if not path or not (label.isascii() and label.isdecimal() and len(label) < 10):
            raise ValueError(
                f"{given}, line {number}: {line!r}: expected `path label`, the label a number from "
                "0 up"
            )
        full = os.path.join(base, path)  # an absolute path stays what it is
        if ".." in path.replace("\\", "/").split("/") or not full.startswith(base + os.sep):
            raise ValueError(
                f"{given}, line {number}: {path} leads out of data.root {root}; expected paths "
                "below it"
            )
        paths.append(full)
        labels.append(int(label))
    if not paths:
        raise ValueError(f"{given}: an empty list; expected `path label` lines")
    return FileImages(tuple(paths), np.array(labels, np.int64))


def some(items: Sequence[object]) -> str:
    """The first five of them, as text for an error."""
    shown = ", ".join(str(item) for item in items[:5])
    return shown if len(items) <= 5 else f"{shown} and {len(items) - 5} more"
