"""What a comparison of trained nets found: compare.json, and what it says as text."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tfnas.files import write_atomically
from tfnas.intervals import Interval, difference, mean_interval, paired_difference, student
from tfnas.untrusted import parse_json, read_bytes, shown

if TYPE_CHECKING:
    from tfnas.config import Recipe
    from tfnas.training import EpochResult

FILE, FORMAT = "compare.json", "tfnas.compare/1"
UNFINISHED, FINISHED = "unfinished", "finished"
MAX_BYTES = 50_000_000
SAME_LATENCY = 0.01  # fraction; nets that differ by more are compared on purpose, and told so
FEW = 10  # values from which a 95 % interval is hardly wider than from many
ROUNDING = 1e-9  # fraction; what equal differences of floats differ by is far below
HEADER = ("net", "on the table", "multiply-adds", "top-1, mean ± 95 %", "difference", "told apart")


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
    cpu_seconds: float  # of all threads and processes that read images


@dataclass(frozen=True)
class Data:
    name: str
    origin: str
    test_images: int


@dataclass(frozen=True)
class Table:
    """The latency table that all nets are told by."""

    file: str
    device: str
    fingerprint: str


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
    resolution: int
    deployed_resolution: int
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

    def save(self, path: Path) -> None:
        """Raises OSError."""
        record = {
            "format": FORMAT,
            **asdict(self),
            "latency_gap": self.latency_gap,
            "cpu_seconds": self.cpu_seconds,
            "unit": "net" if self.several else "seed",
            "results": self.results() if self.status == FINISHED else None,
        }
        write_atomically(path, json.dumps(record, indent=1, allow_nan=False) + "\n")


def _interval(interval: Interval) -> dict[str, float | int]:
    return {
        "mean": interval.mean, "low": interval.low, "high": interval.high, "n": interval.n,
    }  # fmt: skip


def costs_so_far(path: Path) -> tuple[Cost, ...]:
    """What an earlier start of a comparison took, of every training that it began.

    Raises:
        ValueError: if the file is no comparison.
    """
    try:
        record = parse_json(read_bytes(path, MAX_BYTES).decode())
        if record["format"] != FORMAT:
            raise ValueError(f"format {shown(record['format'])}, expected {FORMAT!r}")
        costs = tuple(Cost(**cost) for cost in record["costs"])
        for cost in costs:
            types = (type(cost.subnet), type(cost.seed), type(cost.cpu_seconds))
            if types != (str, int, float) or not cost.cpu_seconds >= 0:
                raise ValueError(f"{shown(cost)}")
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise ValueError(f"{path} is no comparison of tfnas.compare: {error}") from None
    return costs


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
    resolution: int
    top1: Mapping[str, tuple[float, ...]]


def load_accuracies(path: Path) -> Accuracies:
    """Read a comparison.

    Raises:
        ValueError: if the file is none.
    """
    top1: dict[str, tuple[float, ...]] = {}
    try:
        record = parse_json(read_bytes(path, MAX_BYTES).decode())
        if record["format"] != FORMAT:
            raise ValueError(f"format {shown(record['format'])}, expected {FORMAT!r}")
        recipe, resolution = record["recipe"]["name"], record["resolution"]
        if (type(recipe), type(resolution)) != (str, int):
            raise ValueError(f"recipe {shown(recipe)}, resolution {shown(resolution)}")
        for trial in record["trials"]:
            net, value = trial["subnet"], trial["top1"]
            if type(net) is not str or type(value) is not float or not 0 <= value <= 1:
                raise ValueError(f"{shown(trial)}")
            top1[net] = (*top1.get(net, ()), value)
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise ValueError(f"{path} is no comparison of tfnas.compare: {error}") from None
    return Accuracies(path.parent, recipe, resolution, top1)


def table(comparison: Comparison) -> str:
    """The finished comparison in columns, a line a method."""
    rows = [HEADER, *(cells(comparison, method) for method in comparison.methods)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def cells(comparison: Comparison, method: Method) -> tuple[str, ...]:
    """As in `HEADER`."""
    first = method is comparison.methods[0]
    apart = comparison.difference(method)
    several = f" ({len(method.nets)} nets)" if len(method.nets) > 1 else ""
    return (
        method.name + several,
        _span([net.table_ms for net in method.nets], "ms"),
        _span([net.macs / 1e6 for net in method.nets], "M"),
        percent(comparison.mean(method)),
        "–" if first else points(apart),
        "–" if first else ("yes" if comparison.told_apart(method) else "no"),
    )


def _span(values: Sequence[float], unit: str) -> str:
    texts = list(dict.fromkeys(f"{value:.4g}" for value in (min(values), max(values))))
    return f"{' to '.join(texts)} {unit}"


def percent(interval: Interval) -> str:
    return f"{100 * interval.mean:.2f} ± {100 * interval.half_width:.2f} %"


def points(interval: Interval) -> str:
    """A difference, in percentage points."""
    return f"{100 * interval.mean:+.2f} ± {100 * interval.half_width:.2f} points"


def verdicts(comparison: Comparison) -> list[str]:
    """What the differences say, a sentence each."""
    first = comparison.methods[0].name
    told = []
    for method in comparison.methods[1:]:
        apart = comparison.difference(method)
        if comparison.told_apart(method):
            sign = "above" if apart.mean > 0 else "below"
            told.append(
                f"{method.name} is {100 * abs(apart.mean):.2f} points {sign} {first} "
                f"({100 * apart.low:+.2f} to {100 * apart.high:+.2f}): the interval excludes zero"
            )
        elif comparison.without_spread(method):
            told.append(
                f"{method.name} can't be told from {first}: the difference is "
                f"{100 * apart.mean:+.2f} points in all values, which doesn't show how sure it is"
            )
        else:
            told.append(
                f"{method.name} can't be told from {first}: the difference is "
                f"{100 * apart.low:+.2f} to {100 * apart.high:+.2f} points, which includes zero"
            )
    return told


def warnings(comparison: Comparison) -> list[str]:
    """Where the comparison isn't what one may take it for."""
    c, told = comparison, []
    if c.latency_gap > SAME_LATENCY:
        told.append(
            f"the nets don't take the same time: they differ by {100 * c.latency_gap:.2g} %, "
            f"allowed by latency_tolerance={c.latency_tolerance:g}"
        )
    elif c.latency_tolerance > SAME_LATENCY:
        told.append(
            f"latency_tolerance={c.latency_tolerance:g} was given; the nets differ by "
            f"{100 * c.latency_gap:.2g} %"
        )
    if c.resolution != c.deployed_resolution:
        told.append(
            f"accuracies are those at {c.resolution} px, latencies those at "
            f"{c.deployed_resolution} px"
        )
    for method in c.methods if c.status == FINISHED else ():
        if len(set(c.values(method))) == 1:
            told.append(
                f"all top-1 values of {method.name} are equal, as of nets that learned nothing or "
                "were tested on few images: no interval can be told from them"
            )
        elif method is not c.methods[0] and c.without_spread(method):
            told.append(
                f"all differences of {method.name} to {c.methods[0].name} are equal, as happens "
                "with few test images: no interval can be told from them; give more seeds"
            )
    return told


def cautions(comparison: Comparison) -> list[str]:
    """How far the intervals go."""
    c, first = comparison, comparison.methods[0]
    n = min(len(method.nets) for method in c.methods) if c.several else len(c.seeds)
    told = []
    if n < FEW:
        what, more = ("nets of a method", "nets") if c.several else ("seeds", "seeds")
        kept = "" if c.several else "; finished trainings are kept when seeds are added"
        told.append(
            f"with {n} {what} an interval is wide: {student(n - 1):.1f} standard errors to either "
            f"side, where many {more} need 2.0{kept}"
        )
    if c.several:
        told.append("a net counts as one value, its mean over the seeds")
    else:
        told.append(
            "differences are paired: with one seed all nets see the same images in the same order. "
            "Intervals are over seeds of these very nets, and say nothing of others that the same "
            "method would find"
        )
    told.append(f"all are tested on the same {c.data.test_images:,} images")
    if len(c.methods) > 2:
        told.append(
            f"each of the {len(c.methods) - 1} differences to {first.name} has a 95 % interval of "
            "its own: that one of them excludes zero by chance is more likely than 5 %"
        )
    return told
