"""Image sets by name: which file of this folder reads them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from tfnas.data import cifar, folders, huggingface, idx, lists, npz, tars
from tfnas.data.cifar import CIFAR10, CIFAR100
from tfnas.data.images import Dataset, Place
from tfnas.data.readable import readable


@dataclass(frozen=True)
class Source:
    """How a set is read, and how its classes are counted without reading an image."""

    load: Callable[[Place], Dataset]
    count: Callable[[Place], int]


SOURCES = {
    "fashion_mnist": Source(idx.load, idx.count),
    "cifar10": Source(partial(cifar.load, layout=CIFAR10), lambda _: CIFAR10.classes),
    "cifar100": Source(partial(cifar.load, layout=CIFAR100), lambda _: CIFAR100.classes),
    "npz": Source(npz.load, npz.count),
    "folder": Source(folders.load, folders.count),
    "list": Source(lists.load, lists.count),
    "webdataset": Source(tars.load, tars.count),
    "huggingface": Source(huggingface.load, huggingface.count),
}


def load_images(
    name: str,
    *,
    root: str | None = None,
    train_list: str | None = None,
    test_list: str | None = None,
    max_train: int | None = None,
    check: bool | None = False,
    on_unreadable: str = "stop",
    numbers: bool = False,
) -> Dataset:
    """Reads an image set; files are only listed and checked as `tfnas.data.readable` tells.

    `fashion_mnist`: `root` holds the idx files; "shipped" is the cut of 12,000 + 3,000 images in
    this package; None is Debian's full set where installed, else the cut. `cifar10`, `cifar100`:
    `root` is the published archive or its folder. `npz`: a numpy archive, see `tfnas.data.npz`.
    `folder`: `root` holds train/<class> and val/<class> (or test/), or only class folders. `list`:
    two files of `path label` lines, paths relative to `root`; with `numbers`, of `path number ...`
    lines, for multi_label and regression. `webdataset`: tar files, see `tfnas.data.tars`.
    `huggingface`: Arrow or parquet files, see `tfnas.data.huggingface`. `max_train` keeps at most
    that many training images, balanced over classes.

    Raises LookupError for an unknown name, FileNotFoundError for what is missing, ValueError for
    what is there but unusable.
    """
    place = Place(name, root, train_list, test_list, numbers)
    dataset = _source(place, max_train).load(place)
    tested = np.unique(dataset.test.labels)
    if dataset.by_class and len(tested) == 1 < len(dataset.classes):
        raise ValueError(
            f"data {name}: all test images are of one class, {dataset.classes[tested[0]]}, of "
            f"{len(dataset.classes)} that are trained: no accuracy could be told ({dataset.origin})"
        )
    if max_train is not None:
        dataset = dataset.at_most(max_train)
    return readable(dataset, check, on_unreadable)


def num_classes(
    name: str,
    *,
    root: str | None = None,
    train_list: str | None = None,
    test_list: str | None = None,
    max_train: int | None = None,
) -> int:
    """The number of classes of `load_images(name, ...)`, without reading an image. Same errors."""
    place = Place(name, root, train_list, test_list)
    return _source(place, max_train).count(place)


def _source(place: Place, max_train: int | None) -> Source:
    if place.name not in SOURCES:
        raise LookupError(f"data set {place.name!r}: expected one of {', '.join(SOURCES)}")
    if place.name != "list" and (place.train_list is not None or place.test_list is not None):
        raise ValueError(f"train_list and test_list belong to data=list, not to data={place.name}")
    if max_train is not None and max_train < 1:
        raise ValueError(f"max_train={max_train}: expected at least 1, or null for all")
    return SOURCES[place.name]
