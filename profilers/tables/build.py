"""Building a device's latency table, or completing one.

Everything goes into one set of shuffled rounds: the points of all curves, the held-out points, the
stem and head, and the whole nets that the table is calibrated on. What is known is saved every few
seconds, so that a killed run loses seconds, and the next one measures only what is missing.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from profilers.contract import DeviceError, LinkError, Profiler
from profilers.measure.activations import compare_with_float
from profilers.measure.bench import Bench
from profilers.measure.timing import Measured, Progress
from profilers.tables.meanwhile import on_other_cores, with_conditions
from profilers.tables.own import check_own
from profilers.tables.plan import (
    Plan,
    calibration_nets,
    calibration_of,
    digest_of,
    extremes,
    held_out_errors,
    held_out_of,
    net_key,
    plan,
    pooled,
)
from profilers.tables.quantum import Point, probe_quantum
from tfnas.latency.table import Calibration, LatencyTable, Measurement, SpaceFit
from tfnas.space.ops import OpSpec
from tfnas.space.search_space import SearchSpace
from tfnas.space.spec import SpaceSpec
from tfnas.space.subnet import Subnet

log = logging.getLogger(__name__)

ENOUGH_RUNS = 16  # a row with so many samples is measured, whatever precision it reached,
USELESS = 0.25  # unless its interval's half-width is such a fraction: then it is gone on with
FEWEST_RUNS = 3  # below it a row isn't saved: its median would mean nothing
PROBE_PRECISION, PROBE_SECONDS = 0.004, 8.0
EXTREMES_PRECISION, EXTREMES_SECONDS = 0.02, 5.0


def extremes_ms(
    profiler: Profiler, space: SearchSpace, progress: Progress = log.info
) -> tuple[float, float]:
    """Latency of the smallest and the largest net of a space (by MACs), within seconds.

    The device's width quantum isn't known yet, and MACs aren't latency; so the true range may be
    wider by a few percent, and callers must allow for that.
    """
    ends = extremes(space)
    with Bench(profiler, 0, progress, anchors=()) as bench:
        workloads = [bench.workload(net.ops) for net in ends]
        small, large = bench.measure(
            workloads,
            precision=EXTREMES_PRECISION,
            max_seconds=EXTREMES_SECONDS,
            own_anchors=(0, 1),
            min_rounds=8,
            label="smallest and largest net",
        )
    return small.median_ms, large.median_ms


def is_complete(table: LatencyTable, spec: SpaceSpec) -> bool:
    """Whether nothing of a space is left to be measured."""
    if not table.quantum_evidence:
        return False
    space = spec.build(table.device.quantum)
    wanted = plan(space)
    return not _todo(table, wanted) and _is_calibrated(table, space, wanted)


def _is_calibrated(table: LatencyTable, space: SearchSpace, wanted: Plan) -> bool:
    """Whether there is a calibration from nets of this space, on the rows as they are now."""
    calibration = _calibration(table, space)
    return calibration is not None and calibration.rows == digest_of(table, wanted)


def _calibration(table: LatencyTable, space: SearchSpace) -> Calibration | None:
    return table.spaces.get(space.key, SpaceFit()).calibration


def build_table(
    profiler: Profiler,
    spec: SpaceSpec,
    path: Path,
    *,
    max_minutes: float,
    precision: float,
    anchor_nets: int,
    seed: int,
    progress: Progress = log.info,
) -> LatencyTable:
    """Measure what a table lacks of a space, calibrate it and save it.

    Args:
        max_minutes: for all of it; rows then have the precision that was reached, and say so.
        precision: half-width of a row's 95 % interval to reach, as a fraction.
        anchor_nets: whole random nets to calibrate on.
        progress: gets a line every few seconds.

    Raises:
        ValueError: if the file is unusable or another context's.
        LookupError: if the time was too short to cover the space.
    """
    table = open_table(profiler, path)
    if is_complete(table, spec):
        progress(f"{path} is complete for space={spec.name}: nothing to measure")
        return table.for_space(spec.build(table.device.quantum))
    if not table.rows:
        compare_with_float(profiler)
    with Bench(profiler, seed, progress) as bench:
        start = time.monotonic()
        table = open_table(profiler, path)  # whoever held the lock may have measured it all
        if warning := on_other_cores(table.notes, bench.watch):
            progress(warning)
        if not table.quantum_evidence:
            table = _with_quantum(bench, table, min(PROBE_SECONDS, 60 * max_minutes / 4))
            table.save(path)
        space = spec.build(table.device.quantum)
        wanted = plan(space)
        before = _calibration(table, space)
        if before is not None:  # its nets are known, and serve again where rows have changed
            anchor_nets, seed = before.nets, before.seed
        nets = calibration_nets(space, anchor_nets, seed)
        seconds = max(0.0, max_minutes * 60 - (time.monotonic() - start))
        table = _complete(bench, table, path, wanted, nets, precision, seconds)
    table = _finish(table, wanted, nets, space, seed)
    table.save(path)
    table = table.for_space(space)
    progress(f"{path}: {_summary(table, wanted)}, {time.monotonic() - start:.0f} s")
    if useless := [op for op in wanted.ops if op in table.rows and _useless(table.rows[op])]:
        progress(
            f"warning: {len(useless)} of {len(wanted.ops)} ops are known to no better than "
            f"±{USELESS:.0%}: this machine does other work on the cores that are measured; "
            "the same command on a quieter machine goes on with them"
        )
    return table


def open_table(profiler: Profiler, path: Path) -> LatencyTable:
    """The table to complete, or an empty one. Raises ValueError for one that can't be."""
    if not path.exists():
        notes = (f"activations: {profiler.evidence}",) if profiler.evidence else ()
        return LatencyTable(profiler.device, {}, notes=notes, source=str(path))
    table = LatencyTable.load(path)
    check_own(table.device, profiler.device, path)
    return table


def is_enough(row: Measurement | None) -> bool:
    """Whether a row or a net needs no more samples."""
    return row is not None and row.runs >= ENOUGH_RUNS and not _useless(row)


def _useless(row: Measurement) -> bool:
    return row.spread_ms > USELESS * row.median_ms


def _todo(table: LatencyTable, wanted: Plan) -> list[OpSpec]:
    return [op for op in wanted.ops if not is_enough(table.rows.get(op))]


def _with_quantum(bench: Bench, table: LatencyTable, seconds: float) -> LatencyTable:
    """The table with the widths that its device likes."""

    def measure(ops: Sequence[OpSpec]) -> list[Point]:
        workloads = [bench.workload([op]) for op in ops]
        results = bench.measure(
            workloads,
            precision=PROBE_PRECISION,
            max_seconds=seconds,
            anchored=False,
            label="widths that this device likes",
        )
        for workload in workloads:
            workload.close()
        return [(r.median_ms, r.spread_ms) for r in results]

    found = probe_quantum(measure)
    bench.progress(str(found))
    device = replace(table.device, quantum=found.quantum)
    return replace(table, device=device, quantum_evidence=found.evidence)


def _complete(
    bench: Bench,
    table: LatencyTable,
    path: Path,
    wanted: Plan,
    nets: Sequence[Subnet],
    precision: float,
    seconds: float,
) -> LatencyTable:
    """Measure the ops and nets that are missing; what was measured stays, whatever ends it."""
    ops = _todo(table, wanted)
    nets = [net for net in nets if not is_enough(table.nets.get(net_key(net)))]
    bench.progress(f"{len(ops)} of {len(wanted.ops)} ops and {len(nets)} whole nets to measure")
    try:
        return _measure(bench, table, path, ops, nets, precision, seconds)
    except KeyboardInterrupt:
        bench.progress(f"interrupted: what was measured is in {path}; the same command goes on")
        raise
    except (LinkError, DeviceError) as error:
        raise type(error)(
            f"{error}; what was measured is in {path}; the same command goes on"
        ) from None


def _measure(
    bench: Bench,
    table: LatencyTable,
    path: Path,
    ops: Sequence[OpSpec],
    nets: Sequence[Subnet],
    precision: float,
    seconds: float,
) -> LatencyTable:
    """Measure ops and nets side by side; saved as they come."""
    latest = table

    def checkpoint(results: Sequence[Measured]) -> None:
        nonlocal latest
        rows, whole = dict(table.rows), dict(table.nets)
        for index, found in enumerate(results):
            if found.samples < FEWEST_RUNS or not math.isfinite(found.median_ms):
                continue
            spread_ms = found.spread_ms if math.isfinite(found.spread_ms) else math.nan
            fresh = Measurement(found.median_ms, spread_ms, found.samples)
            if index < len(ops):
                rows[ops[index]] = pooled(table.rows.get(ops[index]), fresh)
            else:
                key = net_key(nets[index - len(ops)])
                whole[key] = pooled(table.nets.get(key), fresh)
        notes = with_conditions(table.notes, bench.watch)
        latest = replace(table, rows=rows, nets=whole, notes=notes)
        latest.save(path)

    workloads = bench.workloads([*([op] for op in ops), *(net.ops for net in nets)])
    bench.measure(
        workloads,
        precision=precision,
        max_seconds=seconds,
        own_anchors=range(len(ops), len(workloads)),
        min_rounds=ENOUGH_RUNS,
        label="latency table",
        checkpoint=checkpoint,
        checkpoint_every_s=min(5.0, seconds / 20),
    )
    return latest


def _finish(
    table: LatencyTable, wanted: Plan, nets: Sequence[Subnet], space: SearchSpace, seed: int
) -> LatencyTable:
    table = table.with_fit(space, held_out=held_out_of(held_out_errors(table, wanted.held_out)))
    found = calibration_of(table, nets)
    if found is None or _is_calibrated(table, space, wanted):
        return table  # only the classifier was new
    found = replace(found, rows=digest_of(table, wanted), seed=seed)
    return table.with_fit(space, calibration=found, card=None)  # a card tells of the one before


def _summary(table: LatencyTable, wanted: Plan) -> str:
    spreads = [table.rows[op].spread_ms / table.rows[op].median_ms for op in wanted.ops]
    known = sorted(s for s in spreads if not math.isnan(s))
    text = f"{len(table.rows)} measured rows"
    if known:
        text += f", median interval ±{known[len(known) // 2]:.2%}"
    fit = table.spaces[table.space or ""]
    if fit.held_out:
        text += f", held-out error {fit.held_out.mean_pct:.2f} % mean"
        text += f", {fit.held_out.p95_pct:.2f} % p95"
    if fit.calibration:
        text += f", scale {fit.calibration.scale:.4f} from {fit.calibration.nets} nets"
        text += f" (error {fit.calibration.mape_pct:.2f} %)"
    return text
