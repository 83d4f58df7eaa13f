"""Spaces whose accuracies are known without a training: readers of the reference files.

Each reader takes paths and gives a `Problem`: genes with their costs, and an oracle. A net is a
line of item numbers, one for each position, -1 where the position is cut off.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tfnas.derive.uniform import ABSENT
from tfnas.strategies.parts.surrogate import Genes

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

KERNELS = (3, 5, 7)
RATIOS = (3, 4, 6)
OFA_CHANNELS = (16, 24, 40, 80, 112, 160)  # of the first block, then of the five stages
OFA_STRIDES = (2, 2, 2, 1, 2)
OFA_SE = (False, True, False, True, True)
OFA_BLOCKS = 4  # a stage
OFA_LEAST = 2  # blocks that a stage keeps
OFA_SIDE = 224  # px


@dataclass(frozen=True)
class Problem:
    """A space on a device, with the true value of its nets.

    Attributes:
        stages: for each stage, its number of positions and how many of them it keeps at least.
        loads: for each position, the cost of each item (ms).
        fixed: cost of what no gene changes (ms).
        value: gives the true values of nets, in points of accuracy.
    """

    genes: Genes
    stages: tuple[tuple[int, int], ...]
    loads: tuple[Floats, ...]
    fixed: float
    value: Callable[[Ints], Floats]

    def cost(self, nets: Ints) -> Floats:
        """Sum up the costs of nets."""
        total = np.full(len(nets), self.fixed)
        for position, loads in enumerate(self.loads):
            item = nets[:, position]
            total += np.where(item == ABSENT, 0.0, loads[item])
        return total

    def random(self, rng: np.random.Generator, count: int) -> Ints:
        """Draw nets, each gene uniform."""
        columns = [rng.integers(len(loads), size=count) for loads in self.loads]
        nets = np.stack(columns, axis=1)
        first = 0
        for positions, least in self.stages:
            depth = rng.integers(least, positions + 1, size=count)
            cut = np.arange(positions) >= depth[:, None]
            nets[:, first : first + positions][cut] = ABSENT
            first += positions
        return nets

    def random_within(self, rng: np.random.Generator, count: int, low: float, high: float) -> Ints:
        """Draw nets, each gene uniform, until `count` cost between low and high."""
        found: list[Ints] = []
        while sum(map(len, found)) < count:
            nets = self.random(rng, max(1000, 20 * count))
            cost = self.cost(nets)
            found.append(nets[(cost >= low) & (cost <= high)])
        return np.concatenate(found)[:count]


@dataclass(frozen=True)
class Pool:
    """Nets of which all were trained, with what each costs on a device.

    Attributes:
        median: of the costs of all rows of the file, repeats included.
    """

    genes: Genes
    nets: Ints
    value: Floats  # points of accuracy
    cost: Floats
    median: float

    def near_median(self, share: float) -> Pool:
        """Keep the nets whose cost differs from the median by no more than that share."""
        kept = abs(self.cost / self.median - 1) <= share
        return replace(self, nets=self.nets[kept], value=self.value[kept], cost=self.cost[kept])


# --- once-for-all, MobileNetV3 ------------------------------------------------------------------


@dataclass(frozen=True)
class _Block:
    name: str  # of its rows in the table, up to the expansion
    stride: int
    skip: bool
    se: bool
    c_in: int
    c_out: int
    side: int  # of its output

    def key(self, kernel: int, ratio: int) -> str:
        return (
            f"{self.name}-expand:{ratio}-kernel:{kernel}-stride:{self.stride}"
            f"-idskip:{int(self.skip)}-se:{int(self.se)}"
        )

    def macs_and_params(self, kernel: int, ratio: int) -> tuple[float, float]:
        """Count millions of multiply-adds and of weights."""
        mid = self.c_in * ratio
        squeeze = 2 * mid * max(8, mid // 4) if self.se else 0
        inner = mid * kernel**2 + mid * self.c_out
        area = self.side**2
        macs = self.c_in * mid * (self.side * self.stride) ** 2 + inner * area + squeeze
        return macs / 1e6, (self.c_in * mid + inner + squeeze) / 1e6


def _ofa_blocks() -> list[_Block]:
    blocks = []
    side = OFA_SIDE // 2
    c_in = OFA_CHANNELS[0]
    for c_out, first_stride, se in zip(OFA_CHANNELS[1:], OFA_STRIDES, OFA_SE, strict=True):
        for index in range(OFA_BLOCKS):
            stride = first_stride if index == 0 else 1
            out = side // stride
            name = f"MBConv-input:{side}x{side}x{c_in}-output:{out}x{out}x{c_out}"
            blocks.append(_Block(name, stride, stride == 1 and c_in == c_out, se, c_in, c_out, out))
            side, c_in = out, c_out
    return blocks


def read_means(path: Path) -> dict[str, float]:
    """Read the rows of a table in the form of `ofa_i7_8700k.yaml`: names to mean ms."""
    means: dict[str, float] = {}
    name = ""
    for line in path.read_text().splitlines():
        if not line.startswith(" "):
            name = line.rstrip().removesuffix(":")
        elif line.strip().startswith("mean:"):
            means[name] = float(line.split(":")[1])
    return means


def read_predictor(path: Path) -> Callable[[Ints], Floats]:
    """Read the accuracy predictor: nets of `ofa_problem` to points at 224 px."""
    with np.load(path) as arrays:
        layers = [
            (arrays[f"{i}.weight"].astype(float), arrays[f"{i}.bias"].astype(float))
            for i in (0, 2, 4, 6)
        ]

    def predict(nets: Ints) -> Floats:
        places = nets.shape[1]
        kept = nets != ABSENT
        line, place = np.nonzero(kept)
        item = nets[kept]
        x = np.zeros((len(nets), layers[0][0].shape[1]))
        x[line, 3 * place + item // len(RATIOS)] = 1
        x[line, 3 * (places + place) + item % len(RATIOS)] = 1
        x[:, 6 * places + (OFA_SIDE - 112) // 16] = 1
        for weight, bias in layers[:-1]:
            x = np.maximum(x @ weight.T + bias, 0)
        weight, bias = layers[-1]
        return np.asarray(100 * (x @ weight.T + bias)[:, 0])

    return predict


def ofa_problem(table: Path, predictor: Path) -> Problem:
    """Read the once-for-all MobileNetV3 space at 224 px with a table and the predictor."""
    means = read_means(table)
    side, stem, last = OFA_SIDE // 2, OFA_CHANNELS[0], OFA_CHANNELS[-1]
    area = f"{side}x{side}x{stem}"
    end = OFA_SIDE // 32
    fixed = (
        f"first_conv-input:{OFA_SIDE}x{OFA_SIDE}x3-output:{area}",
        f"MBConv-input:{area}-output:{area}-expand:1-kernel:3-stride:1-idskip:1-se:0",
        f"final_expand_layer-input:{end}x{end}x{last}-output:{end}x{end}x{6 * last}",
        f"feature_mix_layer-input:1x1x{6 * last}-output:1x1x1280",
        "classifier-input:1280-output:1000",
    )
    options = [(kernel, ratio) for kernel in KERNELS for ratio in RATIOS]
    blocks = _ofa_blocks()
    factors = np.array([[[1.0, k, np.log(e)] for k, e in options] for _ in blocks])
    sizes = np.array([[b.macs_and_params(k, e) for k, e in options] for b in blocks])
    genes = Genes(tuple(factors), tuple(sizes))
    loads = tuple(np.array([means[b.key(k, e)] for k, e in options]) for b in blocks)
    return Problem(
        genes,
        ((OFA_BLOCKS, OFA_LEAST),) * len(OFA_STRIDES),
        loads,
        sum(means[name] for name in fixed),
        read_predictor(predictor),
    )


# --- Accel-NASBench -----------------------------------------------------------------------------

MNAS_STAGES = 7
MNAS_FACTORS = ("e", "k", "l", "se")


def accel_pool(path: Path, device: str) -> Pool:
    """Read the trained nets of the MnasNet space that the device (a column's name) has run.

    Repeats of a net count as one of mean accuracy. Costs are ms, of a throughput ms for an image.
    """
    with path.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row[device]]
    columns = [f"block{stage}_{name}" for stage in range(MNAS_STAGES) for name in MNAS_FACTORS]
    every = np.array([[int(row[column]) for column in columns] for row in rows])
    numbers = ("val_top1", "macs_m", "params_m", device)
    known = np.array([[float(row[name]) for name in numbers] for row in rows])
    lines, line = np.unique(every, axis=0, return_inverse=True)
    count = np.bincount(line.ravel())
    means = [np.bincount(line.ravel(), known[:, i]) / count for i in range(len(numbers))]
    accuracy, macs, params, speed = means
    stages = lines.reshape(len(lines), MNAS_STAGES, len(MNAS_FACTORS))
    factors, nets = [], []
    for stage in range(MNAS_STAGES):
        options, item = np.unique(stages[:, stage], axis=0, return_inverse=True)
        ratio, *others = options.T.astype(float)
        factors.append(np.stack([np.ones(len(options)), np.log(ratio), *others], axis=1))
        nets.append(item.ravel())
    coded = np.stack(nets, axis=1).astype(np.int64)
    sizes = _shares(factors, coded, np.stack([macs, params], axis=1))
    cost, row_costs = speed, known[:, -1]
    if device.startswith("throughput"):
        cost, row_costs = 1000 / cost, 1000 / row_costs
    genes = Genes(tuple(factors), sizes)
    return Pool(genes, coded, accuracy, cost, float(np.median(row_costs)))


def _shares(factors: list[Floats], nets: Ints, totals: Floats) -> tuple[Floats, ...]:
    """Divide nets' totals among the items, by least squares: they are sums of them."""
    starts = np.cumsum([0, *(len(f) for f in factors)])
    x = np.zeros((len(nets), starts[-1]))
    for position in range(nets.shape[1]):
        x[np.arange(len(nets)), starts[position] + nets[:, position]] = 1
    shares = np.linalg.solve(x.T @ x + 1e-3 * np.eye(x.shape[1]), x.T @ totals)
    return tuple(np.split(shares, starts[1:-1]))


# --- NAS-Bench-Macro ----------------------------------------------------------------------------

MACRO_OPTIONS = ((0, 0), (3, 3), (5, 6))  # kernel, ratio; the first is the identity


@dataclass(frozen=True)
class Macro:
    """All nets of the macro space, with accuracy and the published sizes."""

    nets: Ints
    accuracy: Floats  # mean of the seeds, points
    flops: Floats
    params: Floats


def macro_nets(path: Path) -> Macro:
    """Read all nets of NAS-Bench-Macro, in the order of their digits."""
    rows = sorted(json.loads(path.read_text()).items())
    nets = np.array([[int(digit) for digit in key] for key, _ in rows])
    known = np.array([[row[k] for k in ("mean_acc", "flops", "params")] for _, row in rows], float)
    return Macro(nets, known[:, 0], known[:, 1], known[:, 2])


def macro_genes(macro: Macro) -> Genes:
    """Describe the items of the macro space; sizes are divided by least squares."""
    factors = [
        np.array([[1.0, kernel, ratio] for kernel, ratio in MACRO_OPTIONS])
        for _ in range(macro.nets.shape[1])
    ]
    sizes = _shares(factors, macro.nets, np.stack([macro.flops, macro.params], axis=1) / 1e6)
    return Genes(tuple(factors), sizes)
