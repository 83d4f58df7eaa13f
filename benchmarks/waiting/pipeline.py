"""python -m benchmarks.waiting.pipeline [--images 256] [--workers 0 1 2] [--resolution 224]

Does the data keep up with the steps that use it? A folder of large JPEGs, decoded and augmented as
for a search, in images a second against those that a weight step of `--resolution` pixels takes in;
and the share of a weight step that a batch of images in memory costs.

The JPEGs are synthetic: colour gradients with noise, 500 x 400 pixels, about as many bytes as
photographs of that size. They are written into a temporary folder.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from benchmarks.supernet import steps
from tfnas.data.batches import Batches
from tfnas.data.sets import load_images

WIDTH, HEIGHT = 500, 400  # the mean size of ImageNet's photographs is about 470 x 390
CLASSES = 4
NOISE = 12  # standard deviation, of 255


def write_images(root: Path, count: int) -> int:
    """A folder that `load_images` reads, half for training; bytes of a file, mean."""
    rng = np.random.default_rng(0)
    across, down = np.meshgrid(np.linspace(0, 1, WIDTH), np.linspace(0, 1, HEIGHT))
    total = 0
    for index in range(count):
        slopes = rng.uniform(-160, 160, (2, 3))
        pixels = 128 + across[..., None] * slopes[0] + down[..., None] * slopes[1]
        pixels = pixels + rng.normal(0, NOISE, pixels.shape)
        for part in ("train", "val"):
            folder = root / part / f"class_{index % CLASSES}"
            folder.mkdir(parents=True, exist_ok=True)
            file = folder / f"{index}.jpg"
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(file, quality=90)
            total += file.stat().st_size
    return total // (2 * count)


def images_per_second(batches: Batches, epochs: int) -> float:
    """After the first batch, which waits for the processes to start; the epochs follow each other
    as in a search."""
    stream: Iterator[object] = itertools.chain.from_iterable(
        batches.epoch(epoch) for epoch in range(epochs)
    )
    next(stream)
    start = time.perf_counter()
    count = sum(1 for _ in stream)
    return count * batches.batch / (time.perf_counter() - start)


def folder_batches(root: Path, resolution: int, batch: int, workers: int) -> Batches:
    dataset = load_images("folder", root=str(root))
    return Batches(
        dataset.train, np.arange(len(dataset.train)), batch=batch, size=resolution,
        mean=dataset.mean, std=dataset.std, seed=0, augment=True, workers=workers, drop_last=True,
    )  # fmt: skip


def weight_step_seconds(space: str, resolution: int, batch: int, repeats: int) -> float:
    """Median."""
    task = steps.random_task(steps.load_space(space), resolution, batch, batches=1)
    search = steps.new_search(task)
    x, y = steps.one_batch(task)
    taken = steps.rounds([lambda _: search.weight_step(x, y, search.paths(single=False))], repeats)
    return float(np.median(taken))


def in_memory_seconds(resolution: int, batch: int, repeats: int) -> float:
    """Of one augmented batch of images that are stored at that very size; median."""
    batches = steps.random_batches(repeats + 1, resolution, batch, augment=True)
    stream = batches.epoch(0)
    return float(np.median(steps.rounds([lambda _: next(stream)], repeats)))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--space", default="tfnas", type=steps.space_name, help="a file of conf/space/"
    )
    parser.add_argument("--images", type=steps.positive, default=256)
    parser.add_argument(
        "--workers", type=int, nargs="+", choices=range(17), default=[0, 1, 2], metavar="N"
    )
    parser.add_argument(
        "--resolution", type=steps.positive, default=224, help="of images from files"
    )
    parser.add_argument(
        "--in-memory", type=steps.positive, nargs="+", default=[32, 64], help="pixels"
    )
    parser.add_argument("--batch", type=steps.positive, default=32)
    parser.add_argument("--threads", type=steps.positive, default=2, help="of the step")
    parser.add_argument("--repeats", type=steps.positive, default=5)
    args = parser.parse_args(arguments)
    torch.set_num_threads(args.threads)
    step = weight_step_seconds(args.space, args.resolution, args.batch, args.repeats)
    wanted = args.batch / step
    print(f"weight step, {args.resolution} px, {args.threads} threads: {wanted:.1f} images/s")
    with tempfile.TemporaryDirectory() as folder:
        size = write_images(Path(folder), args.images)
        print(f"{args.images} synthetic JPEGs of {WIDTH} x {HEIGHT}, {size / 1024:.0f} KiB each")
        for workers in args.workers:
            batches = folder_batches(Path(folder), args.resolution, args.batch, workers)
            reached = images_per_second(batches, epochs=2)
            figure = f"{reached:.1f} images/s, {reached / wanted:.1f} times the step's"
            print(f"folder, augmented, workers={workers}: {figure}", flush=True)
    for resolution in args.in_memory:
        step = weight_step_seconds(args.space, resolution, args.batch, args.repeats)
        batch = in_memory_seconds(resolution, args.batch, args.repeats)
        figure = (
            f"{1e3 * batch:.1f} ms a batch, {batch / step:.2%} of a weight step (wanted: < 3 %)"
        )
        print(f"in memory, augmented, {resolution} px: {figure}", flush=True)
    return 0


if __name__ == "__main__":
    steps.run(main)
