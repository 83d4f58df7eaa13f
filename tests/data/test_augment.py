"""Random erasing within its bounds, and RandAugment where batches are made."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.support.nets import few_images, image_folder
from tfnas.data.augment import RAND_AUGMENT_STREAM, augment_rng, erase, normalized
from tfnas.data.batches import Batches
from tfnas.data.images import ArrayImages
from tfnas.data.rand_augment import RandAugment
from tfnas.data.sets import load_images

SIDE = 64


def generators(count: int) -> list[np.random.Generator]:
    return [np.random.default_rng(seed) for seed in range(count)]


def test_what_is_erased_is_a_rectangle_within_bounds() -> None:
    images = torch.full((300, 3, SIDE, SIDE), 9.0)
    erase(images, 1.0, generators(300))
    areas, aspects, values = [], [], []
    for image in images:
        changed = (image != 9).all(dim=0)
        rows, columns = changed.any(dim=1).nonzero().ravel(), changed.any(dim=0).nonzero().ravel()
        height, width = (int(x[-1] - x[0]) + 1 for x in (rows, columns))
        assert int(changed.sum()) == height * width
        areas.append(height * width / SIDE**2)
        aspects.append(height / width)
        values.append(image[:, changed].ravel())
    assert 0.018 < min(areas) < 0.03
    assert 0.31 < max(areas) < 0.345
    assert 0.28 < min(aspects) < 0.35
    assert 2.9 < max(aspects) < 3.6
    noise = torch.cat(values)
    assert float(noise.mean()) == pytest.approx(0, abs=0.01)
    assert float(noise.std()) == pytest.approx(1, abs=0.01)


def test_a_share_of_the_images_is_erased() -> None:
    images = torch.zeros(2000, 1, 8, 8)
    erase(images, 0.3, generators(2000))
    assert float((images != 0).flatten(1).any(1).float().mean()) == pytest.approx(0.3, abs=0.04)
    again = torch.zeros(2000, 1, 8, 8)
    erase(again, 0.3, generators(2000))
    assert torch.equal(images, again)


def test_images_in_memory_are_augmented_as_8_bits_at_their_size() -> None:
    data = few_images(train=40, test=10)

    def batch(rand_augment: float) -> torch.Tensor:
        batches = Batches(
            data.train, np.arange(40), batch=20, size=16, mean=data.mean, std=data.std, seed=3,
            augment=True, drop_last=True, jitter=0.0, rand_augment=rand_augment,
        )  # fmt: skip
        return list(batches.epoch(2))[1][0]

    fill = tuple(round(255 * mean) for mean in data.mean)
    changed = RandAugment(9.0, (fill[0], fill[1], fill[2]))
    mean, std = (torch.tensor(x).view(3, 1, 1) for x in (data.mean, data.std))
    for place, (plain, found) in enumerate(zip(batch(0.0), batch(9.0), strict=True), 20):
        gray = ((plain * std + mean) * 255).round().to(torch.uint8)[0].numpy()
        rng = augment_rng(3, 2, place, RAND_AUGMENT_STREAM)
        expected = np.array(changed(Image.fromarray(gray), rng))[None, ..., None]
        pixels = torch.from_numpy(expected).permute(0, 3, 1, 2) / 255
        assert torch.allclose(found, normalized(pixels, data.mean, data.std)[0], atol=1e-5)


def test_files_are_augmented_and_tested_on_as_they_are(tmp_path: Path) -> None:
    data = load_images("folder", root=str(image_folder(tmp_path / "images")))

    def batch(strong: float, augment: bool) -> torch.Tensor:
        batches = Batches(
            data.train, np.arange(40), batch=40, size=16, mean=data.mean, std=data.std, seed=3,
            augment=augment, drop_last=True, rand_augment=10 * strong, erasing=strong,
        )  # fmt: skip
        return next(batches.epoch(0))[0]

    changed = (batch(0.9, True) != batch(0.0, True)).flatten(1).any(1)
    assert 0.7 < float(changed.float().mean()) <= 1
    assert torch.equal(batch(0.9, False), batch(0.0, False))


def test_colour_images_in_memory_keep_their_colours() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (20, 12, 12, 3), np.uint8)
    batches = Batches(
        ArrayImages(pixels, np.arange(20) % 2), np.arange(20), batch=20, size=12,
        mean=(0.5, 0.5, 0.5), std=(0.2, 0.2, 0.2), seed=0, augment=True, drop_last=True,
        rand_augment=9.0,
    )  # fmt: skip
    images, _ = next(batches.epoch(0))
    assert images.shape == (20, 3, 12, 12)
    assert not torch.equal(images[:, 0], images[:, 1])
