"""Images of one channel, three or any other number reach a net as it takes them, or are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tfnas.data import augment
from tfnas.data.batches import Batches
from tfnas.data.images import ArrayImages, Dataset, Images, data_set
from tfnas.data.preprocess import Preprocess
from tfnas.data.sets import load_images


def arrays(channels: int, count: int = 12) -> ArrayImages:
    pixels = np.random.default_rng(channels).integers(0, 256, (count, 8, 10, channels), np.uint8)
    return ArrayImages(pixels, np.arange(count) % 2)


def dataset(channels: int) -> Dataset:
    return data_set("some", ("a", "b"), arrays(channels), arrays(channels), "made up")


def fed(images: Images, channels: int, **changes: Any) -> torch.Tensor:
    """All images in one batch that is not normalized."""
    mean, std = (0.0,) * channels, (1.0,) * channels
    given = {"size": 8, "augment": False, "shuffle": False, **changes}
    batches = Batches(
        images, np.arange(len(images)), batch=len(images), mean=mean, std=std, seed=0,
        drop_last=False, **given,
    )  # fmt: skip
    ((batch, _),) = batches.epoch(0)
    assert batch.is_contiguous(memory_format=torch.channels_last)
    return batch


@pytest.mark.parametrize("augment", [False, True])
def test_gray_images_stay_gray(augment: bool) -> None:
    alone, as_rgb = (fed(arrays(1), channels, augment=augment) for channels in (1, 3))
    assert alone.shape == (12, 1, 8, 8)
    assert torch.equal(alone.expand_as(as_rgb), as_rgb)


def test_rgb_becomes_gray_as_pillow_makes_it() -> None:
    images = arrays(3)
    images = ArrayImages(images.pixels[:, :, :8], images.labels)
    found = fed(images, 1)
    for gray, pixels in zip(found, images.pixels, strict=True):
        wanted = np.asarray(Image.fromarray(pixels).convert("L"))
        assert np.abs(255 * gray[0].numpy() - wanted).max() <= 0.5001


@pytest.mark.parametrize("channels", [2, 5])
def test_other_channels_are_fed_as_they_are(channels: int) -> None:
    images = arrays(channels)
    images = ArrayImages(images.pixels[:, :, :8], images.labels)
    wanted = torch.from_numpy(images.pixels).permute(0, 3, 1, 2) / 255
    assert torch.allclose(fed(images, channels), wanted)
    assert fed(images, channels, augment=True).shape == (12, channels, 8, 8)


@pytest.mark.parametrize("channels", [1, 2, 3, 5])
def test_colours_change_in_what_there_is_of_them(channels: int) -> None:
    """Plain images have no contrast but between channels, which is saturation."""
    levels = np.linspace(100, 140, channels).astype(np.uint8)
    pixels = np.broadcast_to(levels, (32, 8, 8, channels))
    rng = np.random.default_rng(0)
    found = augment.augmented_arrays(pixels, 8, rng, crop_scale=(1, 1), jitter=0.2)
    brightness = found.mean((1, 2, 3)) / (float(levels.mean()) / 255)
    assert 0.79 < brightness.min() < 0.9
    assert 1.1 < brightness.max() < 1.21
    assert len(brightness.unique()) == 32
    if channels == 3:
        spread = (found[:, 2] - found[:, 0]).mean((1, 2)) / brightness
        assert spread.std() > 0.02  # contrast and saturation; without the latter it is less


@pytest.mark.parametrize("augmented", [False, True])
def test_files_are_read_as_gray(tmp_path: Path, augmented: bool) -> None:
    rng = np.random.default_rng(0)
    for part in ("train", "val"):
        for name in ("ant", "bee"):
            folder = tmp_path / part / name
            folder.mkdir(parents=True)
            for number in range(2):
                pixels = rng.integers(0, 256, (20, 30, 3), np.uint8)
                Image.fromarray(pixels).save(folder / f"{number}.png")
    images = load_images("folder", root=str(tmp_path)).train
    gray, rgb = (
        fed(images, channels, augment=augmented, jitter=0.0, crop_scale=(0.5, 1.0))
        for channels in (1, 3)
    )
    assert gray.shape == (4, 1, 8, 8)
    luma = (rgb * torch.tensor(augment.LUMA).view(1, 3, 1, 1)).sum(1, keepdim=True)
    assert (gray - luma).abs().max() < 2 / 255
    jittered = fed(images, 1, augment=True, jitter=0.4, workers=1)
    assert jittered.shape == gray.shape


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "LA", "1", "RGB"])
def test_image_modes_become_gray(tmp_path: Path, mode: str) -> None:
    path = str(tmp_path / ("x.jpg" if mode == "CMYK" else "x.png"))
    options: dict[str, Any] = {"transparency": bytes([0, 9, 255])} if mode == "P" else {}
    Image.new("RGB", (20, 30), (200, 100, 50)).convert(mode).save(path, **options)
    for rng in (None, np.random.default_rng(0)):
        image = augment.read_file(path, 8, rng, crop_scale=(1, 1), jitter=0.1, gray=True)
        assert image.shape == (8, 8, 1)
        assert image.dtype == np.uint8


def test_a_set_tells_its_channels_and_how_it_is_fed() -> None:
    assert [dataset(channels).channels for channels in (1, 2, 3, 5)] == [3, 2, 3, 5]
    gray, rgb = dataset(1), dataset(3)
    alone = gray.fed_as(1)
    assert alone.channels == 1
    assert alone.mean == gray.mean[:1] == gray.mean[1:2]
    assert alone.std == gray.std[:1]
    assert alone.identity == gray.identity
    assert alone.fed_as(3).mean == gray.mean
    luma = float(np.dot(augment.LUMA, rgb.mean))
    assert rgb.fed_as(1).mean == pytest.approx((luma,), abs=1e-4)
    assert rgb.fed_as(3) is rgb


def test_what_a_net_cannot_be_fed_is_refused(tmp_path: Path) -> None:
    for channels, net, expected in (
        (5, 3, "have 5 channels, the net takes 3: expected space.in_channels to be 5"),
        (1, 2, r"1 channel, the net takes 2: .* to be 1 \(gray\) or 3 \(RGB\)"),
        (3, 0, r"3 channels, the net takes 0: .* to be 1 \(gray\) or 3 \(RGB\)"),
    ):
        with pytest.raises(ValueError, match=expected):
            dataset(channels).fed_as(net)
    with pytest.raises(ValueError, match="test images of 4 channels, expected 5"):
        data_set("some", ("a", "b"), arrays(5), arrays(4), "made up")
    with pytest.raises(ValueError, match="for the 5 channels of the images"):
        fed(arrays(5), 3)
    labels = np.arange(4) % 2
    images = {name: np.zeros((4, 6, 6, 4), np.uint8) for name in ("train_images", "test_images")}
    np.savez(tmp_path / "x.npz", train_labels=labels, test_labels=labels, **images)
    assert load_images("npz", root=str(tmp_path / "x.npz")).channels == 4


@pytest.mark.parametrize(("own", "channels"), [(1, 1), (3, 1), (1, 3), (3, 3), (5, 5)])
def test_preparing_is_what_testing_does(own: int, channels: int) -> None:
    images = dataset(own).fed_as(channels)
    assert isinstance(images.test, ArrayImages)
    batches = Batches(
        images.test, np.arange(12), batch=12, size=8, mean=images.mean, std=images.std, seed=0,
        augment=False, drop_last=False,
    )  # fmt: skip
    ((tested, _),) = batches.epoch(0)
    prepare = Preprocess(8, images.mean, images.std)
    for row, pixels in zip(tested, images.test.pixels, strict=True):
        assert torch.equal(prepare(pixels)[0], row)
        if own == 3:
            assert torch.equal(prepare(Image.fromarray(pixels))[0], row)


def test_preparing_refuses_other_channels() -> None:
    five = Preprocess(8, (0.5,) * 5, (0.2,) * 5)
    for image in (np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8), np.uint8)):
        with pytest.raises(ValueError, match=r"expected uint8 \(H, W, 5\)"):
            five(image)
    with pytest.raises(ValueError, match=r"mode RGB for 5 channels: expected uint8 \(H, W, 5\)"):
        five(Image.new("RGB", (8, 8)))
    with pytest.raises(ValueError, match=r"expected uint8 \(H, W, 1 or 3\)"):
        Preprocess(8, (0.5,), (0.2,))(np.zeros((8, 8, 5), np.uint8))
    with pytest.raises(TypeError, match="a Tensor: expected an image of Pillow, a file or"):
        five(torch.zeros(5, 8, 8))  # type: ignore[arg-type]
    gray = Preprocess(8, (0.5,), (0.2,), 0.875)
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    assert torch.equal(gray(pixels), gray(Image.fromarray(pixels)))
    assert gray(pixels).shape == (1, 1, 8, 8)
