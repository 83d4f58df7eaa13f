"""python -m benchmarks.waiting.startup [--repeats 10] [--table FILE]

What a user waits for before anything is computed, and the share of an architecture step that the
expected latency takes. Start-up figures are medians (quartiles) over fresh processes; "inside" is
what such a process takes by its own clock, without starting Python.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from benchmarks.supernet import steps
from tfnas.app.values import shipped_tables_path
from tfnas.strategies.parts.sampling import gumbel_softmax
from tfnas.strategies.tfnas import Search

IMPORT = """
import sys, time
start = time.perf_counter()
import tfnas, tfnas.table, tfnas.derive.methods
print(time.perf_counter() - start)
assert "torch" not in sys.modules, "importing tfnas imports torch"
"""
TABLE = """
import sys, time
from pathlib import Path
from tfnas.app.values import load_space
from tfnas.latency.lint import lint
from tfnas.latency.table import LatencyTable
spec = load_space("tfnas", 10)
start = time.perf_counter()
table = LatencyTable.load(Path(sys.argv[1]))
space = spec.build(table.device.quantum)
table = table.for_space(space)
lint(table, space)
print(time.perf_counter() - start)
"""


@dataclass(frozen=True)
class Wait:
    """One figure: `status` is what the command must end with, `limit_ms` what it should take."""

    name: str
    command: tuple[str, ...]
    limit_ms: float
    status: int = 0
    inside: bool = False  # the process prints its own seconds


def waits(table: Path) -> list[Wait]:
    search = ("-m", "tfnas.search")
    return [
        Wait("import tfnas, its table and derivation, inside", ("-c", IMPORT), 150, inside=True),
        Wait("python -m tfnas.search --help", (*search, "--help"), 2000),
        Wait("the same with a value of a wrong type", (*search, "target_ms=x"), 2000, status=2),
        Wait("the same with an unknown key", (*search, "target_ms=8", "colour=1"), 2000, status=2),
        Wait("load, check, lint the table, inside", ("-c", TABLE, str(table)), 100, inside=True),
    ]


def milliseconds(wait: Wait, repeats: int) -> np.ndarray:
    """Of every run, after one that warms the files up.

    Raises:
        RuntimeError: if the command doesn't end as it should.
    """
    taken = []
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(repeats + 1):
            start = time.perf_counter()
            done = subprocess.run(
                [sys.executable, *wait.command],
                cwd=Path.cwd() if wait.inside else folder,
                capture_output=True, text=True, check=False,
            )  # fmt: skip
            wall = time.perf_counter() - start
            if done.returncode != wait.status:
                raise RuntimeError(f"{wait.name}: status {done.returncode}: {done.stderr}")
            taken.append(1e3 * (float(done.stdout) if wait.inside else wall))
    return np.array(taken[1:])


def expected_latency_share(space: str, resolution: int, repeats: int) -> tuple[float, float]:
    """Milliseconds of the expected latency, forward and backward, and of an architecture step."""
    task = steps.random_task(steps.load_space(space), resolution, batch=32, batches=1)
    search = steps.new_search(task)
    x, y = steps.one_batch(task)
    taken = steps.rounds(
        [lambda _: latency_alone(search), lambda _: search.arch_step(x, y)], repeats
    )
    alone, step = np.median(taken, axis=0)
    return 1e3 * float(alone), 1e3 * float(step)


def latency_alone(search: Search) -> None:
    """What an architecture step does for the latency, the soft weights included."""
    mix = [gumbel_softmax(a, search.temperature, search.generator) for a in search.alphas]
    depths = search.depth.depths(search.betas)
    search.expected_ms(mix, depths).backward()


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--repeats", type=steps.positive, default=10, help="fresh processes for each figure"
    )
    parser.add_argument("--table", type=Path, help="of space=tfnas; default: the shipped one")
    parser.add_argument(
        "--space", default="tfnas", type=steps.space_name, help="of the architecture step"
    )
    parser.add_argument(
        "--resolution", type=steps.positive, default=64, help="of the architecture step"
    )
    args = parser.parse_args(arguments)
    torch.set_num_threads(1)
    table = args.table or min(shipped_tables_path().glob("*.json"))
    if not table.is_file():
        parser.error(f"--table {table}: there is no such file")
    for wait in waits(table.resolve()):
        low, middle, high = steps.quartiles(milliseconds(wait, args.repeats))
        figure = f"{middle:7.1f} ms ({low:.1f} to {high:.1f})"
        print(f"{wait.name:<48} {figure:<32} wanted: below {wait.limit_ms:g} ms", flush=True)
    alone, step = expected_latency_share(args.space, args.resolution, args.repeats)
    name = f"expected latency in an arch step, {args.resolution} px"
    figure = f"{alone:7.1f} ms of {step:.0f} ms: {alone / step:.2%}"
    print(f"{name:<48} {figure:<32} wanted: below 1 %")
    return 0


if __name__ == "__main__":
    steps.run(main)
