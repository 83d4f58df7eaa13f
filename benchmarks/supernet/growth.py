"""python -m benchmarks.supernet.growth [--over depth candidates resolution batch] [--repeats 6]

How the cost of a step grows with one size at a time. Each line holds the values of a size, the
median times (rounds over all values take turns), and what says whether growth is linear: the
exponent of a power law through them (a fixed cost makes it smaller than 1), and the bend, the last
increment for each unit over the first (1: a straight line). Memory is the peak of a fresh process
less what it held before its first step.

Depth is that of the middle stage, all others have one block; candidates are copies of one op, so
that they cost the same; resolution is counted in pixels of the image.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
import torch

from benchmarks.supernet import steps
from tfnas.app.values import load_space
from tfnas.space.search_space import SearchSpace, Stage
from tfnas.space.spec import StageSpec

STEPS = ("weight", "arch")
PLAIN_DEPTH, PLAIN_RESOLUTION, PLAIN_BATCH = 2, 64, 32  # of what doesn't vary


@dataclass(frozen=True)
class Growth:
    """Attributes:
    size, values: what varies, and over what.
    seconds: medians, one a value.
    mib: peaks, one a value; empty where memory was left out.
    """

    size: str
    step: str
    values: tuple[int, ...]
    seconds: tuple[float, ...]
    mib: tuple[float, ...]


def of_depth(space: str, depth: int) -> SearchSpace:
    spec = load_space(space, steps.CLASSES)
    middle = len(spec.stages) // 2

    def stage(index: int, given: StageSpec) -> StageSpec:
        return replace(given, depth=depth if index == middle else 1, min_depth=1)

    stages = [stage(index, given) for index, given in enumerate(spec.stages)]
    return replace(spec, stages=stages).build(steps.QUANTUM)


def of_candidates(space: SearchSpace, count: int) -> SearchSpace:
    """Every block with `count` copies of its last candidate."""
    stages = [
        Stage(tuple((block[-1],) * count for block in stage.blocks), stage.min_depth)
        for stage in space.stages
    ]
    return replace(space, stages=tuple(stages))


def arm(space: str, size: str, value: int, step: str, repeats: int) -> Callable[[int], None]:
    """A step of a search with one size at `value`, as `steps.rounds` takes it."""
    given = {"depth": PLAIN_DEPTH, "resolution": PLAIN_RESOLUTION, "batch": PLAIN_BATCH}
    given[size] = value
    built = of_depth(space, given["depth"])
    if size == "candidates":
        built = of_candidates(built, value)
    task = steps.random_task(built, given["resolution"], given["batch"], batches=1)
    search = steps.new_search(task)
    x, y = steps.one_batch(task)
    if step == "arch":
        return lambda _: search.arch_step(x, y)
    paths = [search.paths(single=False) for _ in range(repeats + 1)]
    return lambda i: search.weight_step(x, y, paths[i])


def print_peak(space: str, size: str, value: int, step: str) -> None:
    run = arm(space, size, value, step, repeats=1)
    before = steps.peak_bytes()
    run(0)
    run(1)
    print(steps.peak_bytes() - before)


def measure(
    space: str, size: str, values: Sequence[int], step: str, repeats: int, memory: bool
) -> Growth:
    arms = [arm(space, size, value, step, repeats) for value in values]
    medians = np.median(steps.rounds(arms, repeats), axis=0)
    peaks = []
    for value in values if memory else ():
        printed = steps.in_fresh_process(
            "benchmarks.supernet.growth", "--space", space, "--over", size, f"--{size}", value,
            "--threads", torch.get_num_threads(), "--peak-of", step,
        )  # fmt: skip
        peaks.append(int(printed) / steps.MIB)
    return Growth(size, step, tuple(values), tuple(medians.tolist()), tuple(peaks))


def units(size: str, values: Sequence[int]) -> np.ndarray:
    """What cost should be proportional to."""
    return np.array(values, float) ** (2 if size == "resolution" else 1)


def exponent(x: np.ndarray, cost: Sequence[float]) -> float:
    return float(np.polyfit(np.log(x), np.log(np.maximum(cost, 1e-9)), 1)[0])


def bend(x: np.ndarray, cost: Sequence[float]) -> float:
    """Last increment for each unit over the first one."""
    slopes = np.diff(cost) / np.diff(x)
    return float(slopes[-1] / slopes[0])


def text(growth: Growth) -> str:
    x = units(growth.size, growth.values)

    def line_of(cost: Sequence[float], figures: str) -> str:
        if len(x) < 2:
            return figures
        bent = f", bend {bend(x, cost):.2f}" if len(x) > 2 else ""
        return f"{figures} (exponent {exponent(x, cost):.2f}{bent})"

    values = "/".join(map(str, growth.values))
    times = line_of(growth.seconds, "/".join(f"{1e3 * s:.0f}" for s in growth.seconds))
    line = f"{growth.size:<10} {values:<12} {growth.step:<6} ms {times}"
    if not growth.mib:
        return line
    return f"{line}  MiB {line_of(growth.mib, '/'.join(f'{m:.0f}' for m in growth.mib))}"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--space", default="tfnas", type=steps.space_name, help="a file of conf/space/"
    )
    sizes = {
        "depth": [2, 4, 8],
        "candidates": [2, 4, 8],
        "resolution": [32, 64, 128],
        "batch": [16, 32, 64],
    }
    parser.add_argument("--over", nargs="+", choices=list(sizes), default=list(sizes))
    for size, values in sizes.items():
        parser.add_argument(f"--{size}", type=steps.positive, nargs="+", default=values)
    parser.add_argument("--repeats", type=steps.positive, default=6, help="rounds")
    parser.add_argument("--threads", type=steps.positive, default=1)
    parser.add_argument("--no-memory", action="store_true", help="leave out peak memory")
    parser.add_argument("--json", type=steps.new_file, help="file to write the figures to")
    parser.add_argument("--peak-of", choices=STEPS, help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    torch.set_num_threads(args.threads)
    if args.peak_of:
        print_peak(args.space, args.over[0], getattr(args, args.over[0])[0], args.peak_of)
        return 0
    found = []
    for size in args.over:
        for step in STEPS:
            values = getattr(args, size)
            growth = measure(args.space, size, values, step, args.repeats, not args.no_memory)
            found.append(growth)
            print(text(growth), flush=True)
    if args.json:
        args.json.write_text(json.dumps([asdict(growth) for growth in found], indent=1) + "\n")
    return 0


if __name__ == "__main__":
    steps.run(main)
