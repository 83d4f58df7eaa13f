"""Image archives of numpy are read whole or refused, whatever they hold."""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tfnas.data.images import ArrayImages
from tfnas.data.npz import count_npz, read_npz
from tfnas.data.sets import load_images, num_classes

Arrays = dict[str, Any]


def arrays(channels: int | None = 3, classes: int = 4) -> Arrays:
    """As MedMNIST stores them: labels in a column."""
    rng = np.random.default_rng(0)
    tail = () if channels is None else (channels,)
    found: Arrays = {}
    for part, count in (("train", 40), ("val", 8), ("test", 12)):
        found[f"{part}_images"] = rng.integers(0, 256, (count, 9, 7, *tail), np.uint8)
        found[f"{part}_labels"] = (np.arange(count) % classes).astype(np.uint8)[:, None]
    return found


def write(folder: Path, values: Arrays) -> Path:
    path = folder / "images.npz"
    np.savez_compressed(path, **values)
    return path


@pytest.mark.parametrize("channels", [None, 1, 3])
def test_a_set_of_arrays(tmp_path: Path, channels: int | None) -> None:
    stored = arrays(channels)
    path = write(tmp_path, stored)
    dataset = load_images("npz", root=str(path))
    assert dataset.classes == ("0", "1", "2", "3")
    assert num_classes("npz", root=str(path)) == 4
    assert isinstance(dataset.train, ArrayImages)
    assert dataset.train.pixels.shape == (40, 9, 7, channels or 1)
    assert np.array_equal(dataset.train.pixels.reshape(-1), stored["train_images"].reshape(-1))
    assert dataset.test.labels.tolist() == stored["test_labels"][:, 0].tolist()
    assert str(path) in dataset.origin


def test_names_of_classes(tmp_path: Path) -> None:
    path = write(tmp_path, arrays() | {"classes": np.array(["a", "b", "c", "d"])})
    assert read_npz(path)[0] == ("a", "b", "c", "d")
    assert count_npz(path) == 4


def without(name: str) -> Callable[[Arrays], Arrays]:
    return lambda a: {k: v for k, v in a.items() if k != name}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (without("test_labels"), "has no test_labels; expected the arrays train_images"),
        (lambda a: a | {"train_images": a["train_images"].astype(float)}, "train_images is float"),
        (lambda a: a | {"train_images": a["train_images"][0]}, "40"),
        (lambda a: a | {"test_images": a["test_images"][:5]}, "for 5 images"),
        (
            lambda a: a | {"train_labels": np.zeros((40, 2), np.uint8)},
            "as many for each image in both",
        ),
        (lambda a: a | {"train_labels": np.full(40, -1)}, "holds -1"),
        (lambda a: a | {"train_labels": np.full(40, 10**9)}, "a label is 1,000,000,000"),
        (lambda a: a | {"train_labels": np.full(40, 0.5)}, "train_labels is float64"),
        (lambda a: a | {"classes": np.array(["a"])}, "expected 4 texts or more"),
        (lambda a: a | {"classes": np.array(["a" * 999, "b", "c", "d"])}, "as the name of a class"),
        (lambda a: a | {"classes": np.full(100_001, "a")}, "100,000 at most"),
        (lambda a: a | {"classes": np.full(4, 2**31, np.uint32).view("U1")}, "as the name of a c"),
        (lambda a: a | {"train_labels": np.array([None] * 40)}, "says object"),
    ],
)
def test_what_makes_no_set(tmp_path: Path, change: Callable[[Arrays], Arrays], told: str) -> None:
    path = write(tmp_path, change(arrays()))
    with pytest.raises(ValueError, match=told) as caught:
        load_images("npz", root=str(path))
    assert str(path) in str(caught.value)


def files(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def pack(path: Path, content: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> None:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, each in content.items():
            archive.writestr(name, each)


def npy(header: bytes) -> bytes:
    """A file of one array with any header."""
    return np.lib.format.magic(1, 0) + struct.pack("<H", len(header)) + header + bytes(99)


def test_a_header_larger_than_its_array(tmp_path: Path) -> None:
    path = write(tmp_path, arrays())
    header = b"{'descr': '|u1', 'fortran_order': False, 'shape': (%d, 9, 7)}\n" % 2**40
    pack(path, files(path) | {"train_images.npy": npy(header)})
    with pytest.raises(ValueError, match=r"train_images.npy says uint8 \(1099511627776, 9, 7\)"):
        load_images("npz", root=str(path))


@pytest.mark.parametrize(
    "header",
    [
        b"{'descr': (",
        b"if 1:\n    2\n  3\n",
        b"{{}: 1}",
        b"{1: 2, 'descr': 3}",
        b"{'descr': '|u1', 'fortran_order': False, 'shape': (0, %d)}" % 2**100,
        b"{'descr': '|u1', 'fortran_order': False, 'shape': (-1,)}",
        b"{'descr': '|u1', 'fortran_order': False, 'shape': 0x" + b"f" * 9_000 + b"}",
        b"(" * 5_000,
        b"\\d" * 3_000,
        b"",
    ],
    ids=lambda header: str(header[:24]),
)
def test_headers_of_any_text(tmp_path: Path, header: bytes) -> None:
    path = write(tmp_path, arrays())
    pack(path, files(path) | {"train_labels.npy": npy(header)})
    with pytest.raises(
        ValueError, match=r"images\.npz can't be read as a numpy archive: "
    ) as caught:
        count_npz(path)
    assert len(str(caught.value)) < 2_000


def encrypted(path: Path) -> None:
    """As if by a password: the flags in each header say so."""
    content = bytearray(path.read_bytes())
    for mark, at in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        place = -1
        while (place := content.find(mark, place + 1)) >= 0:
            content[place + at] |= 1
    path.write_bytes(content)


def badly_packed(path: Path, compression: int) -> None:
    pack(path, files(path), compression)
    with zipfile.ZipFile(path) as archive:
        first = archive.infolist()[0]
    content = bytearray(path.read_bytes())
    start = 30 + len(first.filename)
    content[start : start + first.compress_size] = b"\xff" * first.compress_size
    path.write_bytes(content)


def doubled(path: Path) -> None:
    with pytest.warns(UserWarning, match="Duplicate"), zipfile.ZipFile(path, "a") as archive:
        archive.writestr("train_images.npy", b"")


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (encrypted, "encrypted"),
        (lambda path: badly_packed(path, zipfile.ZIP_LZMA), ""),
        (lambda path: badly_packed(path, zipfile.ZIP_BZIP2), ""),
        (lambda path: badly_packed(path, zipfile.ZIP_DEFLATED), ""),
        (lambda path: badly_packed(path, zipfile.ZIP_STORED), "magic"),
        (doubled, "it has train_images.npy twice"),
        (lambda path: pack(path, {}), "it has no train_images"),
    ],
)
def test_damaged_archives(tmp_path: Path, damage: Callable[[Path], None], told: str) -> None:
    path = write(tmp_path, arrays())
    damage(path)
    with pytest.raises(ValueError, match=f"can't be read as a numpy archive: .*{told}"):
        read_npz(path)


def test_only_what_is_named_as_an_array_is_read(tmp_path: Path) -> None:
    stored = arrays()
    path = write(tmp_path, stored)
    pack(path, {"train_images": b"no array", **files(path)})
    assert np.array_equal(read_npz(path)[1].pixels, stored["train_images"])


def test_all_arrays_count_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, arrays())
    largest = max(map(len, files(path).values()))
    monkeypatch.setattr("tfnas.data.npz.MAX_BYTES", largest + 1)
    with pytest.raises(ValueError, match=f"bytes, {largest + 1:,} are the most"):
        read_npz(path)


def test_a_header_that_python_2_wrote(tmp_path: Path) -> None:
    path = write(tmp_path, arrays())
    header = b"{'descr': '|u1', 'fortran_order': False, 'shape': (40L,)}"
    pack(path, files(path) | {"train_labels.npy": npy(header)})
    assert read_npz(path)[1].labels.tolist() == [0] * 40


def test_an_array_that_unpacks_to_gigabytes(tmp_path: Path) -> None:
    path = write(tmp_path, arrays() | {"train_images": np.zeros((30_000, 40, 40), np.uint8)})
    with zipfile.ZipFile(path) as archive:
        info = archive.getinfo("train_images.npy")
    assert info.file_size > 900 * info.compress_size, "the bound isn't met by this test"
    info_size = info.file_size
    with pytest.raises(ValueError, match=f"would take {info_size:,} bytes"):
        load_images("npz", root=str(path))


def test_no_archive(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is no file: expected the arrays"):
        load_images("npz", root=str(tmp_path))
    (tmp_path / "x.npz").write_bytes(b"no zip")
    with pytest.raises(ValueError, match="can't be read as a numpy archive: File is not a zip"):
        num_classes("npz", root=str(tmp_path / "x.npz"))


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_archives_of_any_bytes(tmp_path: Path, data: st.DataObject) -> None:
    whole = bytearray(write(tmp_path, arrays(None)).read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / "any.npz"
    path.write_bytes(bytes(whole[: data.draw(st.integers(0, len(whole)))]))
    with suppress(ValueError):  # nothing else
        load_images("npz", root=str(path))


@pytest.mark.parametrize("dtype", [np.uint8, np.float64])
def test_several_labels_for_each_image(tmp_path: Path, dtype: type) -> None:
    """As MedMNIST stores those of ChestMNIST."""
    rng = np.random.default_rng(0)
    labels = {
        f"{part}_labels": rng.integers(0, 2, (n, 3)) for part, n in (("train", 40), ("test", 12))
    }
    path = write(tmp_path, arrays() | {name: x.astype(dtype) for name, x in labels.items()})
    dataset = load_images("npz", root=str(path), max_train=30)
    assert dataset.classes == ("0", "1", "2")
    assert num_classes("npz", root=str(path)) == 3
    assert not dataset.by_class
    assert dataset.train.labels.dtype == np.float32
    assert np.array_equal(dataset.train.labels, labels["train_labels"][:30])
    with pytest.raises(ValueError, match=r"3 numbers for each image.*for tfnas\.train alone"):
        dataset.check_by_class()


def test_one_float_for_each_image_is_a_number(tmp_path: Path) -> None:
    values = {"train_labels": np.linspace(0, 1, 40)[:, None], "test_labels": np.zeros((12, 1))}
    path = write(tmp_path, arrays() | values | {"classes": np.array(["age"])})
    dataset = load_images("npz", root=str(path))
    assert (dataset.classes, dataset.train.labels.shape) == (("age",), (40, 1))


@pytest.mark.parametrize(
    ("labels", "told"),
    [
        (np.full((40, 3), np.nan), "holds numbers that aren't finite"),
        (np.full((40, 3), 1e300), "holds numbers that aren't finite"),
        (np.zeros((41, 3)), r"\(41, 3\) for 40 images"),
        (np.zeros((40, 2)), "expected as many for each image in both parts"),
        (np.zeros((40, 3, 1)), r"\(40, 3, 1\) for 40 images"),
    ],
)
def test_numbers_that_do_not_fit(tmp_path: Path, labels: np.ndarray, told: str) -> None:
    path = write(tmp_path, arrays() | {"train_labels": labels, "test_labels": np.zeros((12, 3))})
    with pytest.raises(ValueError, match=told):
        read_npz(path)
