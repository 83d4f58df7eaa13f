"""Fashion-MNIST: idx files, or the cut in this package."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from dataclasses import replace
from pathlib import Path
from typing import IO, cast

import numpy as np

from tfnas.data.images import ArrayImages, Dataset, Place, data_set

ASSETS = Path(__file__).parents[1] / "assets"
DEBIAN_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")  # of dataset-fashion-mnist
SHIPPED = "shipped"
FASHION_MNIST_CLASSES = (
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)
MAX_BYTES = 1 << 30  # of one idx file once unpacked
MAX_RATIO = 20  # of unpacked to packed bytes; Fashion-MNIST has 2, a bomb has 1000
SMALL = 1 << 24  # bytes that may come of the smallest file: sorted labels pack well


def load(place: Place) -> Dataset:
    """The idx files below the root; without a root Debian's where installed, else the cut."""
    if place.root is None and DEBIAN_FASHION_MNIST.is_dir():
        place = replace(place, root=str(DEBIAN_FASHION_MNIST))
    if place.root in (None, SHIPPED):
        origin = "shipped cut"
        with np.load(ASSETS / "fashion_mnist_cut.npz", allow_pickle=False) as cut:
            train, test = (
                _gray(cut[f"{part}_pixels"], cut[f"{part}_labels"], f"the {origin}, {part}")
                for part in ("train", "test")
            )
    else:
        folder = place.path
        layouts = (folder, folder / "FashionMNIST" / "raw", folder / "raw")
        folder = next((f for f in layouts if any(f.glob("train-images-idx3-ubyte*"))), folder)
        origin = f"idx files in {folder}"
        train, test = (
            _gray(
                read_idx(folder, f"{part}-images-idx3-ubyte", 3),
                read_idx(folder, f"{part}-labels-idx1-ubyte", 1),
                f"{folder}, {part}",
            )
            for part in ("train", "t10k")
        )
    return data_set(place.name, FASHION_MNIST_CLASSES, train, test, origin)


def count(_place: Place) -> int:
    return len(FASHION_MNIST_CLASSES)


def _gray(pixels: np.ndarray, labels: np.ndarray, where: str) -> ArrayImages:
    """From uint8 (N, H, W) and (N,)."""
    if len(pixels) != len(labels):
        raise ValueError(
            f"{where}: {len(pixels)} images but {len(labels)} labels; the files don't belong "
            "together"
        )
    return ArrayImages(pixels[..., None], labels.astype(np.int64))


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
            if not 1 <= size <= unpacked(path, MAX_BYTES):
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


def unpacked(path: Path, most: int) -> int:
    """How many bytes a packed file of images may hold: no bomb, that is."""
    return min(most, max(MAX_RATIO * path.stat().st_size, SMALL))
