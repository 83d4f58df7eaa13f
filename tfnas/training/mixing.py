"""mixup (arXiv 1710.09412) and CutMix (arXiv 1905.04899), one lambda a batch, as timm's `Mixup`."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

_MIXING_STREAM = 5  # beside those of tfnas.data


def mixing_rng(seed: int, step: int) -> np.random.Generator:
    """The generator of one step."""
    return np.random.default_rng((seed, step, _MIXING_STREAM))


def mixed(
    images: Tensor, labels: Tensor, rng: np.random.Generator, *, mixup: float, cutmix: float
) -> tuple[Tensor, Tensor]:
    """Mix a batch with itself in reverse order.

    Args:
        images: (N, C, H, W).
        labels: (N, classes), shares of the classes.
        mixup, cutmix: both parameters of lambda's beta distribution, 0 for none. With both a coin
            is thrown for each batch.
    """
    cuts = cutmix > 0 and (mixup == 0 or rng.random() < 0.5)
    alpha = cutmix if cuts else mixup
    kept = rng.beta(alpha, alpha)  # the papers' lambda
    others = images.flip(0)
    if cuts:
        top, bottom, left, right = _box(rng, kept, *images.shape[2:])
        images = images.clone()
        images[..., top:bottom, left:right] = others[..., top:bottom, left:right]
        kept = 1 - (bottom - top) * (right - left) / images[0, 0].numel()  # the border clips boxes
    else:
        images = torch.lerp(others, images, kept)
    return images, torch.lerp(labels.flip(0), labels, kept)


def _box(
    rng: np.random.Generator, kept: float, height: int, width: int
) -> tuple[int, int, int, int]:
    """Top, bottom, left, right of a box of the image's form with a share 1 - `kept` of its area,
    its centre anywhere, clipped."""

    def span(size: int) -> tuple[int, int]:
        half, centre = int(size * (1 - kept) ** 0.5) // 2, int(rng.integers(size))
        return max(centre - half, 0), min(centre + half, size)

    return *span(height), *span(width)
