"""python -m benchmarks.latency.profile_cost [--space tfnas] [--minutes 2.6]

What a table costs beyond its pure measuring: a whole profile into a new file, and where its wall
time goes. Pure measuring is the time inside the bursts (warm-up run included) of all that is
measured: rows, probe, whole nets, anchors. The reference block beside every sample, building models
and statistics come on top.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.supernet import steps
from profilers.contract import Profiler
from profilers.devices import open_profiler
from profilers.measure.bench import REFERENCE
from profilers.onboard.rounds import Burst, Workload
from profilers.tables.build import build_table
from tfnas.app.values import load_space
from tfnas.space.ops import OpSpec


@dataclass
class Clock:
    """Wall seconds."""

    measuring: float = 0.0
    reference: float = 0.0
    building: float = 0.0


@dataclass
class Counted:
    """A workload whose bursts are counted."""

    workload: Workload
    clock: Clock
    is_reference: bool
    name: str = field(init=False)

    def __post_init__(self) -> None:
        self.name = self.workload.name

    def burst(self, runs: int) -> Burst:
        start = time.perf_counter()
        burst = self.workload.burst(runs)
        seconds = time.perf_counter() - start
        if self.is_reference:
            self.clock.reference += seconds
        else:
            self.clock.measuring += seconds
        return burst

    def close(self) -> None:
        self.workload.close()


class CountedProfiler(Profiler):
    """A profiler whose workloads are counted."""

    def __init__(self, profiler: Profiler, clock: Clock):
        self.profiler, self.clock = profiler, clock
        self.device = profiler.device

    def workload(self, ops: Sequence[OpSpec]) -> Counted:
        start = time.perf_counter()
        workload = self.profiler.workload(ops)
        self.clock.building += time.perf_counter() - start
        return Counted(workload, self.clock, tuple(ops) == REFERENCE)

    def load(self, name: str, model: bytes) -> Workload:
        return self.profiler.load(name, model)


def above_0(text: str) -> float:
    """An argument of the command line."""
    value = float(text)
    if not 0 < value < 1e4:
        raise argparse.ArgumentTypeError(f"{text}: expected a number above 0")
    return value


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--space", default="tfnas", type=steps.space_name, help="a file of conf/space/"
    )
    parser.add_argument("--minutes", type=above_0, default=2.6)
    parser.add_argument("--precision", type=above_0, default=0.006)
    parser.add_argument("--nets", type=steps.positive, default=24)
    args = parser.parse_args(arguments)
    clock = Clock()
    profiler = CountedProfiler(open_profiler("cpu"), clock)
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        table = build_table(
            profiler, load_space(args.space, steps.CLASSES), Path(folder) / "table.json",
            max_minutes=args.minutes, precision=args.precision, anchor_nets=args.nets, seed=0,
        )  # fmt: skip
        wall = time.perf_counter() - start
    rest = wall - clock.measuring - clock.reference - clock.building
    rows = len(table.rows)
    print(
        f"{rows} rows, {len(table.nets)} nets in {wall:.1f} s: measuring {clock.measuring:.1f} s, "
        f"reference {clock.reference:.1f} s, building models {clock.building:.1f} s, "
        f"rest {rest:.1f} s"
    )
    print(f"wall / pure measuring: {wall / clock.measuring:.2f} (wanted: at most 2)")
    return 0


if __name__ == "__main__":
    steps.run(main)
