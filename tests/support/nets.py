"""Small nets and few images for tests."""

from __future__ import annotations

import random
from dataclasses import replace
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
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                torch.nn.init.uniform_(module.weight, 0.5, 1.5)
                torch.nn.init.normal_(module.bias)
                assert module.running_mean is not None
                assert module.running_var is not None
                torch.nn.init.normal_(module.running_mean)
                torch.nn.init.uniform_(module.running_var, 0.5, 2.0)
            elif isinstance(module, torch.nn.Conv2d):
                torch.nn.init.kaiming_normal_(module.weight)
    return network.eval()
