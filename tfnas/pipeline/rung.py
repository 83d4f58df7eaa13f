"""One training of the finals, up to a cut: a job that other processes can do as well.

A job is a function of paths and plain values. What it came to lies in its folder, so that a job
that is done again has nothing left to do.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tfnas.app.data import load_data
from tfnas.app.schemas import DataConfig
from tfnas.data.images import Dataset, first_per_class, stratified_split
from tfnas.files import checkpoint
from tfnas.files.atomic import write_atomically
from tfnas.files.decode import Fraction, encode, load
from tfnas.process.errors import DivergedError, StoppedError
from tfnas.process.progress import heartbeat
from tfnas.runs.folder import RunFolder
from tfnas.runs.result import MAX_BYTES
from tfnas.space.subnet import Subnet
from tfnas.strategies.parts.halving import Judged
from tfnas.training.loop import CHECKPOINT, EpochResult, Training
from tfnas.training.recipe import Recipe

log = logging.getLogger(__name__)

CURVE = "curve.json"
START = "start.safetensors"  # the supernet's weights, where a training starts from them
HEADER = {"format": "tfnas.curve/1"}


@dataclass(frozen=True)
class Split:
    """Which images the finals train on and which they judge on, as plain values.

    Judged on are those that the search held out for its architecture, so that no weights, the
    supernet's neither, have seen them. All others may be trained on. The test set stays out of it.

    Attributes:
        data: a `DataConfig`, as it can be hashed.
        searched: the most training images that the search took; None: all.
        trained: the most to train on; None: all.
        held_out: fraction of the search's images.
    """

    data: tuple[tuple[str, Any], ...]
    searched: int | None
    trained: int | None
    held_out: float
    seed: int


@dataclass(frozen=True)
class Job:
    """A training up to a cut.

    Attributes:
        folder: of the training: its subnet lies there.
        until: epochs of the recipe to train, counted from the start.
        stop_file: once it is there, the training is stopped and saved.
        owner: the process that asks for it.
    """

    folder: str
    split: Split
    recipe: Recipe
    until: int
    seed: int
    device: str
    threads: int
    checkpoint_minutes: float
    on_nonfinite: str
    stop_file: str
    owner: int

    @property
    def name(self) -> str:
        return Path(self.folder).name


@dataclass(frozen=True)
class Curve:
    """What a training has come to so far.

    Attributes:
        failed: why it can't go on, if it can't.
    """

    epochs: tuple[EpochResult, ...] = ()
    seconds: float = 0.0
    failed: str | None = None

    @property
    def top1(self) -> tuple[Fraction, ...]:
        return tuple(epoch.accuracy for epoch in self.epochs)

    def judged(self, epochs: int) -> Judged:
        return Judged(self.epochs[epochs - 1].accuracy, self.epochs[epochs - 1].loss)


@dataclass(frozen=True)
class Outcome:
    """How a job ended: done, stopped, or with an error that another try may mend."""

    curve: Curve
    stopped: bool = False
    error: str | None = None


def read_curve(folder: Path) -> Curve:
    """What the training there has come to; nothing where it wasn't begun. Raises ValueError."""
    file = folder / CURVE
    if not file.exists():
        return Curve()
    return load(file, Curve, "curve of a training", MAX_BYTES, HEADER, older=("scores",))


@lru_cache(maxsize=1)  # a process does one job after another
def split_images(split: Split) -> Dataset:
    """The training images as a set of its own, whose test images are those to judge on."""
    limits = (split.searched, split.trained)
    most = None if None in limits else max(n for n in limits if n is not None)
    dataset = load_data(DataConfig(**dict(split.data)), most)
    labels = dataset.train.labels
    searched = np.arange(len(labels))
    if split.searched is not None and split.searched < len(labels):
        searched = first_per_class(labels, split.searched)
    _, held_out = stratified_split(labels[searched], 1 - split.held_out, split.seed)
    judged = searched[held_out]
    rest = np.setdiff1d(np.arange(len(labels)), judged)
    if split.trained is not None and split.trained < len(rest):
        rest = rest[first_per_class(labels[rest], split.trained)]
    return replace(
        dataset,
        train=dataset.train.take(rest),
        test=dataset.train.take(judged),
        origin=(
            f"{dataset.origin}; trained on {len(rest):,} of the training images, "
            f"judged on {len(judged):,} others"
        ),
    )


def run_job(job: Job, stop: Callable[[], bool] | None = None) -> Outcome:
    """Train up to the cut, from where it was left.

    Args:
        stop: see `Training.run`; None: by the job's file alone.

    Raises:
        OSError: in the process that asks for it: if a file can't be read or written. In another one
            that is an outcome.
    """
    alone = os.getpid() != job.owner
    if not alone:
        return _train(job, stop or Path(job.stop_file).exists)
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the owner has it stopped and saved
    try:
        return _train(job, Path(job.stop_file).exists)
    except Exception as error:
        return Outcome(read_curve(Path(job.folder)), error=f"{type(error).__name__}: {error}")


def is_done(job: Job, curve: Curve) -> bool:
    """Whether nothing is left to train up to the cut."""
    return curve.failed is not None or len(curve.epochs) >= job.until


def _train(job: Job, stop: Callable[[], bool]) -> Outcome:
    folder = Path(job.folder)
    curve = read_curve(folder)
    if is_done(job, curve):
        return Outcome(curve)
    torch.set_num_threads(job.threads)
    training = open_training(job)

    def so_far(failed: str | None = None) -> Curve:
        return Curve(tuple(training.history), round(training.seconds, 1), failed)

    def progress() -> tuple[float, str]:
        done = training.epoch + training.batch / len(training.train_batches)
        return done / job.until, f"{job.name}, {training.progress()[1]}"

    mine = os.getpid() == job.owner
    try:
        with heartbeat(log, "finals", progress) if mine else nullcontext():
            training.run(stop, until=job.until)
        curve = so_far()
    except StoppedError:
        return Outcome(so_far(), stopped=True)
    except DivergedError as error:
        curve = so_far(str(error))
    write_atomically(folder / CURVE, encode(curve, HEADER))
    return Outcome(curve)


def open_training(job: Job) -> Training:
    """The job's training, from its checkpoint where there is one."""
    folder = Path(job.folder)
    begun, start = checkpoint.exists(folder / CHECKPOINT), folder / START
    return Training(
        Subnet.load(RunFolder(folder).subnet), split_images(job.split), job.recipe,
        seed=job.seed, out=folder, weights=start if start.is_file() and not begun else None,
        device=job.device, workers=dict(job.split.data)["workers"],
        checkpoint_minutes=job.checkpoint_minutes, on_nonfinite=job.on_nonfinite, resume=begun,
    )  # fmt: skip
