"""Closing on every device at hand: the first has the target, the others have what is beside it.

Each device in turn tells how far off its table is for the net. Other nets share most of that error
(see `profilers.tables.closed_loop`), so the next net is looked for by all tables corrected for it:
among those a few widths away, and anew where none of these meets all.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from profilers.contract import Profiler
from profilers.measure.bench import Bench
from profilers.measure.timing import Measured, Progress
from profilers.tables.closed_loop import INSIDE, MAX_MOVES, LoopResult, close_loop
from tfnas.derive.architecture import Constraint
from tfnas.derive.nearby import nearby
from tfnas.latency.table import LatencyTable
from tfnas.runs.result import within_tolerance
from tfnas.space.search_space import SearchSpace
from tfnas.space.subnet import Subnet

log = logging.getLogger(__name__)

Anew = Callable[[Sequence[Constraint]], Subnet | None]
SHARES = (1.0, 0.5, 0.25)  # of the loop's time, in each turn; later turns change little
CHECK = 0.25  # of it, for each other device in each turn
MARGIN = 0.5  # of the tolerance: what the corrected tables may leave between a net and a target


def most_minutes(loop_minutes: float, others: int) -> float:
    """The most that `close_all` takes."""
    turns = len(SHARES) if others else 1
    return loop_minutes * (sum(SHARES[:turns]) + turns * others * CHECK)


def close_all(
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
    at_hand: Mapping[int, Profiler] | None = None,
    anew: Anew = lambda constraints: None,
    progress: Progress = log.info,
    now: Callable[[], float] = time.monotonic,
) -> LoopResult:
    """Move few widths of a net until it meets its target, and what is beside it, as measured.

    Args:
        at_hand: devices of some of `beside`, by their place in it.
        anew: gives the best net that meets the target and what is beside it; None if there is none.
        tolerance, off, max_minutes: see `close_loop`; see also `most_minutes`.

    Returns:
        The loop of the net that is least off on any device; `within` is about the first device.
    """
    others, wanted = at_hand or {}, list(beside)
    ended: list[tuple[float, LoopResult]] = []  # the largest distance from a target, a fraction
    for share in SHARES:
        loop = close_loop(
            profiler, space, table, subnet, target_ms,
            tolerance=tolerance, at_most=at_most, off=off, max_minutes=share * max_minutes,
            seed=seed, beside=wanted, progress=progress, now=now,
        )  # fmt: skip
        net, off = loop.subnet, loop.measured.median_ms / loop.table_ms
        trail = (*(ended[-1][1].trail if ended else ()), *loop.trail)
        farthest = 0.0
        for i, other in others.items():
            check_s = 60 * CHECK * max_minutes
            with Bench(other, seed, progress, now=now) as bench:
                measured = _measure(bench, net, beside[i], tolerance, check_s)
            told = beside[i].cost.total(net)
            wanted[i] = replace(
                beside[i],
                target=beside[i].target * told / measured.median_ms,
                tol=max(beside[i].tol, MARGIN * tolerance),
            )
            farthest = max(farthest, _off(measured, beside[i].target, beside[i].at_most))
        whole = max(farthest, _off(loop.measured, target_ms, at_most))
        ended.append((whole, replace(loop, trail=trail)))
        if farthest <= MARGIN * tolerance:
            break
        near = nearby(space, table, net, target_ms / off, wanted, MAX_MOVES, count=1)
        met = near and within_tolerance(table.total(near[0]), target_ms / off, tolerance, at_most)
        first = Constraint(table, target_ms / off, at_most)
        if (next_net := near[0] if met else anew([first, *wanted])) is None:
            progress("no net meets the targets of all devices, as they measure")
            break
        subnet = next_net
    return min(ended, key=lambda turn: turn[0])[1]


def _off(measured: Measured, target_ms: float, at_most: bool) -> float:
    """How far a latency is from its target, as a fraction; below it nothing, where that is fine."""
    off = measured.median_ms / target_ms - 1
    return max(off, 0.0) if at_most else abs(off)


def _measure(
    bench: Bench, net: Subnet, constraint: Constraint, tolerance: float, max_seconds: float
) -> Measured:
    """A whole net on one of the other devices."""
    label = f"checking {constraint}"
    (measured,) = bench.measure(
        [bench.workload(net.ops)],
        precision=INSIDE * tolerance,
        max_seconds=max_seconds,
        own_anchors=(0,),
        label=label,
    )
    met = within_tolerance(measured.median_ms, constraint.target, tolerance, constraint.at_most)
    gap = measured.median_ms / constraint.target - 1
    bench.progress(f"{label}: {measured}, {gap:+.2%} off{'' if met else ', missed'}")
    return measured
