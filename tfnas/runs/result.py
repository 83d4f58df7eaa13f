"""What a run of `tfnas.search` ends with: result.json."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from msgspec import Meta

from tfnas.files.atomic import write_atomically
from tfnas.files.decode import encode, load
from tfnas.runs.finals import Finals
from tfnas.runs.plan import Plan
from tfnas.space.size import Size

MAX_BYTES = 10_000_000
LONGEST_MS = 1e9
# Fields that results of before don't have, nor those without.
NEWER = ("finals", "plan", "beside", "activations")
Ms = Annotated[float, Meta(gt=0, lt=LONGEST_MS)]


@dataclass(frozen=True)
class RawSamples:
    """Wall times of single runs, as they were."""

    min: float  # ms
    median: float  # ms


@dataclass(frozen=True)
class Beside:
    """What was asked of a net beside its target, and what it has.

    Attributes:
        asked: as it was given, such as limits.params=4e+06.
        at_most: a lower value is as good.
        value: of the net, in `unit`; of latencies what the table says.
        measured_ms: in a fresh process, where it is a latency of a device at hand.
    """

    asked: str
    target: float
    at_most: bool
    value: float
    unit: str
    measured_ms: Ms | None = None

    def __str__(self) -> str:
        kind = "at most" if self.at_most else "exactly"
        text = f"{self.asked}: {self.value:.4g} {self.unit}".rstrip() + f", {kind} that was asked"
        return text if self.measured_ms is None else f"{text}; measured {self.measured_ms:.4g} ms"


@dataclass(frozen=True)
class Result:
    """The fields of result.json; scripts rely on their names.

    Attributes:
        table_ms: what the table says of the net, ms.
        measured_ms, measured_ci_ms, measured_raw_ms: of the exported net, in a fresh process; None
            where the device can't be reached from this host (`verified` is then false).
        feasible_ms: the smallest and the largest net of the space on this table.
        tolerance: fraction of the target.
        reached: the derived net met the target on the table.
        log_prob, argmax_log_prob: of the derived net, and of the most probable one.
        overhead_from_table: stem, head and classifier are the table's one figure, whatever the
            number of classes.
        options: those that make it the search that it is, by dotted key.
        loop: what the closed loop on the device measured, step by step.
        noisy: why the measured interval deserves doubt, if it does.
        seconds: wall seconds by stage, at least of profile, search, derive, verify; `loop` is what
            closing on the device took.
        finals: what nets that were really trained came to; only of runs that had finals.
        plan: what was planned from `minutes`; only of runs that were given them.
        beside: limits and latencies on other tables; only of runs that were given some.
    """

    target_ms: Ms
    table_ms: Ms
    measured_ms: Ms | None
    measured_ci_ms: tuple[Ms, Ms] | None
    measured_raw_ms: RawSamples | None
    feasible_ms: tuple[float, float]
    device: str
    table: str
    space: str
    strategy: str
    seed: int
    verified: bool
    tolerance: float
    at_most: bool
    within: bool
    reached: bool
    log_prob: float
    argmax_log_prob: float
    resolution: Size
    classes: int
    macs: int
    batch: int
    threads: int
    precision: str
    data: str
    options: Mapping[str, Any]
    overhead_from_table: bool
    noisy: str | None
    loop: list[dict[str, Any]] | None
    scores: Mapping[str, float]
    versions: Mapping[str, str]
    seconds: Mapping[str, float]
    finals: Finals | None = None
    plan: Plan | None = None
    beside: tuple[Beside, ...] | None = None
    activations: str | None = None  # uint8 | int8, where the precision is int8

    @property
    def gap(self) -> float:
        """Of the measured latency to the target, signed, as a fraction; else of the table's."""
        return self.last_ms / self.target_ms - 1

    @property
    def last_ms(self) -> float:
        return self.table_ms if self.measured_ms is None else self.measured_ms

    def save(self, path: Path) -> None:
        left_out = [name for name in NEWER if getattr(self, name) is None]
        write_atomically(path, encode(self, left_out=left_out))

    @classmethod
    def load(cls, path: Path) -> Result:
        """Read what `save` wrote.

        Raises:
            ValueError: if it is unreadable, or a field is missing, unknown or of another type.
        """
        return load(path, cls, "result of a search", MAX_BYTES, older=NEWER)


def within_tolerance(ms: float, target_ms: float, tolerance: float, at_most: bool) -> bool:
    """Whether a point estimate is inside the tolerance; any lower one is where `at_most`."""
    gap = ms / target_ms - 1
    return gap <= tolerance and (at_most or gap >= -tolerance)
