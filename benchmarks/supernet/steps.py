"""A search on random images, ready for single steps, and how such steps are timed."""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import numpy as np
import torch
from omegaconf import OmegaConf
from torch import Tensor

from tfnas.app import values
from tfnas.app.values import conf_path
from tfnas.data.batches import Batches
from tfnas.data.images import ArrayImages
from tfnas.derive.architecture import Constraint
from tfnas.derive.menu import feasible
from tfnas.latency.table import Device, LatencyTable, Measurement
from tfnas.pipeline.inputs import make_strategy
from tfnas.space.search_space import SearchSpace
from tfnas.space.size import sides
from tfnas.strategies.contract import Budget, Task
from tfnas.strategies.tfnas import TFNAS, Search

CLASSES = 100  # as ImageNet-100 of the paper
QUANTUM = 16  # of widths, as in the shipped table
WIDTHS = ("initial", "scaled")
MIB = 2**20


def positive(text: str) -> int:
    """An argument of the command line."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a whole number above 0")
    return int(text)


def space_name(text: str) -> str:
    """An argument of the command line: a file of conf/space/."""
    try:
        load_space(text)
    except LookupError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text


def new_file(text: str) -> Path:
    """An argument of the command line: a file in a folder that is there."""
    path = Path(text)
    if not path.absolute().parent.is_dir():
        raise argparse.ArgumentTypeError(f"{text}: there is no folder {path.parent}")
    return path


def run(main: Callable[[], int]) -> NoReturn:
    """A benchmark's command: what it can't do with its arguments is one line, and exit 2."""
    try:
        status = main()
    except (ValueError, LookupError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        status = 2
    sys.exit(status)


def load_space(name: str) -> SearchSpace:
    return values.load_space(name, CLASSES).build(QUANTUM)


def made_up_table(space: SearchSpace) -> LatencyTable:
    """Latencies that grow with multiply-adds: steps take as long whatever they are."""
    device = Device("cpu", "made up", "none", "fp32", 1, 1, "made-up", {}, space.quantum)
    rows = {op: Measurement(0.002 + op.macs / 5e7, float("nan"), 1) for op in space.ops()}
    return LatencyTable(device, rows)


def random_batches(count: int, resolution: int, batch: int, augment: bool) -> Batches:
    """`count` batches of noise, held in memory."""
    rng = np.random.default_rng(0)
    n = count * batch
    pixels = rng.integers(0, 256, (n, resolution, resolution, 3), np.uint8)
    images = ArrayImages(pixels, rng.integers(0, CLASSES, n))
    return Batches(
        images, np.arange(n), batch=batch, size=resolution, mean=(0.5,) * 3, std=(0.29,) * 3,
        seed=0, augment=augment, shuffle=True, drop_last=True,
    )  # fmt: skip


def random_task(
    space: SearchSpace, resolution: int, batch: int, batches: int = 2, epochs: int = 1
) -> Task:
    """A search with the paper's knobs on noise, in epochs of so many `batches`."""
    train = random_batches(batches, resolution, batch, augment=True)
    held_out = random_batches(1, resolution, batch, augment=False)
    return new_task(space, train, held_out, epochs)


def new_task(
    space: SearchSpace,
    train: Batches,
    held_out: Batches,
    epochs: int,
    channel_factor: float = 1.0,
    seed: int = 0,
) -> Task:
    """A search for a target in the middle of its range, by a made-up table."""
    table = made_up_table(space)
    low, high = feasible(space, table)
    shorter = min(sides(train.size))
    budget = Budget("benchmark", epochs, 0, train.batch, None, shorter, channel_factor, False, 0.2)
    return Task(
        space=space,
        constraints=(Constraint(table, (low + high) / 2),),
        train=train,
        held_out=held_out,
        budget=budget,
        seed=seed,
        derive="constrained",
        device=torch.device("cpu"),
    )


def paper_knobs(**changed: object) -> TFNAS:
    """conf/strategy/tfnas.yaml."""
    values = OmegaConf.to_container(OmegaConf.load(Path(conf_path()) / "strategy" / "tfnas.yaml"))
    assert isinstance(values, dict)
    strategy = make_strategy({str(k): v for k, v in (values | changed).items()}, "constrained")
    assert isinstance(strategy, TFNAS)
    return strategy


def new_search(task: Task, widths: str = "initial") -> Search:
    """A search at its start.

    Args:
        widths: `scaled` gives every op a random width of its range, where scaling moves ops to.
    """
    search = Search(paper_knobs(), task)
    if widths == "scaled":
        rng = random.Random(0)
        search.widths = [
            [rng.choice(choice.widths) for choice in block] for block in task.space.blocks
        ]
        search.refresh_latencies()
    return search


def one_batch(task: Task) -> tuple[Tensor, Tensor]:
    return next(task.held_out.epoch(0))


@contextmanager
def precision(dtype: torch.dtype) -> Iterator[None]:
    """What is built inside computes in it."""
    before = torch.get_default_dtype()
    try:
        torch.set_default_dtype(dtype)
        yield
    finally:
        torch.set_default_dtype(before)


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def rounds(
    arms: Sequence[Callable[[int], object]], repeats: int, seed: int = 0
) -> np.ndarray:  # (repeats, arms) seconds
    """Wall time of every arm in every round, in another order each round.

    An arm is called with the number of the round; round -1 warms up and isn't timed.
    """
    for arm in arms:
        arm(-1)
    rng, table = random.Random(seed), np.empty((repeats, len(arms)))
    for index in range(repeats):
        for which in rng.sample(range(len(arms)), len(arms)):
            table[index, which] = seconds(lambda arm=arms[which], i=index: arm(i))
    return table


@dataclass(frozen=True)
class Ratio:
    """Of two arms timed in the same rounds.

    Attributes:
        median: of each round's ratio.
        low, high: its 95 % interval, by resampling rounds; the extremes below six rounds.
    """

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, above: np.ndarray, below: np.ndarray) -> Ratio:
        ratios = above / below
        if len(ratios) < 6:
            return cls(float(np.median(ratios)), float(ratios.min()), float(ratios.max()))
        drawn = np.random.default_rng(0).choice(ratios, (2000, len(ratios)))
        low, high = np.percentile(np.median(drawn, axis=1), (2.5, 97.5))
        return cls(float(np.median(ratios)), float(low), float(high))

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.low:.2f} to {self.high:.2f})"


def quartiles(values: np.ndarray) -> tuple[float, float, float]:
    low, middle, high = np.percentile(values, (25, 50, 75))
    return float(low), float(middle), float(high)


def peak_bytes() -> int:
    """The most memory that this process has held so far.

    Not `getrusage`: what it tells starts from the size of the process that started this one.
    """
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.partition("VmHWM:")[2].split()[0])


def in_fresh_process(module: str, *arguments: object) -> str:
    """What `python -m module arguments` prints.

    Raises:
        RuntimeError: with what it said, where it failed.
    """
    command = [sys.executable, "-m", module, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}: {done.stderr}")
    return done.stdout
