"""Small nets and few images for tests."""

from __future__ import annotations

import atexit
import gzip
import random
import shutil
import struct
import tempfile
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from tests.support.spaces import load_space
from tfnas.data.images import ArrayImages, Dataset, first_per_class
from tfnas.data.sets import load_images
from tfnas.nets.blocks import Network
from tfnas.space.subnet import Subnet


def tiny_subnet(seed: int = 0, classes: int = 10) -> Subnet:
    return load_space("tiny", classes).sample(random.Random(seed))


def few_images(train: int, test: int) -> Dataset:
    """Real images of the shipped cut, balanced over the ten classes."""
    dataset = load_images("fashion_mnist", root="shipped", max_train=train)
    return replace(dataset, test=dataset.test.take(first_per_class(dataset.test.labels, test)))


@cache
def few_root() -> Path:
    """A folder with 400 images to train on and 100 to test on: a recipe tests on all there are."""
    folder = Path(tempfile.mkdtemp(prefix="tfnas-tests-images-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    images = few_images(train=400, test=100)
    for part, split in (("train", images.train), ("t10k", images.test)):
        assert isinstance(split, ArrayImages)
        write_idx(folder / f"{part}-images-idx3-ubyte", split.pixels[..., 0])
        write_idx(folder / f"{part}-labels-idx1-ubyte", split.labels)
    return folder


def write_idx(path: Path, array: np.ndarray) -> None:
    """As Fashion-MNIST's published files; gzipped if it's named so."""
    head = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
    data = head + array.astype(np.uint8).tobytes()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


def image_archive(path: Path, *, train: int, test: int) -> Path:
    """Real images of the shipped cut for `data=npz`."""
    arrays = {}
    images = few_images(train=train, test=test)
    for part, split in (("train", images.train), ("test", images.test)):
        assert isinstance(split, ArrayImages)
        arrays |= {f"{part}_images": split.pixels, f"{part}_labels": split.labels}
    np.savez(path, **arrays)
    return path


def image_folder(root: Path, count: int = 80) -> Path:
    """Real images of the shipped cut as PNG files: train/<class> and val/<class>, four classes."""
    images = few_images(train=400, test=100).train
    assert isinstance(images, ArrayImages)
    for part, start in (("train", 0), ("val", 20)):
        for label in range(4):
            folder = root / part / f"class_{label}"
            folder.mkdir(parents=True)
            for i in np.flatnonzero(images.labels == label)[start : start + count // 4]:
                Image.fromarray(images.pixels[i, :, :, 0]).save(folder / f"{i}.png")
    return root


def random_network(subnet: Subnet, seed: int = 0) -> Network:
    """In eval mode, with batch norms that differ from the identity as those of a trained net do."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = Network(subnet)
        randomize(network)
    return network.eval()


def randomize(module: torch.nn.Module) -> None:
    """Give a module's convolutions and batch norms random values."""
    for layer in module.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(layer.weight, 0.5, 1.5)
            torch.nn.init.normal_(layer.bias)
            assert layer.running_mean is not None
            assert layer.running_var is not None
            torch.nn.init.normal_(layer.running_mean)
            torch.nn.init.uniform_(layer.running_var, 0.5, 2.0)
        elif isinstance(layer, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(layer.weight)
