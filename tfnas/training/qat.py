"""Quantization-aware fine-tuning: a trained net learns to lose little in int8.

It trains as its int8 export computes, see `tfnas.nets.fake_quant`, from ranges as a calibration
with the lowest and highest values finds them.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tfnas.data.batches import Batches
from tfnas.data.images import Dataset
from tfnas.nets.blocks import Network
from tfnas.nets.fake_quant import FakeQuantized
from tfnas.space.size import Size
from tfnas.training.recipe import Recipe

CALIBRATING = 512  # training images


def trainable(network: Network, recipe: Recipe) -> Network | FakeQuantized:
    """What is trained: the network itself, or as it is in int8."""
    return FakeQuantized(network, recipe.qat_reduce_range) if recipe.qat else network


def check_start(recipe: Recipe, weights: Path | None) -> None:
    """Raises ValueError where there is nothing to fine-tune."""
    if recipe.qat and weights is None:
        raise ValueError(
            "recipe.qat=true fine-tunes a trained net: give weights=RUN/weights.safetensors, and "
            "another out=FOLDER"
        )


def calibrate(
    model: FakeQuantized, dataset: Dataset, size: Size, batch: int, seed: int, device: torch.device
) -> None:
    """Set the ranges by training images, not augmented, drawn by the seed."""
    chosen = np.random.default_rng(seed).permutation(len(dataset.train))[:CALIBRATING]
    batches = Batches(
        dataset.train, np.sort(chosen), batch=batch, size=size, mean=dataset.mean,
        std=dataset.std, seed=seed, augment=False, drop_last=False,
    )  # fmt: skip
    model.calibrate(_images(batches, device))


def _images(batches: Batches, device: torch.device) -> Iterator[Tensor]:
    for images, _ in batches.epoch(0):
        yield images.to(device)
