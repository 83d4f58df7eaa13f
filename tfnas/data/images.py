"""Image sets as they lie in memory or in files, and how they are split."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from tfnas.data.pieces import name_of

# The usual figures of ImageNet, whose subsets come as files; those of other files aren't far.
FILES_MEAN, FILES_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
FILES_CROP_SCALE, ARRAY_CROP_SCALE = (0.08, 1.0), (0.6, 1.0)
TRAIN_FRACTION, SPLIT_SEED = 0.8, 0  # where no test set is given
_SPLIT_STREAM = 2  # beside those of tfnas.data.augment

Triple = tuple[float, float, float]


@dataclass(frozen=True, eq=False)
class ArrayImages:
    """Images in memory: `pixels` uint8 (N, H, W, C) with C 1 or 3, `labels` int64 (N,)."""

    pixels: np.ndarray
    labels: np.ndarray

    def __post_init__(self) -> None:
        shape = self.pixels.shape
        if self.pixels.dtype != np.uint8 or len(shape) != 4 or shape[3] not in (1, 3):
            raise ValueError(
                f"pixels {self.pixels.dtype} {shape}: expected uint8 (N, H, W, C) with C 1 or 3"
            )
        _check_labels(self.labels, len(self.pixels))

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: np.ndarray) -> ArrayImages:
        """Only the images at `indices`, int64 (M,)."""
        return ArrayImages(self.pixels[indices], self.labels[indices])


@dataclass(frozen=True, eq=False)
class FileImages:
    """Images as files: N paths (text: a million `Path`s would fill a gigabyte), `labels` int64
    (N,)."""

    paths: tuple[str, ...]
    labels: np.ndarray

    def __post_init__(self) -> None:
        _check_labels(self.labels, len(self.paths))

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: np.ndarray) -> FileImages:
        """Only the images at `indices`, int64 (M,)."""
        return FileImages(tuple(self.paths[i] for i in indices), self.labels[indices])


Images = ArrayImages | FileImages


@dataclass(frozen=True)
class Place:
    """Where a user says that an image set lies: what every reader of a format gets."""

    name: str
    root: str | None = None
    train_list: str | None = None
    test_list: str | None = None

    @property
    def path(self) -> Path:
        """The root; raises ValueError where none is given, FileNotFoundError where it isn't."""
        if self.root is None:
            raise ValueError(f"data={self.name} needs data.root: the path where its files lie")
        path = Path(self.root).expanduser()
        if not path.exists():
            raise FileNotFoundError(f"data.root={self.root}: no such file or folder")
        return path


@dataclass(frozen=True, eq=False)
class Dataset:
    """An image set, its labels counted from 0 in the order of `classes`."""

    name: str
    classes: tuple[str, ...]
    train: Images
    test: Images
    mean: Triple  # of RGB in 0..1
    std: Triple  # of RGB in 0..1
    origin: str  # one line: which files these are

    def __post_init__(self) -> None:
        for part, images in (("training", self.train), ("test", self.test)):
            if len(images) == 0:
                raise ValueError(f"data {self.name}: no {part} images ({self.origin})")
            low, high = int(images.labels.min()), int(images.labels.max())
            if low < 0 or high >= len(self.classes):
                raise ValueError(
                    f"data {self.name}: {part} labels run from {low} to {high}, expected 0 to "
                    f"{len(self.classes) - 1} for {len(self.classes)} classes ({self.origin})"
                )
        counts = np.bincount(self.train.labels, minlength=len(self.classes))
        empty = [self.classes[i] for i in np.flatnonzero(counts == 0)]
        if empty:
            raise ValueError(
                f"data {self.name}: no training images for {some(empty)} ({self.origin})"
            )

    @cached_property
    def identity(self) -> str:
        """Which images these are, wherever they lie: how many, and a digest of them.

        Of files their names and classes count and not what is in them: reading all of a large set
        takes hours, and one that can't be read may be replaced while a run waits.
        """
        digest = self._digest(self.train, self.test)
        return f"{len(self.train):,} + {len(self.test):,} images, {digest}"

    @cached_property
    def test_identity(self) -> str:
        """As `identity`, whatever part of the training images is taken."""
        return f"{len(self.test):,} test images, {self._digest(self.test)}"

    def _digest(self, *parts: Images) -> str:
        digest = hashlib.sha256(repr(self.classes).encode())
        for images in parts:
            digest.update(images.labels.tobytes())
            if isinstance(images, ArrayImages):
                digest.update(np.ascontiguousarray(images.pixels).data)
            else:
                for path in images.paths:
                    digest.update(f"{name_of(path)}\n".encode(errors="replace"))
        return digest.hexdigest()[:12]

    def at_most(self, max_train: int) -> Dataset:
        """The set with at most so many training images, balanced over classes.

        Raises:
            ValueError: for fewer images than classes.
        """
        if max_train >= len(self.train):
            return self
        if max_train < len(self.classes):
            raise ValueError(
                f"max_train={max_train}: expected at least one image for each of the "
                f"{len(self.classes)} classes of {self.name}"
            )
        kept = first_per_class(self.train.labels, max_train)
        origin = f"{self.origin}; {max_train:,} of the training images (max_train)"
        return replace(self, train=self.train.take(kept), origin=origin)


def data_set(
    name: str, classes: tuple[str, ...], train: Images, test: Images, origin: str
) -> Dataset:
    """With the mean and deviation of its pixels, for files the usual ones."""
    if isinstance(train, ArrayImages):
        mean, std = _mean_std(train.pixels)
    else:
        mean, std = FILES_MEAN, FILES_STD
    origin = f"{origin}, {len(train):,} training and {len(test):,} test images"
    return Dataset(name, classes, train, test, mean, std, origin)


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


def first_per_class(labels: np.ndarray, total: int) -> np.ndarray:
    """Sorted indices of `total` images, the first of each class as evenly as the classes allow."""
    by_class = np.argsort(labels, kind="stable")
    starts = np.searchsorted(labels[by_class], labels[by_class])
    rank = np.empty(len(labels), np.int64)  # how many of its class stand before it
    rank[by_class] = np.arange(len(labels)) - starts
    return np.sort(np.argsort(rank, kind="stable")[:total])


def stratified_split(
    labels: np.ndarray, fraction: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Splits every class by `fraction`: two sorted arrays of indices, int64, that make up all.

    The first holds round(fraction * n) of the n images of each class, and of either side at least
    one. Raises ValueError for a fraction outside (0, 1) or a class with a single image.
    """
    if not 0 < fraction < 1:
        raise ValueError(f"split fraction {fraction}: expected between 0 and 1")
    rng = np.random.default_rng((checked_seed(seed), _SPLIT_STREAM))
    first, second = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        if len(members) < 2:
            raise ValueError(f"class {label} has one image; a split needs at least two")
        cut = min(max(round(fraction * len(members)), 1), len(members) - 1)
        first.append(members[:cut])
        second.append(members[cut:])
    return np.sort(np.concatenate(first)), np.sort(np.concatenate(second))


def split_off(
    images: FileImages, classes: Sequence[str], where: str
) -> tuple[FileImages, FileImages]:
    """Training and test images of one set: always the same fifth of each class is the latter.

    Raises:
        ValueError: for a class with a single image.
    """
    counts = np.bincount(images.labels, minlength=len(classes))
    rare = [name for name, count in zip(classes, counts, strict=True) if count == 1]
    if rare:
        raise ValueError(
            f"{where}: one image only in {some(rare)}; expected two or more a class, or a test set "
            "beside (train and val), since one must be split off"
        )
    kept, held_out = stratified_split(images.labels, TRAIN_FRACTION, SPLIT_SEED)
    return images.take(kept), images.take(held_out)


def _check_labels(labels: np.ndarray, count: int) -> None:
    if labels.dtype != np.int64 or labels.shape != (count,):
        raise ValueError(f"labels {labels.dtype} {labels.shape}: expected int64 ({count},)")


def checked_seed(seed: int) -> int:
    if seed < 0:
        raise ValueError(f"seed {seed}: expected 0 or more")
    return seed


def some(items: Sequence[object]) -> str:
    """The first five of them, as text for an error."""
    first = ", ".join(str(item) for item in items[:5])
    return first if len(items) <= 5 else f"{first} and {len(items) - 5} more"
