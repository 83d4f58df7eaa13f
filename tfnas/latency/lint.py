"""What is wrong, or looks odd, in a latency table. Nothing here changes a figure.

An error makes a table unusable or untrue: latencies that no device has, gaps, missing context. A
warning is a finding about figures as they were measured: an inversion may be real.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from itertools import pairwise

from tfnas.latency.table import IMPORTED, LatencyTable, Measurement
from tfnas.space.ops import OpSpec
from tfnas.space.search_space import SearchSpace

WIDE_SPREAD = 0.05  # half-width of the 95 % interval, as a fraction
SLACK = 0.01  # an inversion smaller than this is noise whatever the intervals say
WIDE_GAP = 4.0  # neighbouring measured widths of a curve, the larger over the smaller
FAR_OFF_PCT = 5.0  # held-out error, p95
OUTLIER = 8.0  # a curve's point above or below its neighbours' line by this factor
SCALES = (0.5, 2.0)  # of whole nets over sums of blocks


@dataclass(frozen=True)
class Finding:
    """One finding: `rule` is a short fixed name."""

    error: bool
    rule: str
    text: str

    def __str__(self) -> str:
        return f"{'error' if self.error else 'warning'}: {self.rule}: {self.text}"


def lint(table: LatencyTable, space: SearchSpace | None = None) -> list[Finding]:
    """All findings, errors first.

    Args:
        space: where given, the table must cover it.
    """
    found = [finding for rule in RULES for finding in rule(table)]
    if space is not None:
        found += _coverage(table, space)
    return sorted(found, key=lambda finding: not finding.error)


def _context(table: LatencyTable) -> Iterator[Finding]:
    device = table.device
    for name in ("kind", "name", "backend", "precision", "fingerprint"):
        if not getattr(device, name).strip():
            yield Finding(True, "context", f"device.{name} is empty")
    if not device.versions and device.kind != IMPORTED:
        yield Finding(True, "context", "device.versions names no runtime")
    if not table.rows:
        yield Finding(True, "context", "the table has no rows")
    if device.kind == IMPORTED:
        return
    if not any(fit.calibration for fit in table.spaces.values()):
        text = "no calibration: sums of blocks may be several percent off whole nets"
        yield Finding(False, "context", text)
    if not table.quantum_evidence:
        yield Finding(False, "context", f"no evidence for the width quantum {device.quantum}")


def _positive(table: LatencyTable) -> Iterator[Finding]:
    rows: list[tuple[object, Measurement]] = [*table.rows.items(), *table.nets.items()]
    for what, row in rows:
        if not row.median_ms > 0:
            yield Finding(True, "non-positive", f"{row.median_ms:g} ms for {what}")
        if row.spread_ms < 0:
            yield Finding(True, "non-positive", f"a spread of {row.spread_ms:g} ms for {what}")
    if table.overhead_ms is not None and table.overhead_ms < 0:
        yield Finding(True, "non-positive", f"{table.overhead_ms:g} ms for stem and head")
    for key, fit in table.spaces.items():
        if fit.calibration and not SCALES[0] <= fit.calibration.scale <= SCALES[1]:
            text = f"a scale of {fit.calibration.scale:g} from sums of blocks to nets of {key}"
            yield Finding(True, "scale", text + f", expected {SCALES[0]:g} to {SCALES[1]:g}")


def _monotone(table: LatencyTable) -> Iterator[Finding]:
    for curve, points in _curves(table).items():
        for (w1, a), (w2, b) in pairwise(points):
            if _slower(a, b):
                text = f"{_name(curve)}: width {w1} takes {a.median_ms:.4g} ms, {w2} only "
                yield Finding(False, "non-monotone", text + f"{b.median_ms:.4g} ms")


def _kernels(table: LatencyTable) -> Iterator[Finding]:
    for op, row in table.rows.items():
        larger = table.rows.get(replace(op, kernel=5)) if op.kernel == 3 else None
        if larger is not None and _slower(row, larger):
            text = f"{op} takes {row.median_ms:.4g} ms, with kernel 5 {larger.median_ms:.4g} ms"
            yield Finding(False, "k3 slower than k5", text)


def _squeeze_excite(table: LatencyTable) -> Iterator[Finding]:
    bare = table.uncalibrated()
    for op, row in table.rows.items():
        plain_op = replace(op, kind="mbconv", c_se=0) if op.c_se else op
        if not op.c_se or not bare.covers(plain_op):
            continue
        plain = bare.latency(plain_op)
        near = table.rows.get(plain_op)
        if _slower(near or Measurement(plain.ms, math.nan, 0), row):
            text = f"{op} takes {row.median_ms:.4g} ms, without squeeze-excite {plain.ms:.4g} ms"
            yield Finding(False, "SE cheaper than none", text)


def _spread(table: LatencyTable) -> Iterator[Finding]:
    rows: list[tuple[object, Measurement]] = [*table.rows.items(), *table.nets.items()]
    for what, row in rows:
        if row.median_ms > 0 and row.spread_ms > WIDE_SPREAD * row.median_ms:
            share = row.spread_ms / row.median_ms
            yield Finding(False, "wide spread", f"±{share:.1%} for {what} after {row.runs} samples")
    for key, fit in table.spaces.items():
        if fit.held_out and fit.held_out.p95_pct > FAR_OFF_PCT:
            text = f"a held-out error of {fit.held_out.p95_pct:.1f} % (95th percentile) in {key}"
            yield Finding(False, "wide spread", text)


def _gaps(table: LatencyTable) -> Iterator[Finding]:
    """Curves that can't be interpolated, or only over a wide stretch."""
    ends: dict[OpSpec, list[tuple[int, int, OpSpec]]] = defaultdict(list)
    for curve, points in _curves(table).items():
        widths = [w for w, _ in points]
        ends[replace(curve, kernel=1)].append((widths[0], widths[-1], curve))
        for w1, w2 in pairwise(widths):
            if w2 > WIDE_GAP * w1:
                text = f"{_name(curve)}: nothing measured between widths {w1} and {w2}"
                yield Finding(False, "gap", text)
    # Kernels of one shape have the same widths in every space, so a shorter one lost some.
    for group in ends.values():
        low, high = min(e[0] for e in group), max(e[1] for e in group)
        for first, last, curve in group:
            if (first, last) != (low, high):
                text = f"{_name(curve)}: measured from {first} to {last}, the same block with "
                yield Finding(True, "gap", text + f"another kernel from {low} to {high}")


def _range(table: LatencyTable) -> Iterator[Finding]:
    """Values that lie far out of what was measured around them."""
    for curve, points in _curves(table).items():
        for (w1, a), (w2, b), (w3, c) in zip(points, points[1:], points[2:], strict=False):
            line = a.median_ms + (c.median_ms - a.median_ms) * (w2 - w1) / (w3 - w1)
            if line > 0 and not 1 / OUTLIER < b.median_ms / line < OUTLIER:
                text = f"{_name(curve)}: width {w2} takes {b.median_ms:.4g} ms where its "
                yield Finding(False, "out of range", text + f"neighbours say {line:.4g} ms")
    quantum = table.device.quantum
    off = [op for op in table.rows if op.expands and op.c_mid % quantum]
    if off:
        text = f"{len(off)} rows at widths off the quantum {quantum}, such as {off[0]}"
        yield Finding(False, "out of range", text)


def _stale(table: LatencyTable) -> Iterator[Finding]:
    if table.device.kind == IMPORTED:
        return
    for package, measured in table.device.versions.items():
        try:
            here = version(package)
        except PackageNotFoundError:
            continue  # of another machine, or a driver: nothing to compare with
        if here != measured:
            text = f"measured with {package} {measured}, installed here is {here}"
            yield Finding(False, "stale runtime", text)


def _coverage(table: LatencyTable, space: SearchSpace) -> Iterator[Finding]:
    for op in table.missing(space):
        yield Finding(True, "gap", f"space={space.name} needs {op}")


RULES: tuple[Callable[[LatencyTable], Iterator[Finding]], ...] = (
    _context, _positive, _monotone, _kernels, _squeeze_excite, _spread, _gaps, _range, _stale,
)  # fmt: skip


def _curves(table: LatencyTable) -> Mapping[OpSpec, list[tuple[int, Measurement]]]:
    curves: dict[OpSpec, list[tuple[int, Measurement]]] = defaultdict(list)
    for op, row in table.rows.items():
        if op.has_width:
            curves[op.curve].append((op.c_mid, row))
    return {curve: sorted(points, key=lambda p: p[0]) for curve, points in curves.items()}


def _slower(a: Measurement, b: Measurement) -> bool:
    """Whether a is slower than b beyond what both intervals allow."""
    noise = math.hypot(*(0.0 if math.isnan(m.spread_ms) else m.spread_ms for m in (a, b)))
    return a.median_ms - b.median_ms > max(noise, SLACK * abs(b.median_ms))


def _name(curve: OpSpec) -> str:
    return str(curve).replace("·0→", "→")
