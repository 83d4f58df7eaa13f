"""python -m benchmarks.quality.op_signal DATA [--epochs 10] [--seeds 0 1] [--processes 2]

Why do short searches end near chance? Supernets are trained on two uniform paths a step, with op
probabilities that stay uniform; then, with weights that stay, three estimates of what an op is
worth are taken on held-out images:

- the mean gradient of an architecture step's cross-entropy by the alphas at the temperature that a
  search starts with, and at 1;
- the effects of ops on the cross-entropy of uniform single paths, by least squares.

It prints Pearson's correlations over all ops of all blocks: of the halves of each estimate (noise
of batches and samples), between the estimates (does the mixture tell what paths do?), and between
supernets that differ by their seed alone (is it the op, or this supernet?).

DATA, the space and the budget are those of `benchmarks.quality`.
"""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
import os
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional as F

from benchmarks.quality.jobs import Study
from benchmarks.quality.plan import BUDGET, setting_of
from benchmarks.quality.tables import markdown
from tfnas.pipeline.inputs import make_strategy
from tfnas.strategies.parts.sampling import gumbel_softmax
from tfnas.strategies.tfnas import TFNAS, Search

TEMPERATURES = (5.0, 1.0)
STEPS = 200  # architecture steps at each temperature
PATHS = 1200  # one held-out batch each
RIDGE = 0.5  # keeps the least squares of so many ops solvable


@dataclass(frozen=True)
class Signal:
    """What one supernet tells of its ops.

    Attributes:
        train_top1: percent, of single paths, last epoch.
        halves: of each estimate, by its name: two of (blocks, ops), from half of the samples each.
    """

    train_top1: float
    halves: Mapping[str, tuple[np.ndarray, np.ndarray]]

    def whole(self, name: str) -> np.ndarray:
        return np.mean(self.halves[name], axis=0)


def measured(data: str, images: int, epochs: int, seed: int) -> Signal:
    """Train a supernet, and estimate what its ops are worth; in a process of its own."""
    torch.set_num_threads(1)
    study = Study(data, setting_of(data, 0, images))
    cfg, task = study.task((*BUDGET, f"budget.epochs={epochs}"), seed)
    knobs = make_strategy(cfg.strategy, cfg.derive.method)
    assert isinstance(knobs, TFNAS)
    search = Search(knobs, task)
    top1 = 0.0
    for epoch, batches in search.weights.epochs():
        for x, y in batches:
            search.weight_step(x, y, search.paths(single=epoch < task.budget.warmup_epochs))
            search.weights.index += 1
        top1 = search.weights.meter.top1
        search.end_epoch(warm_up=True)  # widths stay
    halves = {f"gradient, T={t:g}": gradients(search, t) for t in TEMPERATURES}
    return Signal(top1, {**halves, "paths": path_effects(search)})


def gradients(search: Search, temperature: float) -> tuple[np.ndarray, np.ndarray]:
    """Mean gradients by the alphas, of every other step."""
    taken = []
    with search.net.frozen():
        for _ in range(STEPS):
            x, y = next(search.held_out)
            mix = [gumbel_softmax(a, temperature, search.generator) for a in search.alphas]
            on = [search.run_ops(m, a) for m, a in zip(mix, search.alphas, strict=True)]
            depths = search.sinks()
            loss = F.cross_entropy(search.net(x, on, depths, search.widths), y)
            grads = torch.autograd.grad(loss, search.alphas)
            taken.append(torch.stack(grads).numpy())
    return _centred(np.mean(taken[::2], axis=0)), _centred(np.mean(taken[1::2], axis=0))


@torch.no_grad()
def path_effects(search: Search) -> tuple[np.ndarray, np.ndarray]:
    """Effects of ops on the cross-entropy of single paths, of every other path."""
    batches = [next(search.held_out) for _ in range(len(search.task.held_out))]
    blocks, ops = len(search.alphas), len(search.alphas[0])
    depths = search.sinks()
    picks = torch.randint(ops, (PATHS, blocks), generator=search.generator).numpy()
    rows, losses = np.zeros((PATHS, blocks * ops + len(batches))), np.zeros(PATHS)
    for i, path in enumerate(picks):
        number = int(torch.randint(len(batches), (), generator=search.generator))
        x, y = batches[number]
        losses[i] = F.cross_entropy(search.net(x, path.tolist(), depths, search.widths), y)
        rows[i, np.arange(blocks) * ops + path] = 1
        rows[i, blocks * ops + number] = 1  # images differ more than paths do

    def fit(part: slice) -> np.ndarray:
        a, b = rows[part], losses[part]
        effects = np.linalg.solve(a.T @ a + RIDGE * np.eye(a.shape[1]), a.T @ b)
        return _centred(effects[: blocks * ops].reshape(blocks, ops))

    return fit(slice(0, None, 2)), fit(slice(1, None, 2))


def _centred(of_ops: np.ndarray) -> np.ndarray:
    centred: np.ndarray = of_ops - of_ops.mean(axis=-1, keepdims=True)
    return centred


def correlation(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.corrcoef(one.ravel(), other.ravel())[0, 1])


def table(signals: Mapping[int, Signal]) -> str:
    names = list(next(iter(signals.values())).halves)
    rows = []
    for name in names:
        halves = [correlation(*s.halves[name]) for s in signals.values()]
        paths = [correlation(s.whole(name), s.whole("paths")) for s in signals.values()]
        pairs = [
            correlation(one.whole(name), other.whole(name))
            for one, other in itertools.combinations(signals.values(), 2)
        ]
        rows.append((name, _told(halves), "" if name == "paths" else _told(paths), _told(pairs)))
    head = ("estimate", "of its halves", "with paths' effects", "between supernets")
    top1 = ", ".join(f"{s.train_top1:.1f}" for s in signals.values())
    return f"{markdown(head, rows)}\n\nTop-1 of single paths on training images: {top1} %."


def _told(values: list[float]) -> str:
    return ", ".join(f"{value:+.2f}" for value in values)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.quality.op_signal",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("data", metavar="DATA")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--processes", type=int, default=2)
    args = parser.parse_args()
    images = len(Study(args.data, setting_of(args.data, 0, 1000)).dataset.train)
    os.environ["OMP_NUM_THREADS"] = "1"  # of the processes that are started here
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(args.processes, mp_context=context) as pool:
        jobs = {s: pool.submit(measured, args.data, images, args.epochs, s) for s in args.seeds}
        print(table({seed: job.result() for seed, job in jobs.items()}))


if __name__ == "__main__":
    main()
