"""Image sets by name: where they lie and how they are read."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tfnas.data.cifar import CIFAR10, CIFAR100, CifarLayout, read_cifar
from tfnas.data.folders import class_folders, folder_layout, scan_classes
from tfnas.data.idx import read_idx
from tfnas.data.images import (
    FILES_MEAN,
    FILES_STD,
    ArrayImages,
    Dataset,
    FileImages,
    ImageArrays,
    Triple,
    some,
    stratified_split,
)
from tfnas.data.lists import read_list
from tfnas.data.npz import count_npz, read_npz

if TYPE_CHECKING:
    pass

ASSETS = Path(__file__).parents[1] / "assets"
DEBIAN_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")  # of dataset-fashion-mnist
SHIPPED = "shipped"
FASHION_MNIST_CLASSES = (
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)
FOLDER_TRAIN_FRACTION, FOLDER_SEED = 0.8, 0


def load_images(
    name: str,
    *,
    root: str | None = None,
    train_list: str | None = None,
    test_list: str | None = None,
    max_train: int | None = None,
) -> Dataset:
    """Reads an image set (files are only listed, with the first header of each class checked).

    `fashion_mnist`: `root` holds the idx files; "shipped" is the cut of 12,000 + 3,000 images in
    this package; None is Debian's full set where installed, else the cut. `cifar10`, `cifar100`:
    `root` is the published archive or its folder. `npz`: a numpy archive, see `tfnas.data.npz`.
    `folder`: `root` holds train/<class> and val/<class> (or test/), or only class folders. `list`:
    two files of `path label` lines, paths relative to `root`. `max_train` keeps at most that many
    training images, balanced over classes.

    Raises LookupError for an unknown name, FileNotFoundError for what is missing, ValueError for
    what is there but unusable.
    """
    source = _source(name, train_list, test_list, max_train)
    dataset = source.load(root, train_list, test_list)
    return dataset if max_train is None else dataset.at_most(max_train)


def num_classes(
    name: str,
    *,
    root: str | None = None,
    train_list: str | None = None,
    test_list: str | None = None,
    max_train: int | None = None,
) -> int:
    """The number of classes of `load_images(name, ...)`, without reading an image. Same errors."""
    return _source(name, train_list, test_list, max_train).count(root, train_list)


# -- the sets -------------------------------------------------------------------------------------


def _load_fashion_mnist(root: str | None, *_: str | None) -> Dataset:
    if root is None and DEBIAN_FASHION_MNIST.is_dir():
        root = str(DEBIAN_FASHION_MNIST)
    if root is None or root == SHIPPED:
        with np.load(ASSETS / "fashion_mnist_cut.npz", allow_pickle=False) as cut:
            train = _gray(cut["train_pixels"], cut["train_labels"], "the shipped cut, train")
            test = _gray(cut["test_pixels"], cut["test_labels"], "the shipped cut, test")
        origin = "shipped cut"
    else:
        folder = _existing_root("fashion_mnist", root)
        layouts = (folder, folder / "FashionMNIST" / "raw", folder / "raw")
        folder = next((f for f in layouts if any(f.glob("train-images-idx3-ubyte*"))), folder)
        train, test = (
            _gray(
                read_idx(folder, f"{part}-images-idx3-ubyte", 3),
                read_idx(folder, f"{part}-labels-idx1-ubyte", 1),
                f"{folder}, {part}",
            )
            for part in ("train", "t10k")
        )
        origin = f"idx files in {folder}"
    return _in_memory("fashion_mnist", FASHION_MNIST_CLASSES, train, test, origin)


def _gray(pixels: np.ndarray, labels: np.ndarray, where: str) -> ArrayImages:
    """From uint8 (N, H, W) and (N,)."""
    if len(pixels) != len(labels):
        raise ValueError(
            f"{where}: {len(pixels)} images but {len(labels)} labels; the files don't belong "
            "together"
        )
    return ArrayImages(pixels[..., None], labels.astype(np.int64))


def _load_cifar10(root: str | None, *_: str | None) -> Dataset:
    return _load_cifar("cifar10", CIFAR10, root)


def _load_cifar100(root: str | None, *_: str | None) -> Dataset:
    return _load_cifar("cifar100", CIFAR100, root)


def _load_cifar(name: str, layout: CifarLayout, root: str | None) -> Dataset:
    path = _existing_root(name, root)
    return _of_arrays(name, read_cifar(path, layout), f"python archive {path}")


def _load_npz(root: str | None, *_: str | None) -> Dataset:
    path = _existing_root("npz", root)
    return _of_arrays("npz", read_npz(path), f"numpy archive {path}")


def _of_arrays(name: str, arrays: ImageArrays, origin: str) -> Dataset:
    train = ArrayImages(arrays.train_pixels, arrays.train_labels)
    test = ArrayImages(arrays.test_pixels, arrays.test_labels)
    return _in_memory(name, arrays.classes, train, test, origin)


def _load_folder(root: str | None, *_: str | None) -> Dataset:
    train_folder, test_folder = folder_layout(_existing_root("folder", root))
    classes = class_folders(train_folder)
    train = FileImages(*scan_classes(train_folder, classes))
    if test_folder is None:
        rare = [c for c, n in zip(classes, np.bincount(train.labels), strict=True) if n < 2]
        if rare:
            raise ValueError(
                f"{train_folder}: one image only in {some(rare)}; expected two or more a "
                "class, or train/ and val/ folders, since a test set must be split off"
            )
        kept, held_out = stratified_split(train.labels, FOLDER_TRAIN_FRACTION, FOLDER_SEED)
        train, test = train.take(kept), train.take(held_out)
        origin = f"class folders in {train_folder}, no val/ or test/: a fixed stratified 80/20"
    else:
        test_classes = class_folders(test_folder)
        if test_classes != classes:
            raise ValueError(
                f"{train_folder} and {test_folder} must hold the same classes; only in one of "
                f"them: {some(sorted(set(classes) ^ set(test_classes)))}"
            )
        test = FileImages(*scan_classes(test_folder, classes))
        origin = f"class folders in {train_folder}, tested on {test_folder.name}/"
    return _of_files("folder", classes, train, test, origin)


def _load_list(root: str | None, train_list: str | None, test_list: str | None) -> Dataset:
    train, test = _listed("train_list", train_list, root), _listed("test_list", test_list, root)
    count = _classes_of(train.labels, train_list)
    if test.labels.max() >= count:
        raise ValueError(
            f"{test_list}: label {test.labels.max()}, expected 0 to {count - 1} as in {train_list}"
        )
    for given, images in ((train_list, train), (test_list, test)):
        absent = [path for path in images.paths if not Path(path).is_file()]
        if absent:
            raise FileNotFoundError(
                f"{given}: {len(absent):,} of {len(images):,} files aren't there, the first "
                f"{absent[0]}; data.root must be the folder that the list's paths start from"
            )
    classes = tuple(str(label) for label in range(count))
    return _of_files("list", classes, train, test, f"{train_list} and {test_list} below {root}")


def _listed(key: str, given: str | None, root: str | None) -> FileImages:
    if given is None:
        raise ValueError(f"data=list needs data.{key}: a text file of `path label` lines")
    return FileImages(*read_list(Path(given).expanduser(), _existing_root("list", root)))


def _classes_of(labels: np.ndarray, train_list: str | None) -> int:
    used = np.unique(labels)
    count = int(used[-1]) + 1
    if len(used) != count:
        unused = np.setdiff1d(np.arange(min(count, len(used) + 10)), used)
        raise ValueError(
            f"{train_list}: labels up to {count - 1} but no image with label "
            f"{some(unused.tolist())}; number the classes from 0 without gaps"
        )
    return count


def _count_folder(root: str | None, train_list: str | None) -> int:
    return len(class_folders(folder_layout(_existing_root("folder", root))[0]))


def _count_list(root: str | None, train_list: str | None) -> int:
    return _classes_of(_listed("train_list", train_list, root).labels, train_list)


@dataclass(frozen=True)
class _Source:
    load: Callable[[str | None, str | None, str | None], Dataset]
    count: Callable[[str | None, str | None], int]


SOURCES = {
    "fashion_mnist": _Source(_load_fashion_mnist, lambda *_: len(FASHION_MNIST_CLASSES)),
    "cifar10": _Source(_load_cifar10, lambda *_: CIFAR10.classes),
    "cifar100": _Source(_load_cifar100, lambda *_: CIFAR100.classes),
    "npz": _Source(_load_npz, lambda root, *_: count_npz(_existing_root("npz", root))),
    "folder": _Source(_load_folder, _count_folder),
    "list": _Source(_load_list, _count_list),
}


def _source(
    name: str, train_list: str | None, test_list: str | None, max_train: int | None
) -> _Source:
    if name not in SOURCES:
        raise LookupError(f"data set {name!r}: expected one of {', '.join(SOURCES)}")
    if name != "list" and (train_list is not None or test_list is not None):
        raise ValueError(f"train_list and test_list belong to data=list, not to data={name}")
    if max_train is not None and max_train < 1:
        raise ValueError(f"max_train={max_train}: expected at least 1, or null for all")
    return SOURCES[name]


def _existing_root(name: str, root: str | None) -> Path:
    if root is None:
        raise ValueError(f"data={name} needs data.root: the path where its files lie")
    path = Path(root).expanduser()
    if not path.exists():
        raise FileNotFoundError(f"data.root={root}: no such file or folder")
    return path


def _in_memory(
    name: str, classes: tuple[str, ...], train: ArrayImages, test: ArrayImages, origin: str
) -> Dataset:
    mean, std = _mean_std(train.pixels)
    origin = f"{origin}, {len(train):,} training and {len(test):,} test images"
    return Dataset(name, classes, train, test, mean, std, origin)


def _of_files(
    name: str, classes: tuple[str, ...], train: FileImages, test: FileImages, origin: str
) -> Dataset:
    from tfnas.data import augment

    for images in (train, test):
        _, firsts = np.unique(images.labels, return_index=True)
        for first in firsts:
            augment.check_header(images.paths[first])
    origin = f"{origin}, {len(train):,} training and {len(test):,} test images"
    return Dataset(name, classes, train, test, FILES_MEAN, FILES_STD, origin)


def _mean_std(pixels: np.ndarray) -> tuple[Triple, Triple]:
    """Of uint8 (N, H, W, C) in 0..1 by channel, gray counted as three equal ones."""
    values = np.arange(256) / 255
    means, stds = [], []
    for channel in range(pixels.shape[3]):
        histogram = np.zeros(256, np.int64)
        for start in range(0, len(pixels), 1000):  # bincount widens its input to 8 bytes a pixel
            part = pixels[start : start + 1000, ..., channel]
            histogram += np.bincount(part.ravel(), minlength=256)
        share = histogram / max(histogram.sum(), 1)
        mean = float(share @ values)
        means.append(round(mean, 4))
        stds.append(round(max(math.sqrt(share @ (values - mean) ** 2), 1 / 255), 4))
    r, g, b = range(3) if len(means) == 3 else (0, 0, 0)
    return (means[r], means[g], means[b]), (stds[r], stds[g], stds[b])
