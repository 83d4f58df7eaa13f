"""One image as the network that was trained takes it: what testing does, for users."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from PIL import Image

from tfnas.data.augment import cropped_centre, normalized, resized_arrays, upright
from tfnas.data.images import Triple


@dataclass(frozen=True)
class Preprocess:
    """Resizes, crops and normalizes as the test set was when accuracy was measured.

    Attributes:
        resolution: pixels of the result, height = width.
        mean, std: of RGB in 0..1.
        crop_fraction: part of the shorter side that is kept; 1: the whole image is resized.
    """

    resolution: int
    mean: Triple
    std: Triple
    crop_fraction: float = 1.0

    interpolation: ClassVar[str] = "bilinear"  # with antialiasing where it shrinks

    def __call__(self, image: Image.Image | np.ndarray | str | Path) -> torch.Tensor:
        """Make the network's input, float32 (1, 3, R, R), of one image, turned as its EXIF says.

        Args:
            image: an image of Pillow, a file, or uint8 (H, W) or (H, W, 1 or 3).

        Raises:
            ValueError: for an array of another type or shape.
            OSError: for a file that can't be read.
        """
        if isinstance(image, str | Path):
            with Image.open(image) as opened:
                return self(opened)
        if isinstance(image, np.ndarray):
            pixels = image[..., None] if image.ndim == 2 else image
            if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] not in (1, 3):
                raise ValueError(
                    f"an image {image.dtype} {image.shape}: expected uint8 (H, W) or (H, W, 1 or 3)"
                )
        elif self.crop_fraction < 1:
            pixels = cropped_centre(upright(image), self.resolution, self.crop_fraction)
        else:
            image = upright(image)
            gray = image.mode in ("1", "L")
            pixels = np.array(image.convert("L" if gray else "RGB"))
            pixels = pixels[..., None] if gray else pixels
        if isinstance(image, np.ndarray) and self.crop_fraction < 1:
            rgb = np.repeat(pixels, 3 // pixels.shape[2], axis=2)
            pixels = cropped_centre(Image.fromarray(rgb), self.resolution, self.crop_fraction)
        # The centre has its size by now; resizing leaves it as it is.
        return normalized(resized_arrays(pixels[None], self.resolution), self.mean, self.std)
