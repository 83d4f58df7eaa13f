"""Image sets for searching and training: what they are, where they lie, how they're batched.

`load` reads a set by name, `num_classes` only counts its classes, `stratified_split` divides it,
`Batches` makes tensors of it. Nothing is downloaded. Torch and Pillow are imported only where
pixels are made, so that a profiler can count classes without them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tfnas import readers
from tfnas.arrays import ImageArrays, count_npz, read_npz
from tfnas.distributed import ALONE, Ranks

if TYPE_CHECKING:
    import torch

ASSETS = Path(__file__).with_name("assets")
DEBIAN_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")  # of dataset-fashion-mnist
SHIPPED = "shipped"
FASHION_MNIST_CLASSES = (
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)
# The usual figures of ImageNet, whose subsets come as files; those of other files aren't far.
FILES_MEAN, FILES_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
FOLDER_TRAIN_FRACTION, FOLDER_SEED = 0.8, 0
FILES_CROP_SCALE, ARRAY_CROP_SCALE = (0.08, 1.0), (0.6, 1.0)
_ORDER_STREAM = 0  # beside those of tfnas.augment
_SPLIT_STREAM = 2  # beside those of tfnas.augment

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
                f"data {self.name}: no training images for {readers.some(empty)} ({self.origin})"
            )


def load(
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
    `root` is the published archive or its folder. `npz`: a numpy archive, see `tfnas.arrays`.
    `folder`: `root` holds train/<class> and val/<class> (or test/), or only class folders. `list`:
    two files of `path label` lines, paths relative to `root`. `max_train` keeps at most that many
    training images, balanced over classes.

    Raises LookupError for an unknown name, FileNotFoundError for what is missing, ValueError for
    what is there but unusable.
    """
    source = _source(name, train_list, test_list, max_train)
    dataset = source.load(root, train_list, test_list)
    if max_train is None or max_train >= len(dataset.train):
        return dataset
    if max_train < len(dataset.classes):
        raise ValueError(
            f"max_train={max_train}: expected at least one image for each of the "
            f"{len(dataset.classes)} classes of {name}"
        )
    kept = first_per_class(dataset.train.labels, max_train)
    origin = f"{dataset.origin}; {max_train:,} of the training images (max_train)"
    return replace(dataset, train=dataset.train.take(kept), origin=origin)


def num_classes(
    name: str,
    *,
    root: str | None = None,
    train_list: str | None = None,
    test_list: str | None = None,
    max_train: int | None = None,
) -> int:
    """The number of classes of `load(name, ...)`, without reading an image. Same errors."""
    return _source(name, train_list, test_list, max_train).count(root, train_list)


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
    rng = np.random.default_rng((_checked_seed(seed), _SPLIT_STREAM))
    first, second = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        if len(members) < 2:
            raise ValueError(f"class {label} has one image; a split needs at least two")
        cut = min(max(round(fraction * len(members)), 1), len(members) - 1)
        first.append(members[:cut])
        second.append(members[cut:])
    return np.sort(np.concatenate(first)), np.sort(np.concatenate(second))


class Batches:
    """Batches of the images at `indices`, resized to `size` pixels and normalized.

    With `augment`, images are cropped (to a share `crop_scale` of their area), mirrored and changed
    in brightness, contrast and saturation by up to `jitter`. With `shuffle` (default: where they
    are augmented) they come in another order every epoch. A batch is a function of (seed, epoch,
    batch index) and nothing else: neither the number of workers nor where an epoch is entered
    changes it. `workers` is the number of processes that decode image files; images in memory are
    handled at once, in this process. Of several `ranks` each gets its own part of every batch, the
    same images as one process would have there.

    Raises ValueError for sizes that make no batch and for indices outside of `images`.
    """

    def __init__(
        self,
        images: Images,
        indices: np.ndarray,
        *,
        batch: int,
        size: int,
        mean: Sequence[float],
        std: Sequence[float],
        seed: int,
        augment: bool,
        shuffle: bool | None = None,
        workers: int = 0,
        drop_last: bool,
        crop_scale: tuple[float, float] | None = None,
        jitter: float = 0.4,
        ranks: Ranks = ALONE,
    ) -> None:
        if crop_scale is None:
            in_memory = isinstance(images, ArrayImages)
            crop_scale = ARRAY_CROP_SCALE if in_memory else FILES_CROP_SCALE
        if batch < 1 or size < 1 or workers < 0:
            raise ValueError(
                f"batch={batch} size={size} workers={workers}: expected batch and size of at "
                "least 1, workers of at least 0"
            )
        if not 0 < crop_scale[0] <= crop_scale[1] <= 1 or not 0 <= jitter <= 1:
            raise ValueError(
                f"crop_scale={crop_scale} jitter={jitter}: expected 0 < low <= high <= 1 and a "
                "jitter from 0 to 1"
            )
        if len(mean) != 3 or len(std) != 3 or min(std) <= 0:
            raise ValueError(f"mean {mean}, std {std}: expected three each, std above 0")
        self.indices = np.array(indices, np.int64)
        if len(self.indices) and not 0 <= self.indices.min() <= self.indices.max() < len(images):
            raise ValueError(f"indices outside of the {len(images)} images")
        self.images, self.batch, self.size = images, batch, size
        self.mean, self.std = tuple(mean), tuple(std)
        self.seed, self.augment, self.workers = _checked_seed(seed), augment, workers
        self.shuffle = augment if shuffle is None else shuffle
        self.crop_scale, self.jitter, self.ranks = crop_scale, jitter, ranks
        self._count = len(self.indices) // batch if drop_last else -(-len(self.indices) // batch)
        if self._count == 0:
            raise ValueError(
                f"{len(self.indices)} images make no batch of {batch}: take a smaller batch or "
                "more images"
            )

    def __len__(self) -> int:
        return self._count

    def epoch(self, epoch: int, start: int = 0) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """The batches of an epoch from batch `start` on.

        Yields images float32 (N, 3, size, size), channels last, and labels int64 (N,); N may be 0
        where several ranks share the rest of a set. Raises
        ValueError for a `start` past the end, and, naming the file, where an image is unreadable.
        Where processes read images, see `reading`.
        """
        if epoch < 0 or not 0 <= start <= len(self):
            raise ValueError(
                f"epoch {epoch} from batch {start} on: expected an epoch of at least 0, and "
                f"0 to {len(self)} for the batch"
            )
        order = self.indices
        if self.shuffle:
            order = np.random.default_rng((self.seed, epoch, _ORDER_STREAM)).permutation(order)
        if isinstance(self.images, ArrayImages):
            return self._from_arrays(self.images, order, epoch, start)
        return self._from_files(self.images, order, epoch, start)

    def _from_arrays(
        self, images: ArrayImages, order: np.ndarray, epoch: int, start: int
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        import torch

        from tfnas import augment

        for index in range(start, len(self)):
            chosen = order[index * self.batch : (index + 1) * self.batch]
            part = self.ranks.part(len(chosen))
            labels = torch.from_numpy(images.labels[chosen[part]])
            pixels = images.pixels[chosen]  # (N, H, W, C)
            if len(labels) == 0:
                batch = torch.empty(0, 3, self.size, self.size)
            elif self.augment:
                batch = augment.augmented_arrays(
                    pixels,
                    self.size,
                    augment.augment_rng(self.seed, epoch, index),
                    crop_scale=self.crop_scale,
                    jitter=self.jitter,
                    part=part,
                )
            else:
                batch = augment.resized_arrays(pixels[part], self.size)
            yield augment.normalized(batch, self.mean, self.std), labels

    def _from_files(
        self, images: FileImages, order: np.ndarray, epoch: int, start: int
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        import torch

        from tfnas import augment

        files = augment.FileBatches(
            paths=tuple(images.paths[i] for i in order),
            batch=self.batch,
            size=self.size,
            seed=self.seed,
            epoch=epoch,
            augment=self.augment,
            crop_scale=self.crop_scale,
            jitter=self.jitter,
            ranks=self.ranks,
        )
        # Its own generator: a loader without one draws from torch's global one.
        loader = torch.utils.data.DataLoader(
            files,
            batch_size=None,
            sampler=range(start, len(self)),
            num_workers=self.workers,
            generator=torch.Generator(),
            collate_fn=augment.as_it_is,
            worker_init_fn=augment.leave_signals_to_parent,
        )
        for index, item in enumerate(loader, start):
            if isinstance(item, str):
                raise ValueError(item)
            batch = torch.from_numpy(item).permute(0, 3, 1, 2).float().div_(255)  # (N, 3, H, W)
            chosen = order[index * self.batch : (index + 1) * self.batch]
            labels = torch.from_numpy(images.labels[chosen[self.ranks.part(len(chosen))]])
            yield augment.normalized(batch, self.mean, self.std), labels


@contextmanager
def reading() -> Iterator[None]:
    """Around a loop over batches: raises OSError if a process that reads images died.

    Torch says so by a RuntimeError out of a signal handler, at whatever the loop is doing then.
    """
    try:
        yield
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise OSError(
            f"a process that reads images ended ({str(error).strip().partition(chr(10))[0]}); "
            "data.workers=0 reads them in the main process"
        ) from None


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
                readers.read_idx(folder, f"{part}-images-idx3-ubyte", 3),
                readers.read_idx(folder, f"{part}-labels-idx1-ubyte", 1),
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
    return _load_cifar("cifar10", readers.CIFAR10, root)


def _load_cifar100(root: str | None, *_: str | None) -> Dataset:
    return _load_cifar("cifar100", readers.CIFAR100, root)


def _load_cifar(name: str, layout: readers.CifarLayout, root: str | None) -> Dataset:
    path = _existing_root(name, root)
    return _of_arrays(name, readers.read_cifar(path, layout), f"python archive {path}")


def _load_npz(root: str | None, *_: str | None) -> Dataset:
    path = _existing_root("npz", root)
    return _of_arrays("npz", read_npz(path), f"numpy archive {path}")


def _of_arrays(name: str, arrays: ImageArrays, origin: str) -> Dataset:
    train = ArrayImages(arrays.train_pixels, arrays.train_labels)
    test = ArrayImages(arrays.test_pixels, arrays.test_labels)
    return _in_memory(name, arrays.classes, train, test, origin)


def _load_folder(root: str | None, *_: str | None) -> Dataset:
    train_folder, test_folder = readers.folder_layout(_existing_root("folder", root))
    classes = readers.class_folders(train_folder)
    train = FileImages(*readers.scan_classes(train_folder, classes))
    if test_folder is None:
        rare = [c for c, n in zip(classes, np.bincount(train.labels), strict=True) if n < 2]
        if rare:
            raise ValueError(
                f"{train_folder}: one image only in {readers.some(rare)}; expected two or more a "
                "class, or train/ and val/ folders, since a test set must be split off"
            )
        kept, held_out = stratified_split(train.labels, FOLDER_TRAIN_FRACTION, FOLDER_SEED)
        train, test = train.take(kept), train.take(held_out)
        origin = f"class folders in {train_folder}, no val/ or test/: a fixed stratified 80/20"
    else:
        test_classes = readers.class_folders(test_folder)
        if test_classes != classes:
            raise ValueError(
                f"{train_folder} and {test_folder} must hold the same classes; only in one of "
                f"them: {readers.some(sorted(set(classes) ^ set(test_classes)))}"
            )
        test = FileImages(*readers.scan_classes(test_folder, classes))
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
    return FileImages(*readers.read_list(Path(given).expanduser(), _existing_root("list", root)))


def _classes_of(labels: np.ndarray, train_list: str | None) -> int:
    used = np.unique(labels)
    count = int(used[-1]) + 1
    if len(used) != count:
        unused = np.setdiff1d(np.arange(min(count, len(used) + 10)), used)
        raise ValueError(
            f"{train_list}: labels up to {count - 1} but no image with label "
            f"{readers.some(unused.tolist())}; number the classes from 0 without gaps"
        )
    return count


def _count_folder(root: str | None, train_list: str | None) -> int:
    return len(readers.class_folders(readers.folder_layout(_existing_root("folder", root))[0]))


def _count_list(root: str | None, train_list: str | None) -> int:
    return _classes_of(_listed("train_list", train_list, root).labels, train_list)


@dataclass(frozen=True)
class _Source:
    load: Callable[[str | None, str | None, str | None], Dataset]
    count: Callable[[str | None, str | None], int]


SOURCES = {
    "fashion_mnist": _Source(_load_fashion_mnist, lambda *_: len(FASHION_MNIST_CLASSES)),
    "cifar10": _Source(_load_cifar10, lambda *_: readers.CIFAR10.classes),
    "cifar100": _Source(_load_cifar100, lambda *_: readers.CIFAR100.classes),
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
    from tfnas import augment

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


def _check_labels(labels: np.ndarray, count: int) -> None:
    if labels.dtype != np.int64 or labels.shape != (count,):
        raise ValueError(f"labels {labels.dtype} {labels.shape}: expected int64 ({count},)")


def _checked_seed(seed: int) -> int:
    if seed < 0:
        raise ValueError(f"seed {seed}: expected 0 or more")
    return seed
