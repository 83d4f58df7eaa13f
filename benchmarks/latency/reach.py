"""python -m benchmarks.latency.reach FILE [--starts 300] [--targets 6,10,12,15,18,24]

How often and how nearly derivation meets a target on a latency table: the published greedy scaling
and the constrained optimum side by side, from the same random starts.

A start draws alpha and beta logits from a normal distribution (mean 0, deviation 1) and takes their
log-softmax; widths are the initial ones (e3, e6). Start i has numpy's default generator seeded with
(seed, i), and every target sees the same starts. FILE is a table of ours (JSON) or any file that
`tfnas.latency.importers` reads.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tfnas.app.values import load_space
from tfnas.derive.architecture import Architecture, Constraint, Derived
from tfnas.derive.menu import feasible
from tfnas.derive.methods import derive_constrained, derive_greedy
from tfnas.latency import importers
from tfnas.latency.table import LatencyTable
from tfnas.space.search_space import SearchSpace


@dataclass(frozen=True)
class Outcome:
    """Attributes:
    gap: (latency - target) / target.
    given_up: log-probability below the argmax, in nats.
    """

    reached: bool
    gap: float
    given_up: float
    seconds: float


def load_table(path: Path, unit: str | None) -> LatencyTable:
    if path.suffix == ".json":
        return LatencyTable.load(path)
    return importers.read(path, unit=unit, device=path.stem, batch=1, partial=True).table


def random_start(space: SearchSpace, seed: int, index: int) -> Architecture:
    rng = np.random.default_rng((seed, index))

    def log_softmax(n: int) -> np.ndarray:
        logits = rng.normal(size=n)
        return logits - np.log(np.exp(logits).sum())

    return Architecture(
        tuple(log_softmax(len(block)) for block in space.blocks),
        tuple(log_softmax(len(stage.depths)) for stage in space.stages),
        Architecture.initial(space).widths,
    )


def outcome(
    derive: Callable[[SearchSpace, Architecture, Constraint], Derived],
    space: SearchSpace,
    arch: Architecture,
    constraint: Constraint,
) -> Outcome:
    start = time.perf_counter()
    derived = derive(space, arch, constraint)
    seconds = time.perf_counter() - start
    gap = derived.costs[0] / constraint.target - 1
    return Outcome(derived.reached, gap, derived.argmax_log_prob - derived.log_prob, seconds)


def constrained(space: SearchSpace, arch: Architecture, constraint: Constraint) -> Derived:
    return derive_constrained(space, arch, [constraint])


def line(target_ms: float, method: str, outcomes: list[Outcome]) -> str:
    gaps = 100 * np.array([abs(o.gap) for o in outcomes])
    lost = np.array([o.given_up for o in outcomes])
    seconds = np.array([o.seconds for o in outcomes])
    within = np.mean(gaps <= 1)
    return (
        f"{target_ms:7g}  {method:<11} {np.mean([o.reached for o in outcomes]):8.1%} {within:8.1%}"
        f"  {np.median(gaps):8.4f} {np.percentile(gaps, 99):8.4f} {gaps.max():8.4f}"
        f"  {np.median(lost):7.3f} {lost.mean():7.3f} {lost.max():7.3f}"
        f"  {1e3 * np.median(seconds):8.1f} {1e3 * seconds.max():8.1f}"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[2])
    parser.add_argument("file", type=Path)
    parser.add_argument("--starts", type=int, default=300)
    parser.add_argument("--targets", default="6,10,12,15,18,24", help="ms, separated by commas")
    parser.add_argument("--space", default="tfnas", help="a file of conf/space/")
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--quantum", type=int, help="of widths; default: the table's own")
    parser.add_argument("--tol", type=float, default=5e-4, help="fraction of the target")
    parser.add_argument("--unit", help="s, ms or us, for a file whose layout doesn't fix it")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    try:
        table = load_table(args.file, args.unit)
        spec = load_space(args.space, args.classes)
        space = spec.build(args.quantum or table.device.quantum)
        low, high = feasible(space, table)
        targets = [float(text) for text in args.targets.split(",")]
    except (ValueError, LookupError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(
        f"{args.file.name}: space {space.name} at multiples of {space.quantum}, reachable "
        f"{low:.2f} to {high:.2f} ms; {args.starts} starts, seed {args.seed}, "
        f"reached = within {args.tol:.2%}"
    )
    print(
        f"{'target':>7}  {'method':<11} {'reached':>8} {'in 1 %':>8}"
        f"  {'|gap|%':>8} {'p99':>8} {'max':>8}  {'nats':>7} {'mean':>7} {'max':>7}"
        f"  {'ms each':>8} {'max':>8}"
    )
    starts = [random_start(space, args.seed, index) for index in range(args.starts)]
    for target_ms in targets:
        constraint = Constraint(table, target_ms, tol=args.tol)
        if not low <= target_ms <= high:
            print(f"{target_ms:7g}  out of reach")
            continue
        for name, derive in (("greedy", derive_greedy), ("constrained", constrained)):
            outcomes = [outcome(derive, space, arch, constraint) for arch in starts]
            print(line(target_ms, name, outcomes), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
