"""Batches of an image set: order, augmentation, parts of several ranks."""

from __future__ import annotations

import multiprocessing
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

from tfnas.data.images import (
    ARRAY_CROP_SCALE,
    FILES_CROP_SCALE,
    ArrayImages,
    FileImages,
    Images,
    checked_seed,
    feeds,
)
from tfnas.data.rand_augment import RandAugment
from tfnas.process.ranks import ALONE, Ranks
from tfnas.space.size import Size, sides

if TYPE_CHECKING:
    import torch

_ORDER_STREAM = 0  # beside those of tfnas.data.augment


class Batches:
    """Batches of the images at `indices`, resized to `size` and normalized.

    They have as many channels as `mean` has values: gray images are fed as RGB, or RGB as gray.

    With `augment`, images are cropped (to a share `crop_scale` of their area), mirrored and changed
    in brightness, contrast and (RGB only) saturation by up to `jitter`; then by RandAugment of a
    magnitude above 0, and of a share `erasing` of them a rectangle is erased. With `shuffle`
    (default: where they are augmented) they come in another order every epoch. A batch is a
    function of (seed, epoch, batch index) and nothing else: neither the number of workers nor where
    an epoch is entered changes it. `workers` is the number of processes that decode image files;
    images in memory are handled at once, in this process. Of several `ranks` each gets its own part
    of every batch, the same images as one process would have there.

    Raises ValueError for sizes that make no batch and for indices outside of `images`.
    """

    def __init__(
        self,
        images: Images,
        indices: np.ndarray,
        *,
        batch: int,
        size: Size,
        mean: Sequence[float],
        std: Sequence[float],
        seed: int,
        augment: bool,
        shuffle: bool | None = None,
        workers: int = 0,
        drop_last: bool,
        crop_scale: tuple[float, float] | None = None,
        jitter: float = 0.4,
        rand_augment: float = 0.0,
        erasing: float = 0.0,
        ranks: Ranks = ALONE,
    ) -> None:
        if crop_scale is None:
            in_memory = isinstance(images, ArrayImages)
            crop_scale = ARRAY_CROP_SCALE if in_memory else FILES_CROP_SCALE
        if batch < 1 or min(sides(size)) < 1 or workers < 0:
            raise ValueError(
                f"batch={batch} size={size} workers={workers}: expected batch and size of at "
                "least 1, workers of at least 0"
            )
        if not 0 < crop_scale[0] <= crop_scale[1] <= 1 or not 0 <= jitter <= 1:
            raise ValueError(
                f"crop_scale={crop_scale} jitter={jitter}: expected 0 < low <= high <= 1 and a "
                "jitter from 0 to 1"
            )
        if len(mean) != len(std) or not feeds(images, len(mean)) or min(std) <= 0:
            raise ValueError(
                f"mean {mean}, std {std}: expected one each for the {images.channels} channels of "
                "the images, std above 0"
            )
        if rand_augment and len(mean) not in (1, 3):
            raise ValueError(
                f"recipe.rand_augment={rand_augment}: images of {len(mean)} channels, expected "
                "gray or RGB"
            )
        self.indices = np.array(indices, np.int64)
        if len(self.indices) and not 0 <= self.indices.min() <= self.indices.max() < len(images):
            raise ValueError(f"indices outside of the {len(images)} images")
        self.images, self.batch, self.size = images, batch, size
        self.mean, self.std = tuple(mean), tuple(std)
        self.seed, self.augment, self.workers = checked_seed(seed), augment, workers
        self.shuffle = augment if shuffle is None else shuffle
        self.crop_scale, self.jitter, self.ranks = crop_scale, jitter, ranks
        self.rand_augment, self.erasing = rand_augment, erasing
        self._count = len(self.indices) // batch if drop_last else -(-len(self.indices) // batch)
        if self._count == 0:
            raise ValueError(
                f"{len(self.indices)} images make no batch of {batch}: take a smaller batch or "
                "more images"
            )

    def __len__(self) -> int:
        return self._count

    @property
    def gray(self) -> bool:
        """Whether images have one channel, whatever they have where they lie."""
        return len(self.mean) == 1

    def like(self, size: Size, most: int | None = None) -> Batches:
        """The same images at another size, whole batches alone; the first `most` of them."""
        whole = min(len(self.indices) // self.batch, len(self) if most is None else most)
        return Batches(
            self.images, self.indices[: whole * self.batch], batch=self.batch, size=size,
            mean=self.mean, std=self.std, seed=self.seed, augment=self.augment,
            shuffle=self.shuffle, workers=self.workers, drop_last=True,
            crop_scale=self.crop_scale, jitter=self.jitter, rand_augment=self.rand_augment,
            erasing=self.erasing, ranks=self.ranks,
        )  # fmt: skip

    def epoch(self, epoch: int, start: int = 0) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """The batches of an epoch from batch `start` on.

        Yields images float32 (N, channels, *size), channels last, and labels int64 (N,); N may be
        0 where several ranks share the rest of a set. Raises ValueError for a `start` past the end;
        OSError, naming the file, for an unreadable image.
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

        from tfnas.data import augment

        rand_augment = self._rand_augment
        for index in range(start, len(self)):
            chosen = order[index * self.batch : (index + 1) * self.batch]
            part = self.ranks.part(len(chosen))
            labels = torch.from_numpy(images.labels[chosen[part]])
            pixels = images.pixels[chosen]  # (N, H, W, C)
            if len(labels) == 0:
                batch = torch.empty(0, len(self.mean), *sides(self.size))
            elif self.augment:
                batch = augment.augmented_arrays(
                    pixels,
                    self.size,
                    augment.augment_rng(self.seed, epoch, index),
                    crop_scale=self.crop_scale,
                    jitter=self.jitter,
                    gray=self.gray,
                    part=part,
                )
                if rand_augment is not None:
                    rngs = self._rngs(epoch, index, augment.RAND_AUGMENT_STREAM)
                    batch = augment.rand_augmented(batch, rand_augment, rngs)
            else:
                batch = augment.resized_arrays(pixels[part], self.size, self.gray)
            yield self._finished(batch, epoch, index), labels

    def _from_files(
        self, images: FileImages, order: np.ndarray, epoch: int, start: int
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        import torch

        from tfnas.data import augment

        files = augment.FileBatches(
            paths=tuple(images.paths[i] for i in order),
            batch=self.batch,
            size=self.size,
            seed=self.seed,
            epoch=epoch,
            augment=self.augment,
            crop_scale=self.crop_scale,
            jitter=self.jitter,
            rand_augment=self._rand_augment,
            gray=self.gray,
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
        before = set(multiprocessing.active_children())
        items = iter(loader)
        workers = set(multiprocessing.active_children()) - before
        died = False
        try:
            for index, item in enumerate(items, start):
                if isinstance(item, str):
                    raise OSError(item)
                batch = torch.from_numpy(item).permute(0, 3, 1, 2).float().div_(255)  # (N, C, H, W)
                chosen = order[index * self.batch : (index + 1) * self.batch]
                labels = torch.from_numpy(images.labels[chosen[self.ranks.part(len(chosen))]])
                yield self._finished(batch, epoch, index), labels
        except RuntimeError:
            died = True  # one of them: torch's handler would raise again for each that is killed
            raise
        finally:
            del items  # torch waits seconds for each of them, then sends what they ignore
            if not died:
                _end(workers)

    @property
    def _rand_augment(self) -> RandAugment | None:
        if self.rand_augment == 0:
            return None
        return RandAugment(self.rand_augment, tuple(round(255 * mean) for mean in self.mean))

    def _finished(self, images: torch.Tensor, epoch: int, index: int) -> torch.Tensor:
        """Normalized, and erased in part where that is asked for."""
        from tfnas.data import augment

        images = augment.normalized(images, self.mean, self.std)
        if self.augment and self.erasing:
            augment.erase(images, self.erasing, self._rngs(epoch, index, augment.ERASING_STREAM))
        return images

    def _rngs(self, epoch: int, index: int, stream: int) -> list[np.random.Generator]:
        """One for each image of this rank's part of a batch."""
        from tfnas.data.augment import augment_rng

        first = index * self.batch
        places = range(first, min(first + self.batch, len(self.indices)))
        part = places[self.ranks.part(len(places))]
        return [augment_rng(self.seed, epoch, place, stream) for place in part]


def _end(workers: set[multiprocessing.process.BaseProcess]) -> None:
    """Kill them; torch's handler would raise for each, wherever the main thread is by then."""
    quiet = hasattr(signal, "SIGCHLD") and threading.current_thread() is threading.main_thread()
    handler = signal.signal(signal.SIGCHLD, signal.SIG_DFL) if quiet else None
    for worker in workers:
        worker.kill()
    for worker in workers:
        worker.join()  # one that is reaped is none that torch asks about
    if quiet:
        signal.signal(signal.SIGCHLD, handler)


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
