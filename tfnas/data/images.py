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

LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, as Pillow's conversion to gray
# The usual figures of ImageNet, whose subsets come as files; those of other files aren't far.
FILES_MEAN, FILES_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
FILES_CROP_SCALE, ARRAY_CROP_SCALE = (0.08, 1.0), (0.6, 1.0)
TRAIN_FRACTION, SPLIT_SEED = 0.8, 0  # where no test set is given
_SPLIT_STREAM = 2  # beside those of tfnas.data.augment

PerChannel = tuple[float, ...]


@dataclass(frozen=True, eq=False)
class ArrayImages:
    """Images in memory: `pixels` uint8 (N, H, W, C).

    `labels` are int64 (N,), the class of each, or float32 (N, K), K numbers for each. One channel
    is gray, three are RGB, any other number is what it is.
    """

    pixels: np.ndarray
    labels: np.ndarray

    def __post_init__(self) -> None:
        shape = self.pixels.shape
        if self.pixels.dtype != np.uint8 or len(shape) != 4 or shape[3] == 0:
            raise ValueError(f"pixels {self.pixels.dtype} {shape}: expected uint8 (N, H, W, C)")
        _check_labels(self.labels, len(self.pixels))

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def channels(self) -> int:
        return int(self.pixels.shape[3])

    def take(self, indices: np.ndarray) -> ArrayImages:
        """Only the images at `indices`, int64 (M,)."""
        return ArrayImages(self.pixels[indices], self.labels[indices])


@dataclass(frozen=True, eq=False)
class FileImages:
    """Images as files: N paths (text: a million `Path`s would fill a gigabyte), `labels` as of
    `ArrayImages`."""

    paths: tuple[str, ...]
    labels: np.ndarray

    def __post_init__(self) -> None:
        _check_labels(self.labels, len(self.paths))

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def channels(self) -> int:
        return 3  # once they are read; as gray they can be read, too

    def take(self, indices: np.ndarray) -> FileImages:
        """Only the images at `indices`, int64 (M,)."""
        return FileImages(tuple(self.paths[i] for i in indices), self.labels[indices])


Images = ArrayImages | FileImages
INTERCHANGEABLE = {1, 3}  # channels: gray images and RGB are made of each other


@dataclass(frozen=True)
class Place:
    """Where a user says that an image set lies: what every reader of a format gets.

    Attributes:
        numbers: labels of lists are numbers, and not classes; other formats tell it themselves.
    """

    name: str
    root: str | None = None
    train_list: str | None = None
    test_list: str | None = None
    numbers: bool = False

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
    """An image set, its labels counted from 0 in the order of `classes`.

    Where labels are several numbers for each image, `classes` are their names.

    Attributes:
        mean, std: in 0..1, of each channel that a net is fed. Gray images are fed as RGB, unless
            `fed_as` asks for one channel.
        origin: one line: which files these are.
    """

    name: str
    classes: tuple[str, ...]
    train: Images
    test: Images
    mean: PerChannel
    std: PerChannel
    origin: str

    def __post_init__(self) -> None:
        for part, images in (("training", self.train), ("test", self.test)):
            if len(images) == 0:
                raise ValueError(f"data {self.name}: no {part} images ({self.origin})")
            if not feeds(images, self.channels):
                raise ValueError(
                    f"data {self.name}: {part} images of {images.channels} channels, expected "
                    f"{self.channels} ({self.origin})"
                )
            if not self.by_class:
                if images.labels.shape[1:] != (len(self.classes),):
                    raise ValueError(
                        f"data {self.name}: {part} labels {images.labels.shape}, expected "
                        f"{len(self.classes)} numbers for each image ({self.origin})"
                    )
                continue
            low, high = int(images.labels.min()), int(images.labels.max())
            if low < 0 or high >= len(self.classes):
                raise ValueError(
                    f"data {self.name}: {part} labels run from {low} to {high}, expected 0 to "
                    f"{len(self.classes) - 1} for {len(self.classes)} classes ({self.origin})"
                )
        if not self.by_class:
            return
        counts = np.bincount(self.train.labels, minlength=len(self.classes))
        empty = [self.classes[i] for i in np.flatnonzero(counts == 0)]
        if empty:
            raise ValueError(
                f"data {self.name}: no training images for {some(empty)} ({self.origin})"
            )

    @property
    def channels(self) -> int:
        """Those that a net is fed."""
        return len(self.mean)

    def fed_as(self, channels: int) -> Dataset:
        """The set for a net of so many input channels: gray images as RGB, RGB as gray, if asked.

        Raises:
            ValueError: if the images can't be had so.
        """
        if channels == self.channels:
            return self
        if not feeds(self.train, channels):
            own = self.train.channels
            expected = "1 (gray) or 3 (RGB)" if own in INTERCHANGEABLE else own
            raise ValueError(
                f"data {self.name}: its images have {own} channel{'s' if own > 1 else ''}, the net "
                f"takes {channels}: expected space.in_channels to be {expected} ({self.origin})"
            )
        mean, std = (_as_fed(values, channels) for values in (self.mean, self.std))
        return replace(self, mean=mean, std=std)

    @property
    def by_class(self) -> bool:
        """Whether each image has one class, and not several numbers."""
        return self.train.labels.ndim == 1

    def check_by_class(self) -> None:
        """Raises ValueError where it isn't so."""
        if not self.by_class:
            raise ValueError(
                f"data {self.name}: {len(self.classes)} numbers for each image, expected one "
                "class; such images are for tfnas.train alone, with task=multi_label or "
                "task=regression"
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
        """The set with at most so many training images, balanced over classes where they have them.

        Raises:
            ValueError: for fewer images than classes.
        """
        if max_train >= len(self.train):
            return self
        if self.by_class and max_train < len(self.classes):
            raise ValueError(
                f"max_train={max_train}: expected at least one image for each of the "
                f"{len(self.classes)} classes of {self.name}"
            )
        kept = np.arange(max_train)
        if self.by_class:
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


def feeds(images: Images, channels: int) -> bool:
    """Whether a net with so many input channels can be fed with the images."""
    return channels == images.channels or {channels, images.channels} <= INTERCHANGEABLE


def _mean_std(pixels: np.ndarray) -> tuple[PerChannel, PerChannel]:
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
    copies = 3 if len(means) == 1 else 1
    return tuple(means * copies), tuple(stds * copies)


def _as_fed(values: PerChannel, channels: int) -> PerChannel:
    """Means or deviations of RGB as one of gray, or the other way round.

    The deviation of gray is that of channels that vary together, which those of photographs nearly
    do.
    """
    if channels == 1:
        return (round(sum(w * value for w, value in zip(LUMA, values, strict=True)), 4),)
    return values * channels


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
    form = {np.dtype(np.int64): 1, np.dtype(np.float32): 2}.get(labels.dtype)
    if labels.shape[:1] != (count,) or labels.ndim != form:
        raise ValueError(
            f"labels {labels.dtype} {labels.shape}: expected int64 ({count},), or float32 "
            f"({count}, numbers)"
        )


def checked_seed(seed: int) -> int:
    if seed < 0:
        raise ValueError(f"seed {seed}: expected 0 or more")
    return seed


def some(items: Sequence[object]) -> str:
    """The first five of them, as text for an error."""
    first = ", ".join(str(item) for item in items[:5])
    return first if len(items) <= 5 else f"{first} and {len(items) - 5} more"
