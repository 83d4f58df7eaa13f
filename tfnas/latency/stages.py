"""Where the milliseconds of a found net go, table against device: stages.json of a run."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tfnas.files.atomic import write_atomically
from tfnas.files.bounded import MAX_NAME, check_text, parse_json, read_bytes, shown
from tfnas.intervals import plus_minus
from tfnas.latency.table import LatencyTable
from tfnas.space.ops import MAX_LAYERS, OpSpec
from tfnas.space.subnet import Subnet

STAGES_FORMAT = "tfnas.stages/1"
STAGES = "stages.json"
MAX_BYTES = 1_000_000
MAX_MS = 1e9


@dataclass(frozen=True, slots=True)
class StageTime:
    """One part of a net, or the whole of it; one batch.

    Attributes:
        name: stem | stage 1, stage 2, ... | head | whole net.
        table_ms: the table's calibrated sum: what the part costs inside a net. None for stem and
            head where the table has one figure for both.
        device_ms, device_ci_ms: measured as a model of its own; 95 % interval (low, high).
    """

    name: str
    table_ms: float | None
    device_ms: float
    device_ci_ms: tuple[float, float]


@dataclass(frozen=True)
class StageTimes:
    """All parts of a net in order, and the net, sampled in the same rounds.

    A part alone starts with its input as a caller hands it in, and has the caches to itself: the
    parts don't add up to the whole net, and nothing here makes them.
    """

    device: str
    parts: tuple[StageTime, ...]
    whole: StageTime

    @property
    def sum_ms(self) -> float:
        """Of the parts as measured alone."""
        return sum(part.device_ms for part in self.parts)

    def save(self, path: Path) -> None:
        data = {"format": STAGES_FORMAT, "unit": "ms", **asdict(self)}
        write_atomically(path, json.dumps(data, indent=1, allow_nan=False) + "\n")

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
    try:
        data = parse_json(read_bytes(path, MAX_BYTES).decode())
        if not isinstance(data, dict) or data.get("format") != STAGES_FORMAT:
            found = data.get("format") if isinstance(data, dict) else type(data).__name__
            raise ValueError(f"found format {shown(found)}, expected {STAGES_FORMAT!r}")
        if set(data) != {"format", "unit", "device", "parts", "whole"} or data["unit"] != "ms":
            raise ValueError("expected the fields format, unit (ms), device, parts, whole")
        parts = data["parts"]
        if type(parts) is not list or not 0 < len(parts) <= MAX_LAYERS:
            raise ValueError(f"parts={shown(parts)}, expected a list of 1 to {MAX_LAYERS:,}")
        return StageTimes(
            device=check_text(data["device"]),
            parts=tuple(map(_time_of, parts)),
            whole=_time_of(data["whole"]),
        )
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} holds no times of stages: {error}") from None


def _time_of(values: object) -> StageTime:
    names = {"name", "table_ms", "device_ms", "device_ci_ms"}
    if not isinstance(values, dict) or set(values) != names:
        raise ValueError(f"{shown(values)}, expected {', '.join(sorted(names))}")
    interval = values["device_ci_ms"]
    if type(interval) is not list or len(interval) != 2:
        raise ValueError(f"device_ci_ms={shown(interval)}, expected low and high")
    table = values["table_ms"]
    low, high = (_number(ms, "device_ci_ms") for ms in interval)
    device_ms = _number(values["device_ms"], "device_ms")
    if not (device_ms > 0 and low <= device_ms <= high):
        raise ValueError(f"{device_ms:g} ms within {low:g} to {high:g} ms is no latency")
    name = check_text(values["name"], MAX_NAME)
    return StageTime(
        name, None if table is None else _number(table, "table_ms"), device_ms, (low, high)
    )


def _number(value: Any, name: str) -> float:
    if type(value) not in (int, float) or not math.isfinite(value) or abs(value) > MAX_MS:
        raise ValueError(f"{name}={shown(value)}, expected milliseconds")
    return float(value)
