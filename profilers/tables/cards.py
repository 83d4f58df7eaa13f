"""Calibration cards: whole nets measured against a table."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Sequence

import numpy as np

from profilers.contract import Profiler
from profilers.measure.bench import Bench
from profilers.measure.timing import Measured, Progress
from profilers.tables.plan import net_key
from tfnas.intervals import spearman
from tfnas.latency.card import Card, CardNet
from tfnas.latency.table import LatencyTable
from tfnas.space.search_space import SearchSpace
from tfnas.space.subnet import Subnet

log = logging.getLogger(__name__)

WITHIN_PCT = (1, 5, 10)
RIDGE = 1e-3  # of the mean squared stage latency; keeps stages that hardly vary from guessing


def make_card(
    profiler: Profiler,
    table: LatencyTable,
    space: SearchSpace,
    *,
    nets: int,
    precision: float,
    max_minutes: float,
    seed: int,
    progress: Progress = log.info,
) -> Card:
    """Measure whole random nets against a table.

    Raises:
        LookupError: if the table doesn't cover the space, or isn't calibrated for it.
    """
    table = table.for_space(space)
    start = time.monotonic()
    drawn = draw(space, table, nets, seed)
    with Bench(profiler, seed, progress) as bench:
        measured = bench.measure(
            bench.workloads([net.ops for net in drawn]),
            precision=precision,
            max_seconds=60 * max_minutes,
            own_anchors=range(len(drawn)),
            label="calibration card",
        )
    return card_of(table, drawn, measured, time.monotonic() - start)


def draw(space: SearchSpace, table: LatencyTable, count: int, seed: int) -> list[Subnet]:
    """Random nets that the table was not calibrated on, no two alike.

    Raises:
        ValueError: if the space doesn't have so many.
    """
    rng = random.Random(f"card {seed}")
    found: dict[str, Subnet] = {}
    for _ in range(50 * count):
        net = space.sample(rng)
        if net_key(net) not in table.nets:
            found.setdefault(net_key(net), net)
        if len(found) == count:
            return list(found.values())
    raise ValueError(f"nets={count}: space={space.name} has too few nets that differ")


def card_of(
    table: LatencyTable, nets: Sequence[Subnet], measured: Sequence[Measured], seconds: float
) -> Card:
    """The card of nets and their measured latencies."""
    rows = tuple(
        CardNet(table.total(net), m.median_ms, m.half_width_pct, net.macs)
        for net, m in zip(nets, measured, strict=True)
    )
    errors = np.array([row.error_pct for row in rows])
    return Card(
        nets=rows,
        mape_pct=float(np.mean(abs(errors))),
        bias_pct=float(np.mean(errors)),
        within_pct={p: float(100 * np.mean(abs(errors) <= p)) for p in WITHIN_PCT},
        spearman=spearman([r.table_ms for r in rows], [r.measured_ms for r in rows]),
        worst=max(rows, key=lambda row: abs(row.error_pct)),
        stages_pct=dict(stage_residuals(table, nets, [m.median_ms for m in measured])),
        noisy=sum(m.noisy is not None for m in measured),
        seconds=round(seconds, 1),
    )


def stage_residuals(
    table: LatencyTable, nets: Sequence[Subnet], measured_ms: Sequence[float]
) -> tuple[tuple[str, float], ...]:
    """By how many percent each stage costs more inside whole nets than the table says."""
    names = [f"stage {i}" for i in range(1, len(nets[0].stages) + 1)]
    parts = np.array([[sum(table.ms(op) for op in s) for s in net.stages] for net in nets])
    if table.overhead_ms is None:
        names = ["stem", *names, "head"]
        ends = [[sum(table.ms(op) for op in ops) for ops in (n.stem, n.head)] for n in nets]
        parts = np.column_stack(([e[0] for e in ends], parts, [e[1] for e in ends]))
    residual = np.array(measured_ms) - np.array([table.total(net) for net in nets])
    ridge = RIDGE * len(nets) * float(np.mean(parts**2)) * np.eye(parts.shape[1])
    factors = np.linalg.solve(parts.T @ parts + ridge, parts.T @ residual)
    return tuple((name, float(100 * f)) for name, f in zip(names, factors, strict=True))
