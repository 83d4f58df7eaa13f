"""RandAugment: each operation against its definition, at timm's scale of magnitudes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from math import cos, radians, sin

import numpy as np
import pytest
from PIL import Image, ImageFilter, ImageOps

from tfnas.data import rand_augment
from tfnas.data.rand_augment import OPERATIONS, SIGNED, RandAugment

FILL = (10, 20, 30)
SIDE = 20
Expected = Callable[[np.ndarray, float], np.ndarray]


def image(gray: bool) -> Image.Image:
    """With neighbours alike, as in photographs."""
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 256, (5, 5, 3), np.uint8))
    smooth = coarse.resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    return smooth.convert("L") if gray else smooth


def blended(plain: np.ndarray, pixels: np.ndarray, level: float) -> np.ndarray:
    """0.1 of the change at level 0, 1.9 at level 1."""
    return np.clip(plain + (0.1 + 1.8 * level) * (pixels.astype(float) - plain), 0, 255)


def gray_of(pixels: np.ndarray) -> np.ndarray:
    if pixels.ndim == 2:
        return pixels
    luma: np.ndarray = np.round(pixels @ np.array([0.299, 0.587, 0.114]))
    return np.repeat(luma[..., None], 3, axis=2)


def smoothed(pixels: np.ndarray) -> np.ndarray:
    return np.asarray(Image.fromarray(pixels).filter(ImageFilter.SMOOTH), float)


def moved(matrix: Callable[[float], tuple[float, ...]]) -> Expected:
    """Bilinear, by the inverse map about the corner, in coordinates of pixels' edges."""

    def expected(pixels: np.ndarray, level: float) -> np.ndarray:
        a, b, c, d, e, f = matrix(level)
        y, x = np.mgrid[0:SIDE, 0:SIDE] + 0.5
        x, y = a * x + b * y + c, d * x + e * y + f
        outside = (x < 0) | (x >= SIDE) | (y < 0) | (y >= SIDE)
        left, top = np.floor(x - 0.5).astype(int), np.floor(y - 0.5).astype(int)
        along, down = x - 0.5 - left, y - 0.5 - top
        found = np.zeros(pixels.shape)
        for dy, dx in ((0, 0), (0, 1), (1, 0), (1, 1)):
            weight = (down if dy else 1 - down) * (along if dx else 1 - along)
            rows, columns = np.clip(top + dy, 0, SIDE - 1), np.clip(left + dx, 0, SIDE - 1)
            found += weight.reshape(SIDE, SIDE, *[1] * (pixels.ndim - 2)) * pixels[rows, columns]
        found[outside] = FILL if pixels.ndim == 3 else FILL[0]
        return found

    return expected


def rotation(level: float) -> tuple[float, ...]:
    c, s, half = cos(radians(30 * level)), sin(radians(30 * level)), SIDE / 2
    return c, -s, half - c * half + s * half, s, c, half - s * half - c * half


def stretched(pixels: np.ndarray, _: float) -> np.ndarray:
    low, high = pixels.min(axis=(0, 1)), pixels.max(axis=(0, 1))
    found: np.ndarray = (pixels - low.astype(float)) * 255 / (high - low.astype(float))
    return found


EXPECTED: dict[str, Expected] = {
    "auto_contrast": stretched,
    "equalize": lambda p, _: np.asarray(ImageOps.equalize(Image.fromarray(p))),
    "invert": lambda p, _: 255 - p,
    "rotate": moved(rotation),
    "posterize": lambda p, level: p - p.astype(int) % 2 ** (8 - int(4 * level)),
    "solarize": lambda p, level: np.where(p < int(256 * level), p, 255 - p),
    "solarize_add": lambda p, level: np.where(p < 128, np.minimum(p + int(110 * level), 255.0), p),
    "color": lambda p, level: blended(gray_of(p), p, level),
    "contrast": lambda p, level: blended(np.full(p.shape, round(gray_of(p).mean())), p, level),
    "brightness": lambda p, level: blended(np.zeros(p.shape), p, level),
    "sharpness": lambda p, level: blended(smoothed(p), p, level),
    "shear_x": moved(lambda level: (1, 0.3 * level, 0, 0, 1, 0)),
    "shear_y": moved(lambda level: (1, 0, 0, 0.3 * level, 1, 0)),
    "translate_x": moved(lambda level: (1, 0, 0.45 * level * SIDE, 0, 1, 0)),
    "translate_y": moved(lambda level: (1, 0, 0, 0, 1, 0.45 * level * SIDE)),
}


@pytest.mark.parametrize("gray", [False, True])
@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_is_its_definition(name: str, gray: bool) -> None:
    before = image(gray)
    levels = (0.0, 0.3, 0.9, 1.0)
    for level in (*levels, *(-level for level in levels if name in SIGNED)):
        found = OPERATIONS[name](before, level, FILL[0] if gray else FILL)
        assert (found.mode, found.size) == (before.mode, before.size)
        pixels = np.asarray(before)
        away = np.abs(np.asarray(found, float) - EXPECTED[name](pixels, level))
        assert away.max() <= 1.01, f"level {level}"  # it is rounded to 8 bits


def test_they_are_those_of_timm() -> None:
    assert set(EXPECTED) == set(OPERATIONS)
    assert len(OPERATIONS) == 15


def test_each_image_gets_two_operations_half_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[tuple[str, float]] = []

    def recorded(name: str) -> rand_augment.Operation:
        def operation(image: Image.Image, level: float, fill: rand_augment.Fill) -> Image.Image:
            done.append((name, level))
            return image

        return operation

    monkeypatch.setattr(rand_augment, "OPERATIONS", {name: recorded(name) for name in OPERATIONS})
    rng, images = np.random.default_rng(0), 3000
    for _ in range(images):
        RandAugment(9.0, FILL)(image(gray=False), rng)
    assert len(done) / images == pytest.approx(2 * 0.5, abs=0.05)
    counts = Counter(name for name, _ in done)
    assert set(counts) == set(OPERATIONS)
    assert max(counts.values()) < 1.5 * min(counts.values())
    negative = [level < 0 for name, level in done if name in SIGNED]
    assert np.mean(negative) == pytest.approx(0.5, abs=0.06)
    assert all(level >= 0 for name, level in done if name not in SIGNED)
    magnitudes = np.array([10 * abs(level) for _, level in done])
    assert np.median(magnitudes) == pytest.approx(9, abs=0.05)
    assert np.mean(magnitudes < 8.5) == pytest.approx(0.159, abs=0.03)  # one standard deviation
    assert magnitudes.max() <= 10
