"""Where the milliseconds of a found net go, table against device: stages.json of a run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from msgspec import Meta

from tfnas.files.atomic import write_atomically
from tfnas.files.bounded import MAX_NAME
from tfnas.files.decode import encode, load
from tfnas.intervals import plus_minus
from tfnas.latency.table import LatencyTable
from tfnas.space.ops import MAX_LAYERS, OpSpec
from tfnas.space.subnet import Subnet

HEADER = {"format": "tfnas.stages/1", "unit": "ms"}
MAX_BYTES = 1_000_000
Ms = Annotated[float, Meta(ge=-1e9, le=1e9)]


@dataclass(frozen=True, slots=True)
class StageTime:
    """One part of a net, or the whole of it; one batch.

    Attributes:
        name: stem | stage 1, stage 2, ... | head | whole net.
        table_ms: the table's calibrated sum: what the part costs inside a net. None for stem and
            head where the table has one figure for both.
        device_ms, device_ci_ms: measured as a model of its own; 95 % interval (low, high).
    """

    name: Annotated[str, Meta(max_length=MAX_NAME)]
    table_ms: Ms | None
    device_ms: Annotated[float, Meta(gt=0, le=1e9)]
    device_ci_ms: tuple[Ms, Ms]


@dataclass(frozen=True)
class StageTimes:
    """All parts of a net in order, and the net, sampled in the same rounds.

    A part alone starts with its input as a caller hands it in, and has the caches to itself: the
    parts don't add up to the whole net, and nothing here makes them.
    """

    device: str
    parts: Annotated[tuple[StageTime, ...], Meta(min_length=1, max_length=MAX_LAYERS)]
    whole: StageTime

    @property
    def sum_ms(self) -> float:
        """Of the parts as measured alone."""
        return sum(part.device_ms for part in self.parts)

    def save(self, path: Path) -> None:
        write_atomically(path, encode(self, HEADER))

    def __str__(self) -> str:
        rows = [
            (
                part.name,
                "" if part.table_ms is None else f"{part.table_ms:.4g}",
                f"{part.device_ms:.4g}",
                plus_minus(*part.device_ci_ms),
            )
            for part in (*self.parts, self.whole)
        ]
        rows.insert(-1, ("sum", "", f"{self.sum_ms:.4g}", ""))
        lines = [f"  {'ms':<10} {'table':>8} {'device':>8}"]
        lines += [f"  {name:<10} {t:>8} {d:>8} {ci}".rstrip() for name, t, d, ci in rows]
        return "\n".join(lines)


def parts_of(subnet: Subnet) -> tuple[tuple[str, tuple[OpSpec, ...]], ...]:
    """(name, ops) of stem, stages and head; a net may have no stem."""
    stages = [(f"stage {i}", ops) for i, ops in enumerate(subnet.stages, 1)]
    parts = (("stem", subnet.stem), *stages, ("head", subnet.head))
    return tuple((name, ops) for name, ops in parts if ops)


def table_ms(table: LatencyTable, name: str, ops: tuple[OpSpec, ...]) -> float | None:
    """What a table says of one of `parts_of`. Raises LookupError if it doesn't cover it."""
    if table.overhead_ms is not None and name in ("stem", "head"):
        return None
    return sum(table.ms(op) for op in ops)


def load_stages(path: Path) -> StageTimes:
    """Read what `StageTimes.save` wrote.

    Raises:
        ValueError: if it is unreadable, or holds what no measurement can give.
    """
    times = load(path, StageTimes, "file of stages", MAX_BYTES, HEADER)
    for part in (*times.parts, times.whole):
        low, high = part.device_ci_ms
        if not low <= part.device_ms <= high:
            raise ValueError(
                f"{path} is no file of stages: {part.device_ms:g} ms within {low:g} to "
                f"{high:g} ms is no latency"
            )
    return times
