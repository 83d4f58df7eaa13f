from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tfnas.arrays import count_npz, read_npz
from tfnas.data import ArrayImages, load, num_classes

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
    dataset = load("npz", root=str(path))
    assert dataset.classes == ("0", "1", "2", "3")
    assert num_classes("npz", root=str(path)) == 4
    assert isinstance(dataset.train, ArrayImages)
    assert dataset.train.pixels.shape == (40, 9, 7, channels or 1)
    assert np.array_equal(dataset.train.pixels.reshape(-1), stored["train_images"].reshape(-1))
    assert dataset.test.labels.tolist() == stored["test_labels"][:, 0].tolist()
    assert str(path) in dataset.origin


def test_names_of_classes(tmp_path: Path) -> None:
    path = write(tmp_path, arrays() | {"classes": np.array(["a", "b", "c", "d"])})
    assert read_npz(path).classes == ("a", "b", "c", "d")
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
        (lambda a: a | {"train_labels": np.zeros((40, 2), np.uint8)}, r"\(40, 2\) for 40 images"),
        (lambda a: a | {"train_labels": np.full(40, -1)}, "holds -1"),
        (lambda a: a | {"train_labels": np.full(40, 10**9)}, "a label is 1,000,000,000"),
        (lambda a: a | {"train_labels": np.full(40, 0.5)}, "train_labels is float64"),
        (lambda a: a | {"classes": np.array(["a"])}, "expected 4 texts or more"),
        (lambda a: a | {"classes": np.array(["a" * 999, "b", "c", "d"])}, "as the name of a class"),
        (lambda a: a | {"train_labels": np.array([None] * 40)}, "says object"),
    ],
)
def test_what_makes_no_set(tmp_path: Path, change: Callable[[Arrays], Arrays], told: str) -> None:
    path = write(tmp_path, change(arrays()))
    with pytest.raises(ValueError, match=told) as caught:
        load("npz", root=str(path))
    assert str(path) in str(caught.value)


def test_a_header_larger_than_its_array(tmp_path: Path) -> None:
    path = write(tmp_path, arrays())
    array = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        array, {"descr": "|u1", "fortran_order": False, "shape": (2**40, 9, 7)}
    )
    with zipfile.ZipFile(path) as old:
        files = {name: old.read(name) for name in old.namelist()}
    with zipfile.ZipFile(path, "w") as new:
        for name, content in (files | {"train_images.npy": array.getvalue() + bytes(99)}).items():
            new.writestr(name, content)
    with pytest.raises(ValueError, match=r"train_images.npy says uint8 \(1099511627776, 9, 7\)"):
        load("npz", root=str(path))


def test_an_array_that_unpacks_to_gigabytes(tmp_path: Path) -> None:
    path = write(tmp_path, arrays() | {"train_images": np.zeros((30_000, 40, 40), np.uint8)})
    with zipfile.ZipFile(path) as archive:
        info = archive.getinfo("train_images.npy")
    assert info.file_size > 900 * info.compress_size, "the bound isn't met by this test"
    info_size = info.file_size
    with pytest.raises(ValueError, match=f"would take {info_size:,} bytes"):
        load("npz", root=str(path))


def test_no_archive(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is no file: expected the arrays"):
        load("npz", root=str(tmp_path))
    (tmp_path / "x.npz").write_bytes(b"no zip")
    with pytest.raises(ValueError, match="is no numpy archive"):
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
        load("npz", root=str(path))
