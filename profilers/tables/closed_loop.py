"""The loop that closes on the device: measure a whole net, move few widths, measure again.

A table is a percent or two off for a single net. Solving all widths anew at each measurement makes
a new net with a new error, and oscillates; a move of three widths at most keeps the error of the
net that was measured, so the table has to tell only the small difference. Candidates are measured
side by side in shuffled rounds, and a net that stays keeps its samples.

What the table says of the difference between such relatives is more certain than a few seconds of
measuring. So all that was measured in the loop tells how far off the table is for the whole family,
and a single net's own deviation from that counts as far as its samples are worth (`settled`). To
take the net that happens to measure nearest would be to take the luckiest one.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from profilers.contract import Profiler
from profilers.measure.bench import Bench
from profilers.measure.timing import Measured, Progress, Samples
from profilers.onboard.rounds import Workload
from profilers.tables.meanwhile import on_other_cores
from tfnas.derive.architecture import Constraint
from tfnas.derive.nearby import nearby
from tfnas.latency.table import LatencyTable
from tfnas.runs.result import within_tolerance
from tfnas.space.search_space import SearchSpace
from tfnas.space.subnet import Subnet

log = logging.getLogger(__name__)

CANDIDATES = 4  # nets measured side by side
NEW = 3  # of them new in each step
MAX_MOVES = 3
STEPS = 4  # that the time is meant for
INSIDE = 0.4  # of the tolerance: a step ends early when intervals are so narrow
RELATIVES = 0.003  # standard deviation of the table's error between nets a few widths apart


@dataclass(frozen=True)
class Step:
    """The best net after one batch of measurements, its latency as `settled` says."""

    table_ms: float
    measured_ms: float
    ci_ms: tuple[float, float]
    samples: int
    moved: int  # widths or ops that differ from the net that the loop began with
    seconds: float  # since the loop began


@dataclass(frozen=True)
class LoopResult:
    """Where the loop ended.

    Attributes:
        subnet: the net nearest to the target, as measured.
        table_ms: what the table says of it.
        measured: its latency as `settled` says.
        within: its whole interval is inside the tolerance.
    """

    subnet: Subnet
    table_ms: float
    measured: Measured
    within: bool
    trail: tuple[Step, ...]

    def trail_json(self) -> list[dict[str, Any]]:
        return [
            {
                "table_ms": step.table_ms,
                "measured_ms": step.measured_ms,
                "measured_ci_ms": list(step.ci_ms),
                "samples": step.samples,
                "moved": step.moved,
                "seconds": round(step.seconds, 1),
            }
            for step in self.trail
        ]


def close_loop(
    profiler: Profiler,
    space: SearchSpace,
    table: LatencyTable,
    subnet: Subnet,
    target_ms: float,
    *,
    tolerance: float,
    at_most: bool = False,
    off: float = 1.0,
    max_minutes: float,
    seed: int,
    beside: Sequence[Constraint] = (),
    progress: Progress = log.info,
    now: Callable[[], float] = time.monotonic,
) -> LoopResult:
    """Move few widths of a net until its measured latency meets the target.

    Args:
        tolerance: fraction of the target that the whole interval is to lie inside.
        at_most: a lower latency is as good.
        off: what a net like this one is known to take, as a multiple of what the table says.
        max_minutes: then the nearest net so far is the result.
        beside: what the net meets and shall go on to meet.
    """
    label, max_seconds, start = f"closing on {target_ms:g} ms", 60 * max_minutes, now()
    known: dict[Subnet, Measured] = {}
    trail: list[Step] = []
    with Bench(profiler, seed, progress, now=now) as bench:
        if warning := on_other_cores(table.notes, bench.watch):
            progress(warning)
        loaded: dict[Subnet, Workload] = {}
        batch = [subnet]
        if off != 1:  # else the first measurement tells
            likely_ms = target_ms / off
            batch += nearby(space, table, subnet, likely_ms, beside, max_moves=MAX_MOVES, count=NEW)
        while True:
            left_s = max_seconds - (now() - start)
            loaded |= {net: bench.workload(net.ops) for net in batch if net not in loaded}
            results = bench.measure(
                [loaded[net] for net in batch],
                precision=INSIDE * tolerance,
                max_seconds=max(0.0, min(left_s, max_seconds / STEPS)),
                own_anchors=range(len(batch)),
                pooled=[known[net].pool if net in known else Samples() for net in batch],
                label=label,
            )
            known |= zip(batch, results, strict=True)
            believed = settled(known, table)
            best = min(batch, key=lambda net: _gap(believed[net], target_ms))
            measured = believed[best]
            trail.append(_step(best, measured, subnet, table, now() - start))
            gap, moved = measured.median_ms / target_ms - 1, trail[-1].moved
            progress(f"{label}: {measured}, {gap:+.2%} off, {moved} moved")
            within = _inside(measured, target_ms, tolerance, at_most)
            if within or now() - start >= max_seconds:
                return LoopResult(best, trail[-1].table_ms, measured, within, tuple(trail))
            batch = _next_batch(space, table, best, batch, believed, target_ms, beside)
            for net in [net for net in loaded if net not in batch]:
                loaded.pop(net).close()


def settled(known: Mapping[Subnet, Measured], table: LatencyTable) -> dict[Subnet, Measured]:
    """What is believed of each net after all that was measured of its relatives.

    The table's error of net i is taken as m + d_i, with d_i normal around 0 and samples normal
    around that: a random-effects model. The variance of d_i is what scatters beyond the samples'
    own (moments, as DerSimonian and Laird do), and at least that of `RELATIVES`.
    """
    rows = [
        (net, math.log(m.median_ms / table.total(net)), m.spread_ms / m.median_ms / 1.96)
        for net, m in known.items()
        if math.isfinite(m.spread_ms)
    ]
    if not rows:
        return dict(known)
    off = np.array([error for _, error, _ in rows])
    own = np.array([max(deviation, 1e-6) for _, _, deviation in rows]) ** 2
    scatter = float(np.var(off, ddof=1) - own.mean()) if len(rows) > 2 else 0.0
    between = max(RELATIVES**2, scatter)
    weight = 1 / (between + own)
    common = float(weight @ off / weight.sum())
    kept = between / (between + own)
    believed = common + kept * (off - common)
    half = 1.96 * np.sqrt(kept * own + (1 - kept) ** 2 / weight.sum())
    found = dict(known)
    for (net, _, deviation), error, narrow in zip(rows, believed, half, strict=True):
        ms = table.total(net) * math.exp(error)
        scale = (known[net].half_width_pct / 100) ** 2 - (1.96 * deviation) ** 2
        wide = math.hypot(narrow, math.sqrt(max(scale, 0.0)))
        found[net] = replace(
            known[net],
            median_ms=ms,
            ci_ms=(ms * (1 - wide), ms * (1 + wide)),
            spread_ms=float(narrow) * ms,
        )
    return found


def _next_batch(
    space: SearchSpace,
    table: LatencyTable,
    best: Subnet,
    batch: list[Subnet],
    known: Mapping[Subnet, Measured],
    target_ms: float,
    beside: Sequence[Constraint],
) -> list[Subnet]:
    """The best nets so far and new ones near the best, by the table corrected for its error."""
    corrected_ms = table.total(best) * target_ms / known[best].median_ms
    found = nearby(
        space, table, best, corrected_ms, beside, max_moves=MAX_MOVES, count=NEW + len(known)
    )
    new = [net for net in found if net not in known][:NEW]
    by_gap = sorted(batch, key=lambda net: _gap(known[net], target_ms))
    return [*by_gap[: max(1, CANDIDATES - len(new))], *new]


def _gap(measured: Measured, target_ms: float) -> float:
    return abs(measured.median_ms / target_ms - 1)


def _inside(measured: Measured, target_ms: float, tolerance: float, at_most: bool) -> bool:
    return all(within_tolerance(ms, target_ms, tolerance, at_most) for ms in measured.ci_ms)


def _step(
    net: Subnet, measured: Measured, first: Subnet, table: LatencyTable, seconds: float
) -> Step:
    return Step(
        table_ms=table.total(net),
        measured_ms=measured.median_ms,
        ci_ms=measured.ci_ms,
        samples=measured.samples,
        moved=sum(a != b for a, b in zip(net.blocks, first.blocks, strict=True)),
        seconds=seconds,
    )
