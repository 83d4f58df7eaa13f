"""python -m benchmarks.quality.make_fashion_mnist_cut FOLDER_WITH_THE_FOUR_IDX_FILES

Makes `tfnas/assets/fashion_mnist_cut.npz` from the full Fashion-MNIST: the first 1,200 training
and the first 300 test images of every class, in their original order, losslessly compressed."""

from __future__ import annotations

import argparse
import hashlib
from pathlib import Path

import numpy as np

from tfnas.data.idx import ASSETS
from tfnas.data.images import ArrayImages, first_per_class
from tfnas.data.sets import load_images

TRAIN_IMAGES, TEST_IMAGES = 12_000, 3_000


def cut(images: object, total: int) -> tuple[np.ndarray, np.ndarray]:
    """First-come, class-balanced `total` images: pixels uint8 (total, 28, 28), labels uint8."""
    if not isinstance(images, ArrayImages):
        raise ValueError("expected images in memory; give the folder of the idx files")
    kept = images.take(first_per_class(images.labels, total))
    return kept.pixels[..., 0], kept.labels.astype(np.uint8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("root", help="folder of the idx files, e.g. that of Debian's package")
    parser.add_argument("--out", type=Path, default=ASSETS / "fashion_mnist_cut.npz")
    arguments = parser.parse_args()

    full = load_images("fashion_mnist", root=arguments.root)
    train_pixels, train_labels = cut(full.train, TRAIN_IMAGES)
    test_pixels, test_labels = cut(full.test, TEST_IMAGES)
    np.savez_compressed(
        arguments.out,
        train_pixels=train_pixels,
        train_labels=train_labels,
        test_pixels=test_pixels,
        test_labels=test_labels,
    )
    digest = hashlib.sha256()
    for array in (train_pixels, train_labels, test_pixels, test_labels):
        digest.update(array.tobytes())
    size_mb = arguments.out.stat().st_size / 1e6
    print(f"{arguments.out}: {size_mb:.1f} MB, sha256 of the arrays {digest.hexdigest()}")


if __name__ == "__main__":
    main()
