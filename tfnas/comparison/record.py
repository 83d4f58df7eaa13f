"""What a comparison of trained nets found: compare.json, and what it says as text."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from msgspec import Meta

from tfnas.files.atomic import write_atomically
from tfnas.files.decode import Fraction, load
from tfnas.intervals import Interval, difference, mean_interval, paired_difference
from tfnas.space.size import Size

if TYPE_CHECKING:
    from tfnas.training.loop import EpochResult
    from tfnas.training.recipe import Recipe

FILE, HEADER = "compare.json", {"format": "tfnas.compare/1"}
WHAT = "comparison of tfnas.compare"
UNFINISHED, FINISHED = "unfinished", "finished"
MAX_BYTES = 50_000_000
SAME_LATENCY = 0.01  # fraction; nets that differ by more are compared on purpose, which is said
ROUNDING = 1e-9  # fraction; what equal differences of floats differ by is far below


@dataclass(frozen=True)
class Net:
    """One net, trained with every seed."""

    path: str
    subnet: str  # fingerprint
    table_ms: float
    macs: int


@dataclass(frozen=True)
class Method:
    """A net, or several that one method found."""

    name: str
    nets: tuple[Net, ...]


@dataclass(frozen=True)
class Trial:
    """One finished training."""

    subnet: str  # fingerprint
    seed: int
    top1: float  # fraction of the test set, after the last epoch
    top5: float
    seconds: float
    weights: str  # file
    epochs: tuple[EpochResult, ...]


@dataclass(frozen=True)
class Cost:
    """What a training took so far, finished or not."""

    subnet: str  # fingerprint
    seed: int
    cpu_seconds: Annotated[float, Meta(ge=0)]  # of all threads and processes that read images


@dataclass(frozen=True)
class Data:
    name: str
    origin: str
    test_images: int


@dataclass(frozen=True)
class Table:
    """The latency table that all nets are read on."""

    file: str
    device: str
    fingerprint: str
    precision: str = "fp32"


@dataclass(frozen=True)
class Comparison:
    """The fields of compare.json, which holds what `results` says besides.

    Attributes:
        status: unfinished | finished.
        methods: the first one is what the others are compared with.
        latency_tolerance: fraction.
        resolution: pixels, of training and test; the latency is that of `deployed_resolution`.
        accelerator: cpu | cuda.
        command: goes on with it, or tells it again.
    """

    status: str
    command: str
    methods: tuple[Method, ...]
    seeds: tuple[int, ...]
    trials: tuple[Trial, ...]
    costs: tuple[Cost, ...]
    recipe: Recipe
    data: Data
    table: Table
    latency_tolerance: float
    resolution: Size
    deployed_resolution: Size
    accelerator: str
    threads: int
    on_nonfinite: str
    versions: Mapping[str, str]

    @cached_property
    def _trials(self) -> dict[tuple[str, int], Trial]:
        return {(trial.subnet, trial.seed): trial for trial in self.trials}

    def trial(self, net: Net, seed: int) -> Trial:
        """Raises KeyError if that training isn't finished."""
        return self._trials[net.subnet, seed]

    @property
    def planned(self) -> tuple[tuple[Net, int], ...]:
        """All trainings, seed by seed, so that an interruption leaves whole pairs."""
        nets = {net.subnet: net for method in self.methods for net in method.nets}
        return tuple((net, seed) for seed in self.seeds for net in nets.values())

    @property
    def several(self) -> bool:
        """Whether methods are compared, by several nets of each, and not single nets."""
        return any(len(method.nets) > 1 for method in self.methods)

    @property
    def latency_gap(self) -> float:
        """How far the slowest net is above the fastest on the table, as a fraction."""
        ms = [net.table_ms for method in self.methods for net in method.nets]
        return max(ms) / min(ms) - 1

    @property
    def cpu_seconds(self) -> float:
        return sum(cost.cpu_seconds for cost in self.costs)

    def values(self, method: Method) -> list[float]:
        """Independent top-1 values: one a seed of a single net, else one a net, over its seeds.

        Raises:
            KeyError: if it isn't finished.
        """
        of_nets = [[self.trial(net, seed).top1 for seed in self.seeds] for net in method.nets]
        return [sum(v) / len(v) for v in of_nets] if self.several else of_nets[0]

    def mean(self, method: Method) -> Interval:
        return mean_interval(self.values(method))

    def difference(self, method: Method) -> Interval:
        """To the first one: paired by seed for single nets, of independent means for methods."""
        test = difference if self.several else paired_difference
        return test(self.values(method), self.values(self.methods[0]))

    def without_spread(self, method: Method) -> bool:
        """Whether its difference is the same in all values: how sure it is doesn't show then."""
        return self.difference(method).half_width < ROUNDING

    def told_apart(self, method: Method) -> bool:
        """Whether the interval of its difference is one, and excludes zero."""
        return self.difference(method).excludes_zero and not self.without_spread(method)

    def results(self) -> list[dict[str, Any]]:
        """What a script wants to read, a method each; top-1 as fractions."""
        rows = []
        for method in self.methods:
            rows.append(
                {
                    "name": method.name,
                    "top1": _interval(self.mean(method)),
                    "difference": None
                    if method is self.methods[0]
                    else {
                        **_interval(self.difference(method)),
                        "told_apart": self.told_apart(method),
                    },
                }
            )
        return rows

    def to_json(self) -> str:
        """The text of compare.json."""
        record = {
            **HEADER,
            **asdict(self),
            "latency_gap": self.latency_gap,
            "cpu_seconds": self.cpu_seconds,
            "unit": "net" if self.several else "seed",
            "results": self.results() if self.status == FINISHED else None,
        }
        return json.dumps(record, indent=1, allow_nan=False) + "\n"

    def save(self, path: Path) -> None:
        """Raises OSError."""
        write_atomically(path, self.to_json())


def _interval(interval: Interval) -> dict[str, float | int]:
    return {
        "mean": interval.mean, "low": interval.low, "high": interval.high, "n": interval.n,
    }  # fmt: skip


@dataclass(frozen=True)
class _Costs:
    costs: tuple[Cost, ...]


@dataclass(frozen=True)
class _Recipe:
    name: str


@dataclass(frozen=True)
class _Trial:
    subnet: str
    top1: Fraction


@dataclass(frozen=True)
class _Accuracies:
    recipe: _Recipe
    resolution: Size
    trials: tuple[_Trial, ...]


def costs_so_far(path: Path) -> tuple[Cost, ...]:
    """What an earlier start of a comparison took, of every training that it began.

    Raises:
        ValueError: if the file is no comparison.
    """
    return load(path, _Costs, WHAT, MAX_BYTES, HEADER, partly=True).costs


@dataclass(frozen=True)
class Accuracies:
    """What a report of runs takes from a comparison.

    Attributes:
        folder: of the comparison.
        recipe: its name.
        resolution: pixels.
        top1: of each net, by fingerprint, after each of its finished trainings; fractions.
    """

    folder: Path
    recipe: str
    resolution: Size
    top1: Mapping[str, tuple[float, ...]]


def load_accuracies(path: Path) -> Accuracies:
    """Read a comparison.

    Raises:
        ValueError: if the file is none.
    """
    found = load(path, _Accuracies, WHAT, MAX_BYTES, HEADER, partly=True)
    top1: dict[str, tuple[float, ...]] = {}
    for trial in found.trials:
        top1[trial.subnet] = (*top1.get(trial.subnet, ()), trial.top1)
    return Accuracies(path.parent, found.recipe.name, found.resolution, top1)
