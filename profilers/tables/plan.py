"""What is measured of a space, and what is read off it. No clock here."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from tfnas.latency.table import Calibration, HeldOut, LatencyTable, Measurement, group_of
from tfnas.space.ops import OpSpec
from tfnas.space.search_space import Choice, SearchSpace
from tfnas.space.subnet import Subnet

WIDE = 3.0  # a curve whose largest width is this many times its smallest gets a fourth point
# Draws calibration factors towards 1. With 24 nets on x86 the error on other nets of the same
# session was 1.03 %, where one scale for all leaves 2.5 %; ten times as much 1.17 %.
RIDGE = 3e-4
FACTORS = (0.5, 2.0)  # beyond, it's a fault of the fit, not of a device


@dataclass(frozen=True)
class Plan:
    """The ops to measure for a space.

    Attributes:
        ops: everything, held-out points included.
        held_out: points between two others of their curve, measured to learn how far off
            interpolation is. They serve as rows too once that is known.
    """

    ops: tuple[OpSpec, ...]
    held_out: tuple[OpSpec, ...]


def plan(space: SearchSpace) -> Plan:
    """3-4 widths a curve, the ends among them, and one held out; the same for the same curve."""
    ops, held = [op for op in space.fixed if not op.free], []
    for curve, widths in space.curves().items():
        knots, extra = split_widths(curve, widths)
        ops += [replace(curve, c_mid=w) for w in (*knots, *extra)]
        held += [replace(curve, c_mid=w) for w in extra]
    return Plan(tuple(dict.fromkeys(ops)), tuple(held))


def split_widths(curve: OpSpec, widths: Sequence[int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """(widths to interpolate between, widths held out), from the admissible ones, ascending."""
    count = 4 if widths[-1] >= WIDE * widths[0] else 3
    wanted = np.linspace(widths[0], widths[-1], count)
    knots = sorted({min(widths, key=lambda w: (abs(w - x), w)) for x in wanted})
    between = [w for w in widths if w not in knots]
    if not between:
        return tuple(knots), ()
    # Drawn by the curve itself, so that a run that completes a table draws the same.
    return tuple(knots), (random.Random(str(curve)).choice(between),)


def held_out_errors(table: LatencyTable, held_out: Sequence[OpSpec]) -> dict[OpSpec, float]:
    """Relative error of the table at each held-out point, predicted without these points."""
    rest = {op: row for op, row in table.rows.items() if op not in set(held_out)}
    without = replace(table, rows=rest).uncalibrated()
    return {
        op: without.ms(op) / table.rows[op].median_ms - 1
        for op in held_out
        if op in table.rows and without.covers(op)
    }


def held_out_of(errors: Mapping[OpSpec, float]) -> HeldOut | None:
    if not errors:
        return None
    pct = 100 * np.abs(np.array(list(errors.values())))
    return HeldOut(
        points=len(pct),
        mean_pct=float(pct.mean()),
        p95_pct=float(np.percentile(pct, 95)),
        max_pct=float(pct.max()),
    )


def digest_of(table: LatencyTable, wanted: Plan) -> str:
    """Of the rows that a calibration rests on; all but the classifier, whose share is small, so
    that spaces that differ in their number of classes have one calibration."""
    rows = [
        (str(op), row.median_ms)
        for op in wanted.ops
        if not op.classifies and (row := table.rows.get(op))
    ]
    return hashlib.sha256(repr(rows).encode()).hexdigest()[:12]


def calibration_of(table: LatencyTable, nets: Sequence[Subnet]) -> Calibration | None:
    """From sums of ops to whole nets, by those of `nets` that were measured.

    One factor for all, and one for each group of ops on top of it, fitted by least squares on
    relative errors and drawn towards 1 as far as so few nets leave them open.
    """
    pairs = [(net, row.median_ms) for net in nets if (row := table.nets.get(net_key(net)))]
    if not pairs:
        return None
    bare = table.uncalibrated()
    parts = [_by_group(bare, net) for net, _ in pairs]
    groups = sorted({group for part in parts for group in part})
    sums = np.array([[part.get(g, 0.0) for g in groups] for part in parts])  # (nets, groups)
    whole = np.array([ms for _, ms in pairs])
    scale, factors = _fit(sums, whole)
    others = ~np.eye(len(pairs), dtype=bool)
    errors = []
    for index, rest in enumerate(others if len(pairs) > 1 else [np.array([True])]):
        s, f = _fit(sums[rest], whole[rest])
        errors.append(abs(s * float(sums[index] @ f) / whole[index] - 1))
    return Calibration(
        scale=scale,
        nets=len(pairs),
        mape_pct=float(100 * np.mean(errors)),
        factors=tuple(zip(groups, (float(f) for f in factors), strict=True)),
    )


def _by_group(bare: LatencyTable, net: Subnet) -> dict[str, float]:
    """Uncalibrated latency of a net's ops by group; overhead counts as one of the fixed."""
    parts = {"fixed": bare.fixed(net)}
    for op in net.blocks:
        parts[group_of(op)] = parts.get(group_of(op), 0.0) + bare.ms(op)
    return parts


def _fit(sums: np.ndarray, whole: np.ndarray) -> tuple[float, np.ndarray]:
    """(scale, (groups,) factors) from (nets, groups) sums and (nets,) whole latencies."""
    scale = float(np.exp(np.mean(np.log(whole / sums.sum(1)))))
    shares = scale * sums / whole[:, None]
    ridge = RIDGE * len(whole) * np.eye(sums.shape[1])
    rest = 1 - shares.sum(1)
    step = np.linalg.solve(shares.T @ shares + ridge, shares.T @ rest)
    return scale, np.clip(1 + step, *FACTORS)


def calibration_nets(space: SearchSpace, count: int, seed: int) -> list[Subnet]:
    """Random nets, and the smallest and the largest: random ones alone are too alike to tell what
    the fixed ops cost from what the blocks cost."""
    rng = random.Random(f"calibration {seed}")
    return [*extremes(space), *(space.sample(rng) for _ in range(count))][:count]


def net_key(net: Subnet) -> str:
    """Identifies a net by its ops, whatever space it was drawn from."""
    return hashlib.sha256("|".join(map(str, net.ops)).encode()).hexdigest()[:16]


def pooled(old: Measurement | None, new: Measurement) -> Measurement:
    """Two measurements of one thing in one unit, weighted by their samples."""
    if old is None or old.runs == 0:
        return new
    a, b = old.runs / (old.runs + new.runs), new.runs / (old.runs + new.runs)
    return Measurement(
        median_ms=a * old.median_ms + b * new.median_ms,
        spread_ms=float(np.hypot(a * old.spread_ms, b * new.spread_ms)),
        runs=old.runs + new.runs,
    )


def extremes(space: SearchSpace) -> tuple[Subnet, Subnet]:
    """The nets of a space with the fewest and the most multiply-accumulates.

    Their widths are multiples of 8 where the space has such, so that no device's slow path is
    mistaken for the smallest net's latency while the device's quantum isn't known.
    """

    def net(end: int) -> Subnet:
        sign = 1 if end == 0 else -1
        depths = [stage.depths[end] for stage in space.stages]
        picks, widths = [], []
        for block in space.blocks:
            ends = [_aligned(choice)[end] for choice in block]
            macs = [choice.at(w).macs for choice, w in zip(block, ends, strict=True)]
            pick = min(range(len(block)), key=lambda i: (sign * macs[i], i))
            picks.append(pick)
            widths.append(ends[pick])
        return space.subnet(depths, picks, widths)

    return net(0), net(-1)


def _aligned(choice: Choice) -> Sequence[int]:
    return [w for w in choice.widths if w % 8 == 0] or choice.widths
