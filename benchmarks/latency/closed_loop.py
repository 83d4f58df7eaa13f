"""python -m benchmarks.latency.closed_loop [--targets 12] [--out runs/closed_loop.jsonl]

How near the target is an exported net, measured again in a fresh process? For targets spread over
the reachable range of this machine's own table, a random architecture is derived, closed on the
device as `tfnas.search` does it, exported and verified. Each result is written as it is there; run
again, it goes on. `--busy` keeps the other cores computing meanwhile.
"""

from __future__ import annotations

import argparse
import json
import logging
import multiprocessing
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from benchmarks.latency.reach import random_start
from profilers.devices import open_profiler
from profilers.tables.closed_loop import close_loop
from profilers.tables.own import find_table
from tfnas.app.command_line import override
from tfnas.app.values import load_space
from tfnas.deploy.onnx_file import export
from tfnas.derive.architecture import Constraint
from tfnas.derive.menu import feasible
from tfnas.derive.methods import derive_constrained
from tfnas.latency.table import LatencyTable
from tfnas.space.search_space import SearchSpace

MARGIN = 0.05  # of the range, left out at both ends: random ops don't reach them


def one_target(
    space: SearchSpace, table: LatencyTable, index: int, target_ms: float, args: argparse.Namespace
) -> dict[str, object]:
    arch = random_start(space, args.seed, index)
    derived = derive_constrained(space, arch, [Constraint(table, target_ms)])
    profiler = open_profiler("cpu", threads=args.threads)
    loop = close_loop(
        profiler, space, table, derived.subnet, target_ms,
        tolerance=args.tolerance, max_minutes=args.loop_minutes, seed=args.seed + index,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        onnx, answer = Path(folder) / "model.onnx", Path(folder) / "verify.json"
        export(loop.subnet, None, onnx, batch=1)
        command = [
            sys.executable, "-m", "profilers.verify", f"threads={args.threads}",
            f"target_ms={target_ms}", f"tolerance={args.tolerance}",
            f"seed={1000 + args.seed + index}", f"verify.max_minutes={args.verify_minutes}",
            override("onnx", onnx), override("json", answer),
        ]  # fmt: skip
        subprocess.run(command, check=False)
        verified = json.loads(answer.read_text())
    first = loop.trail[0]
    return {
        "index": index,
        "busy": args.busy,
        "target_ms": target_ms,
        "table_ms": derived.costs[0],
        "first_gap_pct": 100 * (first.measured_ms / target_ms - 1),
        "loop_gap_pct": 100 * (loop.measured.median_ms / target_ms - 1),
        "loop_half_pct": loop.measured.half_width_pct,
        "steps": len(loop.trail),
        "moved": loop.trail[-1].moved,
        "verified_gap_pct": 100 * (verified["measured_ms"] / target_ms - 1),
        "verified_half_pct": 50
        * (verified["measured_ci_ms"][1] - verified["measured_ci_ms"][0])
        / verified["measured_ms"],
        "noisy": verified["noisy"],
    }


def _spin() -> None:
    a = np.random.default_rng(0).standard_normal((256, 256))
    while True:
        a = a @ a
        a /= np.abs(a).max()


@contextmanager
def neighbours(busy: bool) -> Iterator[None]:
    """All cores but one multiply matrices, if `busy`."""
    os.environ["OPENBLAS_NUM_THREADS"] = "1"
    count = (os.cpu_count() or 2) - 1 if busy else 0
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_spin, daemon=True) for _ in range(count)]
    for process in processes:
        process.start()
    try:
        yield
    finally:
        for process in processes:
            process.terminate()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--targets", type=int, default=12)
    parser.add_argument("--out", type=Path, default=Path("runs/closed_loop.jsonl"))
    parser.add_argument("--busy", action="store_true")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tolerance", type=float, default=0.01)
    parser.add_argument("--loop-minutes", type=float, default=2.0)
    parser.add_argument("--verify-minutes", type=float, default=1.5)
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    file = find_table(open_profiler("cpu", threads=args.threads).device)
    if file is None:
        sys.exit("no table of this machine; measure it with `python -m profilers device=cpu`")
    table = LatencyTable.load(file)
    space = load_space("tfnas", 10).build(table.device.quantum)
    table = table.for_space(space)
    low, high = feasible(space, table)
    margin = MARGIN * (high - low)
    targets = np.linspace(low + margin, high - margin, args.targets).round(3)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    results = (
        [json.loads(line) for line in args.out.read_text().splitlines()]
        if args.out.exists()
        else []
    )
    with neighbours(args.busy):
        for index, target_ms in enumerate(targets):
            if any(r["index"] == index and r["busy"] == args.busy for r in results):
                continue
            results.append(one_target(space, table, index, float(target_ms), args))
            with args.out.open("a") as out:
                out.write(json.dumps(results[-1]) + "\n")
    report([r for r in results if r["busy"] == args.busy])


def report(results: list[dict[str, object]]) -> None:
    print("target ms | table alone % | loop % ± | steps | moved | fresh process % ±")
    for r in results:
        print(
            f"{r['target_ms']:9.3f} | {r['first_gap_pct']:+13.2f} | "
            f"{r['loop_gap_pct']:+.2f} ± {r['loop_half_pct']:.2f} | {r['steps']:5} | "
            f"{r['moved']:5} | {r['verified_gap_pct']:+.2f} ± {r['verified_half_pct']:.2f}"
            f"{' (doubtful)' if r['noisy'] else ''}"
        )
    gaps = np.abs([float(str(r["verified_gap_pct"])) for r in results])
    print(
        f"fresh process: mean |gap| {gaps.mean():.2f} %, within 1 %: {(gaps <= 1).sum()} of "
        f"{len(gaps)}, within 2 %: {(gaps <= 2).sum()} of {len(gaps)}"
    )


if __name__ == "__main__":
    main()
