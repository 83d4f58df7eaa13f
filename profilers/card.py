"""python -m profilers.card

The calibration card of a latency table: whole random nets, none of those it was calibrated on, are
measured and compared with what the table says. The card is printed, written into the table's
header, and drawn where `plot=FILE.svg` asks for it.
"""

from __future__ import annotations

import importlib.util
import logging
import math
import random
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from profilers import Profiler, check_own, find_table, open_configured, table_path
from profilers.__main__ import with_classes
from profilers.bench import Bench
from profilers.build import open_all
from profilers.plan import net_key
from profilers.timing import Measured, Progress
from tfnas.config import DONE, CardConfig, Work, check_positive, check_writable, main
from tfnas.intervals import spearman
from tfnas.space import SearchSpace, Subnet
from tfnas.table import LatencyTable

log = logging.getLogger(__name__)

WITHIN_PCT = (1, 5, 10)
RIDGE = 1e-3  # of the mean squared stage latency; keeps stages that hardly vary from guessing


@dataclass(frozen=True)
class CardNet:
    """One net of a card: what the table says and what the device says."""

    table_ms: float
    measured_ms: float
    half_width_pct: float
    macs: int

    @property
    def error_pct(self) -> float:
        """The table against the device, signed."""
        return 100 * (self.table_ms / self.measured_ms - 1)


@dataclass(frozen=True)
class Card:
    """How true a table is; errors are the table's against the device's, in percent.

    Attributes:
        within_pct: (limit, share of nets whose error is at most that), all in percent.
        stages_pct: (name, residual): how much more or less than the table says a stage costs
            inside whole nets, fitted over all nets.
        noisy: nets whose interval deserves doubt.
    """

    nets: tuple[CardNet, ...]
    mape_pct: float
    bias_pct: float
    within_pct: tuple[tuple[int, float], ...]
    spearman: float
    worst: CardNet
    stages_pct: tuple[tuple[str, float], ...]
    noisy: int
    seconds: float

    def to_json(self) -> dict[str, Any]:
        data = {**asdict(self), "within_pct": {str(k): v for k, v in self.within_pct}}
        data["stages_pct"] = dict(self.stages_pct)
        return {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in data.items()}

    def __str__(self) -> str:
        shares = ", ".join(f"{share:.0f} % within ±{limit} %" for limit, share in self.within_pct)
        worst = self.worst
        stages = ", ".join(f"{name} {residual:+.1f} %" for name, residual in self.stages_pct)
        low, high = (f(n.measured_ms for n in self.nets) for f in (min, max))
        lines = [
            f"calibration card: {len(self.nets)} whole nets of {low:.3g} to {high:.3g} ms",
            f"  mean absolute error  {self.mape_pct:.2f} %",
            f"  bias                 {self.bias_pct:+.2f} %",
            f"  share                {shares}",
            f"  Spearman             {self.spearman:.4f}",
            f"  worst                {worst.error_pct:+.2f} % (table {worst.table_ms:.4g} ms, "
            f"measured {worst.measured_ms:.4g} ms)",
            f"  residual by stage    {stages}",
        ]
        if self.noisy:
            lines.append(f"  {self.noisy} nets were measured less precisely than asked")
        return "\n".join(lines)


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
            open_all(bench, [net.ops for net in drawn]),
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
        CardNet(table.subnet_ms(net), m.median_ms, m.half_width_pct, net.macs)
        for net, m in zip(nets, measured, strict=True)
    )
    errors = np.array([row.error_pct for row in rows])
    return Card(
        nets=rows,
        mape_pct=float(np.mean(abs(errors))),
        bias_pct=float(np.mean(errors)),
        within_pct=tuple((p, float(100 * np.mean(abs(errors) <= p))) for p in WITHIN_PCT),
        spearman=spearman([r.table_ms for r in rows], [r.measured_ms for r in rows]),
        worst=max(rows, key=lambda row: abs(row.error_pct)),
        stages_pct=stage_residuals(table, nets, [m.median_ms for m in measured]),
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
    residual = np.array(measured_ms) - np.array([table.subnet_ms(net) for net in nets])
    ridge = RIDGE * len(nets) * float(np.mean(parts**2)) * np.eye(parts.shape[1])
    factors = np.linalg.solve(parts.T @ parts + ridge, parts.T @ residual)
    return tuple((name, float(100 * f)) for name, f in zip(names, factors, strict=True))


def check_plot(path: Path) -> None:
    """Raises LookupError without matplotlib, ValueError for another suffix, OSError if the file
    can't be written."""
    if importlib.util.find_spec("matplotlib") is None:
        raise LookupError("plot=FILE needs matplotlib: pip install matplotlib")
    if path.suffix != ".svg":
        raise ValueError(f"plot={path}: expected a name that ends with .svg")
    check_writable(path)


def draw_plot(card: Card, path: Path) -> None:
    """Table against device as SVG; needs matplotlib."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    measured = [net.measured_ms for net in card.nets]
    left.plot(measured, [net.table_ms for net in card.nets], "o", ms=4)
    ends = [min(measured), max(measured)]
    left.plot(ends, ends, color="gray", lw=0.8)
    left.set(xlabel="measured, ms", ylabel="table, ms", title=f"Spearman {card.spearman:.4f}")
    right.axhline(0, color="gray", lw=0.8)
    errors = [net.error_pct for net in card.nets]
    widths = [net.half_width_pct for net in card.nets]
    right.errorbar(measured, errors, yerr=widths, fmt="o", ms=4, lw=0.8)
    title = f"error {card.mape_pct:.2f} %, bias {card.bias_pct:+.2f} %"
    right.set(xlabel="measured, ms", ylabel="table against device, %", title=title)
    figure.savefig(path, format="svg")


def prepare(config: CardConfig) -> Work:
    """Check the input; raises ValueError or LookupError if it is unusable."""
    if config.plot:
        check_plot(Path(config.plot))
    check_positive(
        nets=config.nets, max_minutes=config.max_minutes, net_precision=config.net_precision
    )
    if config.nets < 2:
        raise ValueError(f"nets={config.nets}: expected 2 or more")
    profiler = open_configured(config)
    path = Path(config.table) if config.table else find_table(profiler.device)
    table = LatencyTable.load(path or table_path(profiler.device))
    path = Path(table.source)
    check_own(table.device, profiler.device, path)
    space = with_classes(config.space, config.data).build(table.device.quantum)
    table = table.for_space(space)

    def work() -> int:
        card = make_card(
            profiler,
            table,
            space,
            nets=config.nets,
            precision=config.net_precision,
            max_minutes=config.max_minutes,
            seed=config.seed,
        )
        log.info("%s", card)
        # What another process may have measured into the file meanwhile stays.
        now = LatencyTable.load(path).for_space(space)
        if now.calibration == table.calibration:
            now.with_fit(space, card=card.to_json()).save(path)
            log.info("written into %s", path)
        else:
            log.warning("warning: %s was calibrated anew meanwhile: the card isn't kept", path)
        if config.plot:
            draw_plot(card, Path(config.plot))
            log.info("drawn in %s", config.plot)
        return DONE

    return work


if __name__ == "__main__":
    main(CardConfig, "card", prepare)
