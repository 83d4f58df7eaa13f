"""Latency tables: what was measured on a device, and what may be read from it.

A table holds measured rows and the context they were measured in. Between two measured widths of
one curve it interpolates, and says so; it never extrapolates, and what isn't there is an error that
names the command to measure it. All latencies are milliseconds for one batch.
"""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal

import numpy as np
from msgspec import Meta

from tfnas.files.atomic import write_atomically
from tfnas.files.bounded import parse_json, read_bytes, shown
from tfnas.files.decode import Count, Positive, convert
from tfnas.space.ops import OP_FIELDS, OpSpec
from tfnas.space.search_space import Choice, SearchSpace
from tfnas.space.size import Size
from tfnas.space.subnet import Subnet

TABLE_FORMAT = "tfnas.table/2"
IMPORTED = "imported"  # a kind of device: it is measured nowhere here
ROW_FIELDS = (*OP_FIELDS, "median_ms", "spread_ms", "runs")
MAX_ROWS = 250_000  # the published table has 36,480, of which ours need some hundred
MAX_TABLE_BYTES = 160 * MAX_ROWS
MAX_TABLE_VALUES = (len(ROW_FIELDS) + 2) * MAX_ROWS
MAX_MS = 1e12
Unit = Literal["ms", "mJ"]
CARD_FIELDS = ("mape_pct", "bias_pct", "spearman")


@dataclass(frozen=True, slots=True)
class Measurement:
    """One measured latency.

    Attributes:
        median_ms: the estimate for one run of the op, one batch.
        spread_ms: half-width of its 95 % interval across rounds; nan where unknown.
        runs: how many samples it rests on.
    """

    median_ms: float
    spread_ms: float
    runs: int


@dataclass(frozen=True, slots=True)
class Device:
    """The context a table was measured in. What differs in it is never mixed.

    Attributes:
        kind: cpu | gpu | adb | ssh | imported.
        backend: the runtime; options of the device that are on follow, as in `cuda+graph`.
        fingerprint: identifies hardware, runtime versions, threads, precision and batch.
        versions: by package, of everything that shapes the figures.
        quantum: mid widths off its multiples fall off the device's fast path.
        activations: uint8 | int8, of int8 models; None for floats.
    """

    kind: str
    name: str
    backend: str
    precision: str
    batch: Annotated[int, Meta(ge=1, le=1_000_000)]
    threads: Annotated[int, Meta(ge=0, le=1_000_000)]
    fingerprint: str
    versions: Mapping[Annotated[str, Meta(min_length=1)], str] = field(default_factory=dict)
    quantum: Annotated[int, Meta(ge=1, le=1_000_000)] = 1
    activations: str | None = None

    @property
    def numbers(self) -> str:
        """What it computes in, for people."""
        return self.precision + (f" ({self.activations} activations)" if self.activations else "")


@dataclass(frozen=True, slots=True)
class Calibration:
    """From sums of isolated ops to whole nets.

    Attributes:
        scale: measured whole-net latency / sum of the table's rows.
        nets: number of nets that it was taken from.
        mape_pct: mean absolute error on these nets, each predicted from the others, in percent.
        factors: (group of ops, factor on top of `scale`), see `group_of`. An op costs more or less
            inside a net than alone, and by how much depends on where it stands: early ones are
            spared a change of memory layout at their ends, late ones find their weights less warm.
        rows: digest of the rows that the sums are of, see `profilers.tables.plan.digest_of`.
        seed: of the nets, see `profilers.tables.plan.calibration_nets`.
    """

    scale: Positive
    nets: Count
    mape_pct: float
    factors: tuple[tuple[str, Positive], ...] = ()
    rows: str = ""
    seed: Count = 0


def group_of(op: OpSpec) -> str:
    """Ops that share a calibration factor: searched blocks by input size, all others together."""
    return f"{op.size}px" if op.expands else "fixed"


@dataclass(frozen=True, slots=True)
class HeldOut:
    """The table's own error, on points that were measured and then predicted without them."""

    points: Count
    mean_pct: float
    p95_pct: float
    max_pct: float


@dataclass(frozen=True, slots=True)
class SpaceFit:
    """How the rows of a table stand to the nets of one space.

    Attributes:
        held_out: the error of interpolation on that space's curves.
        card: the calibration card of `profilers.card`, as it wrote it.
    """

    calibration: Calibration | None = None
    held_out: HeldOut | None = None
    card: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        for name in CARD_FIELDS:  # which `show` reads; the rest is checked where it's drawn
            value = (self.card or {}).get(name)
            if value is not None and type(value) not in (int, float):
                raise ValueError(f"card.{name}={shown(value)}, expected a number")


@dataclass(frozen=True, slots=True)
class Latency:
    """A value read from a table, with where it came from."""

    ms: float
    measured: bool  # False: interpolated between two measured widths of the same curve


@dataclass(frozen=True)
class _Curve:
    widths: np.ndarray  # (n,) ascending
    ms: np.ndarray  # (n,) uncalibrated


@dataclass(frozen=True)
class LatencyTable:
    """Measured rows of one device; see the module's docstring.

    Attributes:
        rows: what was measured, as measured (not calibrated).
        spaces: by `SearchSpace.key`; other spaces have other factors. `for_space` chooses.
        space: key of the space whose calibration counts; None: the only one there is.
        overhead_ms: where given, the latency of stem, head and classifier together, which then
            need no rows of their own (published tables come so).
        quantum_evidence: (mid width, ms) of the probe that found `device.quantum`.
        unit: of all values; of energies, which are read as latencies are, mJ stands where names say
            ms. Such a table bounds what a net takes beside its latency.
        nets: whole nets as measured, by `profilers.tables.plan.net_key`: what calibrations rest on.
    """

    device: Device
    rows: Mapping[OpSpec, Measurement]
    spaces: Mapping[str, SpaceFit] = field(default_factory=dict)
    overhead_ms: float | None = None
    quantum_evidence: tuple[tuple[int, float], ...] = ()
    nets: Mapping[str, Measurement] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    unit: Unit = "ms"
    space: str | None = field(default=None, compare=False)
    source: str = field(default="this table", compare=False)  # for messages

    def __post_init__(self) -> None:
        object.__setattr__(self, "rows", MappingProxyType(dict(self.rows)))
        object.__setattr__(self, "nets", MappingProxyType(dict(self.nets)))
        object.__setattr__(self, "spaces", MappingProxyType(dict(self.spaces)))

    @cached_property
    def _curves(self) -> dict[OpSpec, _Curve]:
        points: dict[OpSpec, list[tuple[int, float]]] = {}
        for op, row in self.rows.items():
            points.setdefault(op.line, []).append((op.c_mid, row.median_ms))
        curves = {}
        for key, pairs in points.items():
            widths, ms = zip(*sorted(pairs), strict=True)
            curves[key] = _Curve(np.array(widths), np.array(ms))
        return curves

    @cached_property
    def _classifiers(self) -> tuple[OpSpec, ...]:
        return tuple(op for op in self.rows if op.classifies)

    @property
    def maximum(self) -> bool:
        return False

    def asked(self, target: float) -> str:
        """A target as a user gives it, for messages."""
        return f"target_ms={target:g} on {self.source}"

    @property
    def calibration(self) -> Calibration | None:
        """That of `space`, or the only one.

        Raises:
            LookupError: if there are several and none was chosen with `for_space`.
        """
        if self.space is not None:
            return self.spaces.get(self.space, SpaceFit()).calibration
        if len(self.spaces) > 1:
            raise LookupError(
                f"{self.source} has calibrations for {', '.join(self.spaces)}: choose one with "
                "table.for_space(space)"
            )
        return next((fit.calibration for fit in self.spaces.values()), None)

    def factor(self, op: OpSpec) -> float:
        """From an op's measured latency alone to its calibrated one inside a net."""
        return self._factor(group_of(op))

    def _factor(self, group: str) -> float:
        c = self.calibration
        return 1.0 if c is None else c.scale * dict(c.factors).get(group, 1.0)

    def with_fit(self, space: SearchSpace, **changes: Any) -> LatencyTable:
        """The table for that space, with other fields of its `SpaceFit`."""
        fit = replace(self.spaces.get(space.key, SpaceFit()), **changes)
        return replace(self, spaces={**self.spaces, space.key: fit}, space=space.key)

    def uncalibrated(self) -> LatencyTable:
        """The table whose nets are the plain sums of its rows."""
        return replace(self, spaces={}, space=None)

    def latency(self, op: OpSpec) -> Latency:
        """The calibrated latency of one op.

        Raises:
            LookupError: if the op was neither measured nor lies between measured widths.
        """
        if op.free:
            return Latency(0.0, True)
        row = self.rows.get(op)
        if row is not None:
            return Latency(row.median_ms * self.factor(op), True)
        if other := self.stand_in(op):
            return Latency(self.rows[other].median_ms * self.factor(op), False)
        curve = self._curves.get(op.line)
        if curve is None or not curve.widths[0] <= op.c_mid <= curve.widths[-1]:
            raise LookupError(self._missing([op]))
        return Latency(float(np.interp(op.c_mid, curve.widths, curve.ms)) * self.factor(op), False)

    def stand_in(self, op: OpSpec) -> OpSpec | None:
        """The row of another number of classes that an imported table has for a classifier.

        Published tables have one, of 1,000 classes; it is a small part of a net, and nobody can
        measure another one.
        """
        if self.device.kind != IMPORTED or not op.classifies or op in self.rows:
            return None
        alike = [row for row in self._classifiers if (row.size, row.c_in) == (op.size, op.c_in)]
        return min(alike, key=lambda row: abs(row.c_out - op.c_out), default=None)

    def ms(self, op: OpSpec) -> float:
        """As `latency`, the number alone."""
        return self.latency(op).ms

    def curve(self, choice: Choice) -> np.ndarray:
        """Calibrated latencies of all admissible widths of a choice, (len(choice.widths),).

        Raises:
            LookupError: if a width lies outside what was measured.
        """
        if choice.op.free:
            return np.zeros(len(choice.widths))
        curve = self._curves.get(choice.op.line)
        if curve is None or not (
            curve.widths[0] <= choice.widths[0] and choice.widths[-1] <= curve.widths[-1]
        ):
            raise LookupError(self._missing([choice.op]))
        return np.interp(choice.widths, curve.widths, curve.ms) * self.factor(choice.op)

    def fixed(self, net: SearchSpace | Subnet) -> float:
        """Calibrated latency of stem and head together."""
        if self.overhead_ms is not None:
            return self.overhead_ms * self._factor("fixed")
        return sum(self.ms(op) for op in net.fixed)

    def total(self, subnet: Subnet) -> float:
        """Calibrated latency of a whole net: the sum over its ops."""
        return self.fixed(subnet) + sum(self.ms(op) for op in subnet.blocks)

    def missing(self, space: SearchSpace) -> list[OpSpec]:
        """The ops of a space that the table can't tell, each at one missing width."""
        gaps = (
            [] if self.overhead_ms is not None else [o for o in space.fixed if not self.covers(o)]
        )
        for curve, widths in space.curves().items():
            gaps += [op for w in (widths[0], widths[-1]) if not self.covers(op := _at(curve, w))][
                :1
            ]
        return list(dict.fromkeys(gaps))

    def check(self, space: SearchSpace) -> None:
        """Raises LookupError if the table doesn't cover the space, ValueError if it is unusable."""
        rows: list[tuple[object, Measurement]] = [*self.rows.items(), *self.nets.items()]
        bad = [what for what, row in rows if not row.median_ms > 0]
        if bad:
            raise ValueError(
                f"{self.source} holds {len(bad)} latencies that are not positive, such as "
                f"{bad[0]}; see `python -m tfnas.table lint`, and measure again"
            )
        if missing := self.missing(space):
            raise LookupError(self._missing(missing))

    def for_space(self, space: SearchSpace) -> LatencyTable:
        """The table with that space's calibration, after `check`.

        Raises:
            ValueError, LookupError: as `check`; LookupError too if the table is calibrated for
                other spaces only, whose factors would tell these nets wrong.
        """
        self.check(space)
        calibrated = [key for key, fit in self.spaces.items() if fit.calibration]
        if calibrated and space.key not in calibrated:
            raise LookupError(
                f"{self.source} is calibrated for {', '.join(calibrated)}, not for {space.key}: "
                f"measure some of its nets with `python -m profilers device={self.device.kind} "
                f"table={self.source}` and the space options given here, on that device"
            )
        return replace(self, space=space.key)

    def covers(self, op: OpSpec) -> bool:
        """Whether `latency` can tell this op."""
        if op.free or op in self.rows or self.stand_in(op):
            return True
        curve = self._curves.get(op.line)
        return curve is not None and bool(curve.widths[0] <= op.c_mid <= curve.widths[-1])

    def _missing(self, ops: list[OpSpec]) -> str:
        advice = (
            f"measure what is missing with `python -m profilers device={self.device.kind} "
            f"table={self.source}` and the space options given here, on that device"
        )
        if self.device.kind == IMPORTED:
            advice = "search a space that it covers"
        return (
            f"{self.source} (device {self.device.name}, batch {self.device.batch}) doesn't cover "
            f"{len(ops)} op{'s' if len(ops) > 1 else ''} such as: {ops[0]}; {advice}"
        )

    def with_rows(self, rows: Mapping[OpSpec, Measurement]) -> LatencyTable:
        """The table with more rows, or others for the same ops."""
        return replace(self, rows={**self.rows, **rows})

    def save(self, path: str | Path) -> None:
        """Write atomically: whoever reads the file finds the old table or the new one."""
        write_atomically(Path(path), self.to_json())

    def to_json(self) -> str:
        """What a table file holds."""
        head = {
            "format": TABLE_FORMAT,
            "unit": self.unit,
            # Files of floats are as they were before there was a kind of activations.
            "device": {k: v for k, v in asdict(self.device).items() if v is not None},
            "spaces": {key: asdict(fit) for key, fit in sorted(self.spaces.items())},
            "overhead_ms": self.overhead_ms,
            "quantum_evidence": self.quantum_evidence,
            "nets": {
                key: [m.median_ms, _null(m.spread_ms), m.runs]
                for key, m in sorted(self.nets.items())
            },
            "notes": self.notes,
            "columns": ROW_FIELDS,
        }
        lines = [
            json.dumps(
                [*(getattr(op, f) for f in OP_FIELDS), m.median_ms, _null(m.spread_ms), m.runs]
            )
            for op, m in sorted(self.rows.items(), key=lambda item: str(item[0]))
        ]
        text = json.dumps(head, indent=1, ensure_ascii=False, allow_nan=False)
        body = ",\n  ".join(lines)
        return text[:-2] + ',\n "rows": [\n  ' + body + "\n ]\n}\n"

    @classmethod
    def load(cls, path: str | Path) -> LatencyTable:
        """Read and validate a table file.

        Raises:
            ValueError: if it is unreadable, not a table, or holds what no table can hold.
        """
        try:
            text = read_bytes(Path(path), MAX_TABLE_BYTES).decode()
        except FileNotFoundError:
            raise ValueError(
                f"table {path} doesn't exist; build it with `python -m profilers device=cpu "
                f"{shlex.quote(f'table={path}')}` and the space options given here"
            ) from None
        except UnicodeDecodeError:
            raise ValueError(
                f"table {path} is not JSON; read another project's table with "
                f"`python -m tfnas.table import {path} --out FILE.json`"
            ) from None
        except (OSError, ValueError) as error:
            raise ValueError(f"can't read the table {path}: {error}") from None
        return cls.from_json(text, str(path))

    @classmethod
    def from_json(cls, text: str, path: str = "of this text") -> LatencyTable:
        """Raises ValueError, naming `path`, if the text is no valid table."""
        try:
            data = parse_json(text, MAX_TABLE_VALUES)
        except ValueError as error:
            raise ValueError(
                f"table {path} is corrupt: it {error}; restore or rebuild it"
            ) from None
        found = data.get("format") if isinstance(data, dict) else type(data).__name__
        if found != TABLE_FORMAT:
            raise ValueError(
                f"table {path}: found format {shown(found)}, expected {TABLE_FORMAT!r}; move it "
                "away and measure anew with `python -m profilers`"
            )
        try:
            file = convert(data, _File, older=OLDER)
            rows: dict[OpSpec, Measurement] = {}
            for row in file.rows:
                op = OpSpec(*row[: len(OP_FIELDS)])  # type: ignore[arg-type]
                if op.is_curve:
                    raise ValueError(f"{op} has no mid width: expected 1 or more")
                if op.free:
                    raise ValueError(f"{op} costs nothing and has no row")
                if op in rows:
                    raise ValueError(f"two rows for one op: {op}")
                rows[op] = _measurement(*row[len(OP_FIELDS) :])  # type: ignore[arg-type]
        except ValueError as error:
            raise ValueError(f"table {path} is corrupt: {error}; restore or rebuild it") from None
        return cls(
            device=file.device,
            rows=rows,
            spaces=file.spaces,
            overhead_ms=file.overhead_ms,
            quantum_evidence=file.quantum_evidence,
            nets={key: _measurement(*values) for key, values in file.nets.items()},
            notes=file.notes,
            unit=file.unit,
            source=path,
        )


def _at(curve: OpSpec, width: int) -> OpSpec:
    return replace(curve, c_mid=width)


def _null(value: float) -> float | None:
    return None if math.isnan(value) else value


Ms = Annotated[float, Meta(ge=-MAX_MS, le=MAX_MS)]
Sampled = tuple[Ms, Ms | None, Count]  # as `Measurement`, None for nan
Row = tuple[str, Size, int, int, int, int, int, int, str, Ms, Ms | None, Count]


@dataclass(frozen=True)
class _File:
    """The fields of a table's file; what is in `OLDER` files of before may lack."""

    format: str
    device: Device
    spaces: Mapping[str, SpaceFit]
    columns: tuple[str, ...]
    rows: Annotated[tuple[Row, ...], Meta(max_length=MAX_ROWS)]
    unit: Unit = "ms"
    overhead_ms: Ms | None = None
    quantum_evidence: tuple[tuple[Count, Ms], ...] = ()
    nets: Mapping[str, Sampled] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.columns != ROW_FIELDS:
            raise ValueError(f"columns {shown(self.columns)}, expected {ROW_FIELDS}")


OLDER = ("unit", "overhead_ms", "quantum_evidence", "nets", "notes", "activations")


def _measurement(median_ms: float, spread_ms: float | None, runs: int) -> Measurement:
    return Measurement(median_ms, math.nan if spread_ms is None else spread_ms, runs)
