"""One image as the network that was trained takes it: what testing does, for users."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from PIL import Image

from tfnas.data.augment import cropped_centre, normalized, resized_arrays, upright
from tfnas.data.images import INTERCHANGEABLE, PerChannel
from tfnas.space.size import Size


@dataclass(frozen=True)
class Preprocess:
    """Resizes, crops and normalizes as the test set was when accuracy was measured.

    Attributes:
        resolution: of the result.
        mean, std: in 0..1, of each channel of the result: of RGB, of gray, or of others.
        crop_fraction: part that is kept of the largest centre with the result's proportions, each
            way; 1: the whole image is resized.
    """

    resolution: Size
    mean: PerChannel
    std: PerChannel
    crop_fraction: float = 1.0

    interpolation: ClassVar[str] = "bilinear"  # with antialiasing where it shrinks

    def __call__(self, image: Image.Image | np.ndarray | str | Path) -> torch.Tensor:
        """Make the network's input, float32 (1, C, H, W), of one image, turned as its EXIF says.

        Args:
            image: an image of Pillow, a file, or uint8 (H, W) or (H, W, C). A network of gray
                images or RGB takes both; one of other channels takes arrays with just these.

        Raises:
            ValueError: for an array of another type or shape, and for an image or file where the
                network's channels are neither gray nor RGB.
            TypeError: for what is no image, such as a tensor or a list of images.
            OSError: for a file that can't be read.
        """
        if isinstance(image, str | Path):
            with Image.open(image) as opened:
                return self(opened)
        if not isinstance(image, Image.Image | np.ndarray):
            kind = type(image).__name__
            raise TypeError(f"a {kind}: expected an image of Pillow, a file or a uint8 array")
        channels = len(self.mean)
        gray, usual = channels == 1, channels in INTERCHANGEABLE
        expected = f"expected uint8 (H, W, {'1 or 3' if usual else channels})"
        if isinstance(image, np.ndarray):
            pixels = image[..., None] if image.ndim == 2 else image
            known = INTERCHANGEABLE if usual else {channels}
            if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] not in known:
                raise ValueError(f"an image {image.dtype} {image.shape}: {expected}")
        elif not usual:
            raise ValueError(f"an image of mode {image.mode} for {channels} channels: {expected}")
        elif self.crop_fraction < 1:
            pixels = cropped_centre(upright(image), self.resolution, self.crop_fraction, gray)
        else:
            image = upright(image)
            mode = "L" if image.mode in ("1", "L") else "RGB"
            pixels = np.array(image.convert(mode))
            pixels = pixels[..., None] if mode == "L" else pixels
        if isinstance(image, np.ndarray) and self.crop_fraction < 1:
            rgb = np.repeat(pixels, 3 // pixels.shape[2], axis=2)
            centre = Image.fromarray(rgb)
            pixels = cropped_centre(centre, self.resolution, self.crop_fraction, gray)
        # The centre has its size by now; resizing leaves it as it is.
        return normalized(resized_arrays(pixels[None], self.resolution, gray), self.mean, self.std)
