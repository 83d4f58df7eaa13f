"""python -m benchmarks.supernet.proxies [--resolution 64] [--epochs 3] [--batches 120] [--out FILE]

What approximations of the search cost in truth, and what they gain. Every variant searches the same
space on the same real images with the same seed; its op probabilities are compared with those of
the exact search (Spearman's rank correlation over all ops of all blocks, and the share of blocks
whose most probable op is the same). The exact search with other seeds shows how far chance alone
moves them: no approximation can be told from it beyond that.

The gain is the time of a round of steps, ours and the variant's and that of the plain supernet,
taken in turns. Searches are written down as they finish; the same command goes on.
`--searches-only` and `--times-only` do one half: searches may run beside each other, times alone.

Short searches are so noisy that they don't agree with themselves. `--gradients N` compares with
less noise: for one supernet, trained by weight steps alone, the mean gradient of the held-out loss
by the op probabilities over N batches, of every variant that changes it on the same supernet, with
that of the exact form over N other batches; and the exact form with itself, the most to be had.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from benchmarks.supernet import steps
from benchmarks.supernet.plain import PlainSearch
from tfnas.app.values import load_space
from tfnas.data.batches import Batches
from tfnas.data.images import stratified_split
from tfnas.data.sets import load_images
from tfnas.intervals import spearman
from tfnas.strategies.contract import EpochRecord, Progress, Task
from tfnas.strategies.parts.sampling import gumbel_softmax
from tfnas.strategies.tfnas import Search

WEIGHT_STEPS = 4  # in a round that is timed: as many as `arch_every` has to divide


@dataclass(frozen=True)
class Variant:
    """Of the exact search: what differs."""

    name: str
    seed: int = 0
    arch_ops: int | None = None
    arch_ops_by: str = "sample"
    arch_every: int = 2
    channel_factor: float = 1.0
    resolution: float = 1.0  # fraction
    samples: float = 1.0  # fraction
    epochs: float = 1.0  # fraction


VARIANTS = (
    Variant("exact"),
    Variant("exact, seed 1", seed=1),
    Variant("exact, seed 2", seed=2),
    Variant("arch_ops=2", arch_ops=2),
    Variant("arch_ops=1", arch_ops=1),
    Variant("arch_ops=2 arch_ops_by=top", arch_ops=2, arch_ops_by="top"),
    Variant("arch_every=4", arch_every=4),
    Variant("channel_factor=0.5", channel_factor=0.5),
    Variant("half the resolution", resolution=0.5),
    Variant("half the samples", samples=0.5),
    Variant("half the epochs", epochs=0.5),
    Variant("arch_ops=2, half the resolution", arch_ops=2, resolution=0.5),
    Variant("arch_ops=2 channel_factor=0.5", arch_ops=2, channel_factor=0.5),
)


@dataclass(frozen=True)
class Run:
    """A finished search: the probabilities of the ops of every block.

    Attributes:
        settings: of the command, which must be the same for what is compared.
    """

    variant: str
    settings: str
    probabilities: list[list[float]]


def task_of(variant: Variant, space_name: str, resolution: int, batches: int, epochs: int) -> Task:
    """A search on the shipped images, with a target in the middle of its range."""
    dataset = load_images("fashion_mnist", root="shipped")
    space = load_space(space_name, len(dataset.classes)).build(steps.QUANTUM)
    weights, arch = stratified_split(dataset.train.labels, 0.8, variant.seed)
    size, count = round(resolution * variant.resolution), round(batches * variant.samples)
    if 32 * count > len(weights):
        raise ValueError(f"--batches {batches}: there are {len(weights) // 32} batches of images")

    def of(indices: np.ndarray, augment: bool) -> Batches:
        return Batches(
            dataset.train, indices, batch=32, size=size, mean=dataset.mean, std=dataset.std,
            seed=variant.seed, augment=augment, shuffle=True, drop_last=True,
        )  # fmt: skip

    return steps.new_task(
        space, of(weights[: 32 * count], augment=True), of(arch, augment=False),
        max(1, round(epochs * variant.epochs)), variant.channel_factor, variant.seed,
    )  # fmt: skip


def knobs_of(variant: Variant) -> dict[str, object]:
    return {
        "arch_ops": variant.arch_ops,
        "arch_ops_by": variant.arch_ops_by,
        "arch_every": variant.arch_every,
        "width": "fixed",
    }


def searched(variant: Variant, task: Task, settings: str) -> Run:
    last: EpochRecord | None = None
    for event in steps.paper_knobs(**knobs_of(variant)).run(task):
        if isinstance(event, Progress) and event.record is not None:
            last = event.record
    assert last is not None
    return Run(variant.name, settings, [list(row) for row in last.op_probs])


def agreement(run: Run, exact: Run) -> tuple[float, float]:
    """(Spearman over all ops, share of blocks with the same most probable op)"""
    ours, theirs = (np.array(r.probabilities) for r in (run, exact))
    same = (ours.argmax(1) == theirs.argmax(1)).mean()
    return spearman(ours.ravel().tolist(), theirs.ravel().tolist()), float(same)


def a_round(variant: Variant, task: Task) -> Callable[[int], None]:
    """Weight steps and their architecture steps."""
    search = Search(steps.paper_knobs(**knobs_of(variant)), task)
    x, y = steps.one_batch(task)

    def run(_: int) -> None:
        for index in range(WEIGHT_STEPS):
            search.weight_step(x, y, search.paths(single=False))
            if index % variant.arch_every == 0:
                search.arch_step(x, y)

    return run


def a_plain_round(task: Task) -> Callable[[int], None]:
    plain = PlainSearch(Search(steps.paper_knobs(), task))
    x, y = steps.one_batch(task)
    nchw = x.contiguous()

    def run(_: int) -> None:
        for index in range(WEIGHT_STEPS):
            plain.weight_step(nchw, y, plain.paths())
            if index % 2 == 0:
                plain.arch_step(nchw, y)

    return run


def mean_gradient(search: Search, task: Task, batches: range) -> list[float]:
    """Of the held-out loss by all alphas, over one draw of Gumbel noise a batch."""
    endless = itertools.chain.from_iterable(map(task.held_out.epoch, itertools.count()))
    chosen = itertools.islice(endless, batches.start, batches.stop)
    for alpha in search.alphas:
        alpha.grad = None
    with torch.no_grad():
        depths = [beta.softmax(0) for beta in search.betas]
    with search.net.frozen():
        for x, y in chosen:
            mix = [gumbel_softmax(a, search.temperature, search.generator) for a in search.alphas]
            run = [search.run_ops(m, a) for m, a in zip(mix, search.alphas, strict=True)]
            F.cross_entropy(search.net(x, run, depths, search.widths), y).backward()
    return [float(g) for a in search.alphas if a.grad is not None for g in a.grad]


def compare_gradients(variants: Sequence[Variant], tasks: Sequence[Task], count: int) -> None:
    """Print a line for each variant that can run the exact one's supernet."""
    first = Search(steps.paper_knobs(), tasks[0])
    for x, y in tasks[0].train.epoch(0):
        first.weight_step(x, y, first.paths(single=False))
    state, exact = first.state(), mean_gradient(first, tasks[0], range(count))
    print(f"{'variant':<34} Spearman of the mean gradient, {count} batches each")
    for variant, task in zip(variants, tasks, strict=True):
        changed = variant.arch_ops or variant.resolution != 1 or variant == VARIANTS[0]
        if not changed or variant.channel_factor != 1:
            continue
        search = Search(steps.paper_knobs(**knobs_of(variant)), task)
        search.load(state)
        found = mean_gradient(search, task, range(count, 2 * count))
        print(f"{variant.name:<34} {spearman(found, exact):8.3f}", flush=True)


def gains(
    variants: Sequence[Variant], tasks: Sequence[Task], repeats: int
) -> list[tuple[steps.Ratio, steps.Ratio]]:
    """For each variant the time of the whole search, plain and ours exact over its own.

    Args:
        variants: the exact one first.
    """
    arms = [a_plain_round(tasks[0]), *(map(a_round, variants, tasks))]
    seconds = steps.rounds(arms, repeats)
    lengths = [task.budget.epochs * len(task.train) for task in tasks]
    share = [length / lengths[0] for length in lengths]
    return [
        tuple(steps.Ratio.of(seconds[:, b], seconds[:, 1 + i] * share[i]) for b in (0, 1))  # type: ignore[misc]
        for i in range(len(variants))
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--space", default="tfnas", type=steps.space_name, help="a file of conf/space/"
    )
    parser.add_argument("--resolution", type=steps.positive, default=64)
    parser.add_argument(
        "--batches", type=steps.positive, default=120, help="of 32 images, in an epoch"
    )
    parser.add_argument("--epochs", type=steps.positive, default=3)
    parser.add_argument(
        "--only", type=int, nargs="+", choices=range(len(VARIANTS)), metavar="N",
        help="; ".join(f"{i}: {variant.name}" for i, variant in enumerate(VARIANTS)),
    )  # fmt: skip
    parser.add_argument("--out", type=Path, default=Path("runs/proxies.jsonl"))
    parser.add_argument("--repeats", type=steps.positive, default=6, help="rounds that are timed")
    half = parser.add_mutually_exclusive_group()
    half.add_argument("--searches-only", action="store_true")
    half.add_argument("--times-only", action="store_true")
    half.add_argument("--gradients", type=steps.positive, metavar="N", help="see above")
    args = parser.parse_args(arguments)
    torch.set_num_threads(1)
    chosen = [VARIANTS[i] for i in args.only or range(len(VARIANTS))]
    settings = f"{args.space} {args.resolution} px, {args.epochs} epochs of {args.batches}"
    args.out.parent.mkdir(parents=True, exist_ok=True)

    def task(variant: Variant) -> Task:
        return task_of(variant, args.space, args.resolution, args.batches, args.epochs)

    if args.gradients:
        compare_gradients(chosen, list(map(task, chosen)), args.gradients)
        return 0
    done = finished(args.out, settings)
    for variant in chosen:
        if variant.name not in done and not args.times_only:
            run = searched(variant, task(variant), settings)
            with args.out.open("a") as lines:
                lines.write(json.dumps(asdict(run)) + "\n")
            print(f"searched: {variant.name}", flush=True)
    if args.searches_only:
        return 0
    runs = finished(args.out, settings)
    exact = VARIANTS[0]
    if exact.name not in runs:
        sys.exit(f"{args.out} has no exact search to compare with; run it with --only 0")
    shown = [exact, *(v for v in chosen if v.name in runs and v.seed == 0 and v != exact)]
    times = gains(shown, list(map(task, shown)), args.repeats)
    print(f"{'variant':<34} {'Spearman':>8} {'same op':>8}   plain / this, ours exact / this")
    for variant in chosen:
        if variant.name in runs:
            rank, same = agreement(runs[variant.name], runs[exact.name])
            figures = " ".join(map(str, times[shown.index(variant)])) if variant in shown else "-"
            print(f"{variant.name:<34} {rank:8.3f} {same:8.0%}   {figures}")
    return 0


def finished(file: Path, settings: str) -> dict[str, Run]:
    """By the name of the variant."""
    lines = file.read_text().splitlines() if file.exists() else []
    runs = [Run(**json.loads(line)) for line in lines]
    return {run.variant: run for run in runs if run.settings == settings}


if __name__ == "__main__":
    steps.run(main)
