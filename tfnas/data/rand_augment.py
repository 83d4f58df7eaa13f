"""RandAugment (arXiv 1909.13719) as timm has it in `rand-m9-mstd0.5`: two operations an image.

Ranges are timm's too, such as the one that posterizes less the larger the magnitude is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

OPERATIONS_PER_IMAGE = 2
PROBABILITY = 0.5  # that an operation is done, once it is chosen
MAGNITUDE_STD = 0.5
LARGEST = 10.0  # magnitude

Fill = int | tuple[int, ...]
Operation = Callable[[Image.Image, float, Fill], Image.Image]
"""Takes an image, a level from 0 to 1 and the colour of what it uncovers."""


def _affine(*matrix: Callable[[Image.Image, float], float] | float) -> Operation:
    """From output to input coordinates; where an element is a function, it is that of the level."""

    def changed(image: Image.Image, level: float, fill: Fill) -> Image.Image:
        values = tuple(m(image, level) if callable(m) else m for m in matrix)
        form, how = Image.Transform.AFFINE, Image.Resampling.BILINEAR
        return image.transform(image.size, form, values, how, fillcolor=fill)

    return changed


def _enhanced(enhancer: Callable[[Image.Image], ImageEnhance._Enhance]) -> Operation:
    return lambda image, level, _: enhancer(image).enhance(0.1 + 1.8 * level)


def _by_value(image: Image.Image, changed: Callable[[int], int]) -> Image.Image:
    return image.point([changed(value) for value in range(256)] * len(image.getbands()))


def _posterize(image: Image.Image, level: float, _: Fill) -> Image.Image:
    bits = int(4 * level)  # none is black, which ImageOps.posterize refuses
    return _by_value(image, lambda value: value & (0xFF00 >> bits))


def _solarize_add(image: Image.Image, level: float, _: Fill) -> Image.Image:
    added = int(110 * level)
    return _by_value(image, lambda value: min(255, value + added) if value < 128 else value)


# Of those that are `SIGNED` the level is -1 to 1.
SIGNED = ("rotate", "shear_x", "shear_y", "translate_x", "translate_y")
OPERATIONS: Mapping[str, Operation] = {
    "auto_contrast": lambda image, *_: ImageOps.autocontrast(image),
    "equalize": lambda image, *_: ImageOps.equalize(image),
    "invert": lambda image, *_: ImageOps.invert(image),
    "rotate": lambda image, level, fill: image.rotate(
        30 * level, Image.Resampling.BILINEAR, fillcolor=fill
    ),
    "posterize": _posterize,
    "solarize": lambda image, level, _: ImageOps.solarize(image, int(256 * level)),
    "solarize_add": _solarize_add,
    "color": _enhanced(ImageEnhance.Color),
    "contrast": _enhanced(ImageEnhance.Contrast),
    "brightness": _enhanced(ImageEnhance.Brightness),
    "sharpness": _enhanced(ImageEnhance.Sharpness),
    "shear_x": _affine(1, lambda _, level: 0.3 * level, 0, 0, 1, 0),
    "shear_y": _affine(1, 0, 0, lambda _, level: 0.3 * level, 1, 0),
    "translate_x": _affine(1, 0, lambda image, level: 0.45 * level * image.width, 0, 1, 0),
    "translate_y": _affine(1, 0, 0, 0, 1, lambda image, level: 0.45 * level * image.height),
}


@dataclass(frozen=True)
class RandAugment:
    """Changes 8-bit images, gray or RGB.

    Attributes:
        magnitude: 0 to 10, the mean of what is drawn for each operation.
        fill: gray or RGB of what is uncovered at the edges.
    """

    magnitude: float
    fill: tuple[int, ...]

    def __call__(self, image: Image.Image, rng: np.random.Generator) -> Image.Image:
        names = tuple(OPERATIONS)
        for index in rng.integers(len(names), size=OPERATIONS_PER_IMAGE):
            if rng.random() >= PROBABILITY:
                continue
            drawn = min(max(rng.normal(self.magnitude, MAGNITUDE_STD), 0.0), LARGEST)
            negative = names[index] in SIGNED and rng.random() < 0.5
            level = (-drawn if negative else drawn) / LARGEST
            fill = self.fill[0] if image.mode == "L" else self.fill
            image = OPERATIONS[names[index]](image, level, fill)
        return image
