"""From stored images to batches of pixels: cropping, resizing, flipping, colour.

Whatever is random comes from the generator that the caller hands in, so that a batch doesn't depend
on who makes it or on what was made before.
"""

from __future__ import annotations

import signal
import stat
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, exp, log, sqrt
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import ExifTags, Image, ImageEnhance, ImageOps

from tfnas.data.images import LUMA
from tfnas.data.pieces import file_of, openable
from tfnas.data.rand_augment import RandAugment
from tfnas.process.ranks import ALONE, Ranks
from tfnas.space.size import Size, sides

EVAL_FRACTION = 224 / 256  # part of the shorter side that evaluation keeps, as for ImageNet
ASPECT = (3 / 4, 4 / 3)  # width / height of a random crop, in proportion to what is made of it
ERASED_AREA, ERASED_ASPECT = (0.02, 1 / 3), (0.3, 1 / 0.3)  # of the image; height / width
ERASING_TRIES = 10  # a rectangle that is longer than the image is drawn anew
_AUGMENT_STREAM, RAND_AUGMENT_STREAM, ERASING_STREAM = 1, 3, 4


def augment_rng(
    seed: int, epoch: int, position: int, stream: int = _AUGMENT_STREAM
) -> np.random.Generator:
    """The generator of one batch (images in memory) or of one image (files) of one epoch.

    Args:
        stream: for what is drawn for each image, whether it lies in memory or in a file.
    """
    return np.random.default_rng((seed, epoch, stream, position))


def leave_signals_to_parent(_worker: int) -> None:
    """For a process that reads images. Ctrl-C goes to all of a terminal's processes, a cluster's
    SIGTERM to all of a job's, and the main one wants to end its step first. It tells this one."""
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)


def as_it_is(item: Any) -> Any:
    """For a loader: arrays go through its pipe. For tensors it opens sockets in the temporary
    folder, and where that folder's name is too long it waits for them for ever."""
    return item


def crop_boxes(
    rng: np.random.Generator,
    count: int,
    height: int,
    width: int,
    scale: tuple[float, float],
    shape: float = 1.0,
) -> np.ndarray:
    """Random crops, float64 (count, 4): left, top, right, bottom in pixels.

    `scale` bounds the cropped share of the area; `shape` is width / height of what is made of the
    crops, which have it but for `ASPECT`. A crop that is too long for the image is clipped
    instead of drawn anew: each crop takes the same four numbers from `rng`.
    """
    area = rng.uniform(*scale, count) * height * width
    aspect = shape * np.exp(rng.uniform(log(ASPECT[0]), log(ASPECT[1]), count))
    crop_width = np.minimum(np.sqrt(area * aspect), width)
    crop_height = np.minimum(np.sqrt(area / aspect), height)
    left = rng.random(count) * (width - crop_width)
    top = rng.random(count) * (height - crop_height)
    return np.stack([left, top, left + crop_width, top + crop_height], axis=1)


def resized_arrays(pixels: np.ndarray, size: Size, gray: bool = False) -> torch.Tensor:
    """uint8 (N, H, W, C) to float32 (N, C, *size) in 0..1, nothing random, nothing cut off.

    Args:
        gray: RGB becomes one channel.
    """
    return F.interpolate(
        _to_float(pixels, gray), sides(size), mode="bilinear", align_corners=False, antialias=True
    )


def augmented_arrays(
    pixels: np.ndarray,
    size: Size,
    rng: np.random.Generator,
    *,
    crop_scale: tuple[float, float],
    jitter: float,
    gray: bool = False,
    part: slice = slice(None),
) -> torch.Tensor:
    """uint8 (N, H, W, C) to float32 (N, C, *size) in 0..1: random crops, flips and colours.

    One pass over the whole batch, with other numbers for each image.

    Args:
        gray: RGB becomes one channel.
        part: only these images are made, as they are among the whole batch.
    """
    count, height, width, _ = pixels.shape
    rows, columns = sides(size)
    boxes = crop_boxes(rng, count, height, width, crop_scale, columns / rows)
    left, top, right, bottom = boxes[part].T
    mirror = np.where(rng.random(count) < 0.5, -1.0, 1.0)[part]
    factors = 1 + jitter * rng.uniform(-1, 1, (3, count, 1, 1, 1))[:, part]
    images = _to_float(pixels[part], gray)  # (N, C, H, W)
    count = len(images)
    theta = np.zeros((count, 2, 3), np.float32)  # output to input coordinates, both in -1..1
    theta[:, 0, 0] = mirror * (right - left) / width
    theta[:, 0, 2] = (left + right) / width - 1
    theta[:, 1, 1] = (bottom - top) / height
    theta[:, 1, 2] = (top + bottom) / height - 1

    # grid_sample reads four neighbours however coarse the grid is: where the image shrinks, sample
    # a finer grid and average, or training would see aliasing that evaluation doesn't have.
    finer = max(1, ceil(min(height / rows, width / columns)))
    grid = F.affine_grid(
        torch.from_numpy(theta), [count, 1, rows * finer, columns * finer], align_corners=False
    )  # (N, rows * finer, columns * finer, 2)
    images = F.grid_sample(images, grid, padding_mode="border", align_corners=False)
    if finer > 1:
        images = F.avg_pool2d(images, finer)
    return _jittered(images, factors)


def rand_augmented(
    images: torch.Tensor, rand_augment: RandAugment, rngs: Sequence[np.random.Generator]
) -> torch.Tensor:
    """RandAugment of float32 (N, C, H, W) in 0..1, in 8 bits a channel."""
    pixels = (images * 255).round_().to(torch.uint8).permute(0, 2, 3, 1).numpy()  # (N, H, W, C)
    changed = [
        np.array(rand_augment(Image.fromarray(each if each.shape[2] == 3 else each[..., 0]), rng))
        for each, rng in zip(pixels, rngs, strict=True)
    ]
    return _to_float(np.stack(changed).reshape(pixels.shape), gray=False)


def erase(images: torch.Tensor, share: float, rngs: Sequence[np.random.Generator]) -> None:
    """Random erasing (arXiv 1708.04896) as timm has it in `remode=pixel`, in place.

    In a `share` of the images, float32 (N, C, H, W) and normalized, one rectangle becomes noise.
    """
    height, width = images.shape[2:]
    for image, rng in zip(images, rngs, strict=True):
        if rng.random() >= share:
            continue
        for _ in range(ERASING_TRIES):
            area = rng.uniform(*ERASED_AREA) * height * width
            aspect = exp(rng.uniform(log(ERASED_ASPECT[0]), log(ERASED_ASPECT[1])))
            rows, columns = round(sqrt(area * aspect)), round(sqrt(area / aspect))
            if rows < height and columns < width:
                top, left = rng.integers(height - rows + 1), rng.integers(width - columns + 1)
                part = image[:, top : top + rows, left : left + columns]
                part.copy_(torch.from_numpy(rng.standard_normal(part.shape, dtype=np.float32)))
                break


def normalized(images: torch.Tensor, mean: Sequence[float], std: Sequence[float]) -> torch.Tensor:
    """(N, C or 1, H, W) in 0..1 to (N, C, H, W) with the C means taken off, channels last."""
    shift = torch.tensor(mean, dtype=torch.float32).view(1, -1, 1, 1)
    scale = torch.tensor(std, dtype=torch.float32).view(1, -1, 1, 1)
    return ((images - shift) / scale).contiguous(memory_format=torch.channels_last)


def check_header(path: str) -> None:
    """Raises ValueError where the file's header isn't that of a usable image; decodes nothing."""
    try:
        _open(path).close()
    except Exception as error:  # Pillow's parsers raise whatever they stumble over
        raise ValueError(_unreadable(path, error)) from error


def check_readable(path: str) -> None:
    """Raises ValueError, saying why, where the file can't be decoded."""
    try:
        with _open(path) as image:
            image.load()
    except Exception as error:  # Pillow's parsers raise whatever they stumble over
        raise ValueError(f"{path} ({error})") from error


def read_file(
    path: str,
    size: Size,
    rng: np.random.Generator | None,
    *,
    crop_scale: tuple[float, float],
    jitter: float,
    rand_augment: RandAugment | None = None,
    gray: bool = False,
) -> np.ndarray:
    """One image file as uint8 (*size, 3), or (*size, 1) if it is to be gray.

    With `rng`: a random crop, flip and colour, then RandAugment if it is given. Without: 7/8 of the
    largest centre of the same proportions, which for a square is resizing the shorter side to size
    * 256 / 224 and cutting the centre out of it. All modes become RGB, or gray, and each image is
    turned as its EXIF says that it is seen.

    Raises ValueError, naming the file, where it can't be read.
    """
    rows, columns = sides(size)
    try:
        with _open(path) as image:
            seen = upright(image)
            if rng is None:
                return cropped_centre(seen, size, EVAL_FRACTION, gray)
            width, height = seen.size
            box = crop_boxes(rng, 1, height, width, crop_scale, columns / rows)[0]
            seen, box = _decoded(seen, box, size, gray)
        seen = seen.resize((columns, rows), Image.Resampling.BILINEAR, box=tuple(box.tolist()))
        if rng.random() < 0.5:
            seen = seen.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        brightness, contrast, saturation = (1 + jitter * rng.uniform(-1, 1, 3)).tolist()
        seen = ImageEnhance.Brightness(seen).enhance(brightness)
        seen = ImageEnhance.Contrast(seen).enhance(contrast)
        if not gray:
            seen = ImageEnhance.Color(seen).enhance(saturation)
        if rand_augment is not None:
            seen = rand_augment(seen, rng)
    except Exception as error:  # Pillow's parsers raise whatever they stumble over
        raise ValueError(_unreadable(path, error)) from error
    return _pixels(seen)


def upright(image: Image.Image) -> Image.Image:
    """The image as its EXIF orientation says that it is seen; itself where that says nothing."""
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # of a damaged EXIF Pillow's parser raises whatever it stumbles over
        return image
    return image if orientation == 1 else ImageOps.exif_transpose(image)


def cropped_centre(image: Image.Image, size: Size, fraction: float, gray: bool) -> np.ndarray:
    """`fraction` of the largest centre with the proportions of `size`, uint8 (*size, 3 or 1)."""
    width, height = image.size
    rows, columns = sides(size)
    shape = columns / rows
    kept = min(width / shape, height) * fraction  # its height
    left, top = (width - kept * shape) / 2, (height - kept) / 2
    box = np.array([left, top, left + kept * shape, top + kept])
    image, box = _decoded(image, box, size, gray)
    return _pixels(
        image.resize((columns, rows), Image.Resampling.BILINEAR, box=tuple(box.tolist()))
    )


@dataclass(frozen=True)
class FileBatches(torch.utils.data.Dataset[np.ndarray | str]):
    """The batches of one epoch of image files, by batch index; what a loading process works on.

    An item is uint8 (N, *size, 3 or 1), or the error text where a file of it can't be read: an
    exception would reach the main process with the trace of the worker as its message.
    """

    paths: tuple[str, ...]  # in the order of the epoch
    batch: int  # images
    size: Size
    seed: int
    epoch: int
    augment: bool
    crop_scale: tuple[float, float]
    jitter: float
    gray: bool
    rand_augment: RandAugment | None = None
    ranks: Ranks = ALONE  # of each batch only this one's part is read

    def __getitem__(self, index: int) -> np.ndarray | str:
        first = index * self.batch
        positions = range(first, min(first + self.batch, len(self.paths)))
        images = []
        for position in positions[self.ranks.part(len(positions))]:
            rng = augment_rng(self.seed, self.epoch, position) if self.augment else None
            try:
                image = read_file(
                    self.paths[position],
                    self.size,
                    rng,
                    crop_scale=self.crop_scale,
                    jitter=self.jitter,
                    rand_augment=self.rand_augment,
                    gray=self.gray,
                )
            except ValueError as error:
                return str(error)
            images.append(image)
        empty = np.empty((0, *sides(self.size), 1 if self.gray else 3), np.uint8)
        return np.stack(images) if images else empty


def _to_float(pixels: np.ndarray, gray: bool) -> torch.Tensor:
    # Of Pillow's, mapped and flipped arrays torch takes only a copy.
    usable = np.require(pixels, requirements=["C", "W"])
    images = torch.from_numpy(usable).permute(0, 3, 1, 2).float().div_(255)  # (N, C, H, W)
    return _gray(images) if gray else images


def _jittered(images: torch.Tensor, factors: np.ndarray) -> torch.Tensor:
    """Brightness, contrast and (RGB only) saturation, times (3, N, 1, 1, 1)."""
    channels = images.shape[1]
    brightness, contrast, saturation = torch.from_numpy(factors.astype(np.float32))
    images = (images * brightness).clamp_(0, 1)
    gray_mean = _gray(images).mean(dim=(2, 3), keepdim=True)  # (N, 1, 1, 1)
    images = torch.lerp(gray_mean, images, contrast).clamp_(0, 1)
    if channels == 3:
        images = torch.lerp(_gray(images), images, saturation).clamp_(0, 1)
    return images


def _gray(images: torch.Tensor) -> torch.Tensor:
    """(N, C, H, W) to (N, 1, H, W): the luminance of RGB, of other channels the mean."""
    channels = images.shape[1]
    if channels == 1:
        return images
    weights = torch.tensor(LUMA if channels == 3 else (1 / channels,) * channels)
    return (images * weights.view(1, -1, 1, 1)).sum(dim=1, keepdim=True)  # (N, 1, H, W)


def _open(path: str) -> Image.Image:
    if not stat.S_ISREG(file_of(path).stat().st_mode):
        raise ValueError("it is no plain file")  # a pipe may wait for ever
    with warnings.catch_warnings():
        # Pillow only warns about an image between one and two times its limit.
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        image = Image.open(openable(path))
    if image.mode == "F" or image.mode.startswith("I"):
        image.close()
        raise ValueError(f"its pixels are of mode {image.mode}, expected 8 bits a channel")
    return image


def _decoded(
    image: Image.Image, box: np.ndarray, size: Size, gray: bool
) -> tuple[Image.Image, np.ndarray]:
    """The image as RGB or gray, and the box in its pixels: a JPEG much larger than needed is
    decoded at a half, a quarter or an eighth, which saves most of the time of decoding."""
    mode = "L" if gray else "RGB"
    width, height = image.size
    crop_width, crop_height = box[2] - box[0], box[3] - box[1]
    rows, columns = sides(size)
    image.draft(mode, (ceil(width * columns / crop_width), ceil(height * rows / crop_height)))
    scale = np.array([image.width / width, image.height / height] * 2)
    box = np.clip(box * scale, 0, [image.width, image.height] * 2)
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert(mode), box


def _pixels(image: Image.Image) -> np.ndarray:
    """Of an image of RGB or gray, uint8 (H, W, 3 or 1)."""
    pixels = np.array(image, dtype=np.uint8)
    return pixels if pixels.ndim == 3 else pixels[..., None]


def _unreadable(path: str, error: Exception) -> str:
    return (
        f"{path}: not readable as an image ({error}); replace the file, and what was interrupted "
        "goes on; without it it's another set, which takes a training of its own"
    )
