"""What the commands say of tables: gathered here, for `tfnas.table` to print or give as JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from tfnas.latency.lint import Finding
from tfnas.latency.table import Device, LatencyTable, Measurement, SpaceFit
from tfnas.space.ops import OpSpec

Key = TypeVar("Key")


@dataclass(frozen=True)
class MeasuredOp:
    """A row of a table, in its unit.

    Attributes:
        spread: half-width of the 95 % interval; None where unknown.
    """

    op: OpSpec
    median: float
    spread: float | None
    samples: int


@dataclass(frozen=True)
class Summary:
    """A table's context and rows, as measured (before calibration).

    Attributes:
        widths_probed: from which `device.quantum` was found.
        overhead_ms: of stem and head together, where it was given so.
        rows: in the order of their names.
    """

    file: str
    unit: str
    device: Device
    widths_probed: int
    overhead_ms: float | None
    spaces: Mapping[str, SpaceFit]
    notes: tuple[str, ...]
    rows: tuple[MeasuredOp, ...]

    @classmethod
    def of(cls, table: LatencyTable) -> Summary:
        rows = sorted(table.rows.items(), key=lambda item: str(item[0]))
        return cls(
            table.source, table.unit, table.device, len(table.quantum_evidence), table.overhead_ms,
            dict(table.spaces), table.notes, tuple(_measured(op, row) for op, row in rows),
        )  # fmt: skip


def _measured(op: OpSpec, row: Measurement) -> MeasuredOp:
    spread = None if math.isnan(row.spread_ms) else row.spread_ms
    return MeasuredOp(op, row.median_ms, spread, row.runs)


@dataclass(frozen=True)
class LintResult:
    """What a lint found.

    Attributes:
        remarks: on how a file of another project was read.
    """

    file: str
    errors: int
    warnings: int
    remarks: tuple[str, ...]
    findings: tuple[Finding, ...]

    @classmethod
    def of(cls, file: str, findings: Sequence[Finding], remarks: Sequence[str]) -> LintResult:
        errors = sum(finding.error for finding in findings)
        return cls(file, errors, len(findings) - errors, tuple(remarks), tuple(findings))


@dataclass(frozen=True)
class Agreement:
    """How the second table's figures of what both measured stand to the first's.

    Attributes:
        what: ops | nets.
        median_ratio, ratio_of_sums: second over first.
        off_mean_pct, off_p95_pct: how far single ratios are off the median one.
        known: pairs whose intervals are both known.
        within_pct: of these, how many ratios differ by no more than both 95 % intervals.
    """

    what: str
    pairs: int
    median_ratio: float
    ratio_of_sums: float
    off_mean_pct: float
    off_p95_pct: float
    known: int
    within_pct: float | None

    def __str__(self) -> str:
        within = "their intervals aren't known"
        if self.within_pct is not None:
            within = f"{self.within_pct:.0f} % of {self.known} within both 95 % intervals"
        return (
            f"  {self.pairs} {self.what}: median ratio {self.median_ratio:.4f}, ratio of sums "
            f"{self.ratio_of_sums:.4f}; off the median ratio by {self.off_mean_pct:.2f} % on "
            f"average, {self.off_p95_pct:.2f} % (95th percentile); {within}"
        )


@dataclass(frozen=True)
class CompareResult:
    """Two tables and how they agree."""

    files: tuple[str, str]
    devices: tuple[Device, Device]
    agreements: tuple[Agreement, ...]

    @classmethod
    def of(cls, one: LatencyTable, other: LatencyTable) -> CompareResult:
        """Raises ValueError where they have nothing in common."""
        compared = {"ops": _common(one.rows, other.rows), "nets": _common(one.nets, other.nets)}
        agreements = tuple(_agreement(what, pairs) for what, pairs in compared.items() if pairs)
        if not agreements:
            raise ValueError("the tables have no op and no net in common")
        return cls((one.source, other.source), (one.device, other.device), agreements)


def _common(
    rows: Mapping[Key, Measurement], others: Mapping[Key, Measurement]
) -> list[tuple[Measurement, Measurement]]:
    return [(row, others[key]) for key, row in rows.items() if key in others]


def _agreement(what: str, pairs: Sequence[tuple[Measurement, Measurement]]) -> Agreement:
    ratios = np.array([b.median_ms / a.median_ms for a, b in pairs])
    middle = float(np.median(ratios))
    off = 100 * abs(ratios / middle - 1)
    # Both half-widths are of 95 % intervals, so their difference has one of the root of squares.
    noise = [math.hypot(a.spread_ms / a.median_ms, b.spread_ms / b.median_ms) for a, b in pairs]
    known = np.isfinite(noise)
    inside = off[known] / 100 <= np.array(noise)[known]
    return Agreement(
        what=what,
        pairs=len(pairs),
        median_ratio=middle,
        ratio_of_sums=sum(b.median_ms for _, b in pairs) / sum(a.median_ms for a, _ in pairs),
        off_mean_pct=float(off.mean()),
        off_p95_pct=float(np.percentile(off, 95)),
        known=int(known.sum()),
        within_pct=float(100 * np.mean(inside)) if known.any() else None,
    )
