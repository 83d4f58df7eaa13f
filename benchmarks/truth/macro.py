"""python -m benchmarks.truth.macro REFERENCE IMAGES TABLE --out FOLDER [--settings NAME ...]

Judges whole searches by NAS-Bench-Macro, whose 6,561 nets were all trained on CIFAR-10 (github.com/
xiusu/NAS-Bench-Macro). Supernets are really trained here, on IMAGES, an archive for `data=npz` of
CIFAR-10; latencies come from TABLE, measured with `python -m profilers space=nas_bench_macro
table=TABLE`. REFERENCE is the folder that holds `truth/`.

A line of FOLDER/macro.jsonl is one search: gain over the mean of all nets within 2 % of the target,
as a share of what the best of them gains, and the found net's percentile. The same command goes on
with what is missing; a supernet that doesn't depend on the target is trained once a seed.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

import tfnas
from benchmarks.truth.oracles import Floats, Ints, macro_nets
from tfnas.data.images import Dataset
from tfnas.files import checkpoint
from tfnas.latency.table import LatencyTable
from tfnas.pipeline.find import new_task
from tfnas.space.search_space import SearchSpace
from tfnas.space.subnet import Subnet
from tfnas.strategies.contract import Found, Progress, State, Task

WINDOW = 0.02
QUANTILES = (0.25, 0.5, 0.75)  # of all nets' latencies; settings are chosen at the first
SPACE = "nas_bench_macro"


@dataclass(frozen=True)
class Setting:
    """A search to be judged.

    Attributes:
        strategy: and its knobs that differ from conf/strategy/.
        budget: what differs from conf/budget/quick.yaml.
        shared: whether one training serves all targets.
    """

    strategy: str
    knobs: dict[str, Any] = field(default_factory=dict)
    budget: dict[str, Any] = field(default_factory=dict)
    shared: bool = True


BUDGET = {
    "epochs": 8, "warmup_epochs": 0, "batch_size": 128, "max_train": None, "resolution": None,
    "channel_factor": 0.5,
}  # fmt: skip
WEIGHTS = {"weight_lr": 0.1, "weight_decay": 1e-4}
SETTINGS = {
    "surrogate": Setting("surrogate", WEIGHTS, BUDGET),
    "surrogate fair": Setting("surrogate", {**WEIGHTS, "paths": "fair"}, {**BUDGET, "epochs": 3}),
    "surrogate quarter": Setting("surrogate", WEIGHTS, {**BUDGET, "channel_factor": 0.25}),
    "spos": Setting("spos", WEIGHTS, BUDGET),
    "random": Setting("random", WEIGHTS, BUDGET),
    "tfnas": Setting("tfnas", WEIGHTS, {**BUDGET, "epochs": 4, "warmup_epochs": 1}, shared=False),
}


@dataclass(frozen=True)
class Truth:
    """All nets of the space, with what they take on the table and their true accuracies."""

    space: SearchSpace
    nets: Ints  # (n, 8) index of each block's op
    accuracy: Floats  # (n,) points
    ms: Floats  # (n,)

    @classmethod
    def read(cls, file: Path, table: LatencyTable) -> Truth:
        space = tfnas.load_space(SPACE, 10).build(table.device.quantum)
        table = table.for_space(space)
        known = macro_nets(file)
        loads = [[table.ms(choice.op) for choice in block] for block in space.blocks]
        fixed = table.fixed_ms(space)
        ms = [fixed + sum(row[i] for row, i in zip(loads, net, strict=True)) for net in known.nets]
        return cls(space, known.nets, known.accuracy, np.array(ms))

    def judge(self, subnet: Subnet, target_ms: float) -> dict[str, float | str]:
        """Compare a net with all that take as long."""
        picks = [pick for stage in self.space.choices_of(subnet) for pick in stage]
        line = int((self.nets == picks).all(axis=1).argmax())
        pool = self.accuracy[abs(self.ms / target_ms - 1) <= WINDOW]
        mean, best, found = pool.mean(), pool.max(), self.accuracy[line]
        return {
            "net": "".join(map(str, picks)),
            "ms": float(self.ms[line]),
            "accuracy": float(found),
            "gain": float(found - mean),
            "possible": float(best - mean),
            "share": float((found - mean) / (best - mean)),
            "percentile": float(100 * ((pool < found).mean() + (pool == found).mean() / 2)),
            "pool": len(pool),
        }

    def best_of(self, count: int, target_ms: float) -> float:
        """Share of the possible gain that the best of so many random nets has, in the mean."""
        pool = np.sort(self.accuracy[abs(self.ms / target_ms - 1) <= WINDOW])
        ends = (np.arange(len(pool) + 1) / len(pool)) ** count
        return float((np.diff(ends) @ pool - pool.mean()) / (pool.max() - pool.mean()))


def search(setting: Setting, task: Task, out: Path, identity: dict[str, Any]) -> Found:
    """Search; a training that doesn't depend on the target is kept in `out` for the next one."""
    strategy = tfnas.load_preset("strategy", setting.strategy, **setting.knobs)
    state: State | None = None
    if setting.shared and checkpoint.exists(out):
        state = checkpoint.read_checkpoint(out, identity)["search"]
    for event in strategy.run(task, state):
        if isinstance(event, Found):
            return event
        if setting.shared and _ends_training(event, task):
            checkpoint.write_checkpoint(out, {"identity": identity, "search": event.state()})
    raise AssertionError("a strategy must end with what it found")


def _ends_training(event: Progress, task: Task) -> bool:
    return event.record is not None and event.record.epoch + 1 == task.budget.epochs


def rows(
    name: str, truth: Truth, images: Dataset, table: LatencyTable, out: Path,
    seeds: Sequence[int], quantiles: Sequence[float], done: set[tuple[str, float, int]],
) -> Iterator[dict[str, Any]]:  # fmt: skip
    """Search with one setting for all targets and seeds that aren't done."""
    setting = SETTINGS[name]
    budget = tfnas.load_preset("budget", "quick", **setting.budget)
    derive = tfnas.load_preset("derive", "constrained", tol=WINDOW / 2)
    spec = tfnas.load_space(SPACE, 10)
    make = partial(
        new_task, spec, images, table, budget=budget, derive=derive, tolerance=WINDOW,
        device=torch.device("cpu"),
    )  # fmt: skip
    for seed in seeds:
        for quantile in quantiles:
            if (name, quantile, seed) in done:
                continue
            target_ms = float(np.quantile(truth.ms, quantile))
            identity = {"setting": json.dumps(asdict(setting)), "seed": seed}
            start = time.monotonic()
            state = out / f"{name.replace(' ', '_')}_{seed}.ckpt"
            found = search(setting, make(target_ms, seed=seed), state, identity)
            judged = truth.judge(found.derived.subnet, target_ms)
            yield {
                "setting": name, "seed": seed, "quantile": quantile, "target_ms": target_ms,
                **judged, "seconds": round(time.monotonic() - start, 1),
                "path_passes": found.scores.get("path_passes"), "values": asdict(setting),
            }  # fmt: skip


def show(results: Sequence[dict[str, Any]], truth: Truth) -> None:
    """Print shares and percentiles by setting and target, and their means over targets."""
    names = list(dict.fromkeys(row["setting"] for row in results))
    for quantile in QUANTILES:
        target_ms = float(np.quantile(truth.ms, quantile))
        lucky = " ".join(f"{100 * truth.best_of(n, target_ms):.0f} ({n})" for n in (1, 3, 6, 12))
        print(f"{target_ms:.3f} ms: best of random nets, by number, in % of the gain: {lucky}")
    for name in names:
        mine = [row for row in results if row["setting"] == name]
        cells = []
        for quantile in QUANTILES:
            here = [row for row in mine if row["quantile"] == quantile]
            if here:
                shares = 100 * np.array([row["share"] for row in here])
                cells.append(f"{shares.mean():4.0f} % of the gain (n={len(here)})")
        shares = 100 * np.array([row["share"] for row in mine])
        half = 1.96 * shares.std(ddof=1) / np.sqrt(len(shares)) if len(shares) > 1 else np.nan
        percentile = np.mean([row["percentile"] for row in mine])
        print(
            f"{name:22s} {' | '.join(cells)} | mean {shares.mean():.0f} ±{half:.0f} %, "
            f"percentile {percentile:.0f}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name in ("reference", "images", "table"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--settings", nargs="*", choices=list(SETTINGS), default=list(SETTINGS))
    parser.add_argument("--quantiles", type=float, nargs="*", default=list(QUANTILES))
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(os.cpu_count() or 1)
    table = LatencyTable.load(options.table)
    truth = Truth.read(options.reference / "truth" / "nas-bench-macro_cifar10.json", table)
    images = tfnas.load_images("npz", root=str(options.images))
    file = options.out / "macro.jsonl"
    results = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    done = {(row["setting"], row["quantile"], row["seed"]) for row in results}
    for name in options.settings:
        for row in rows(
            name, truth, images, table, options.out, options.seeds, options.quantiles, done
        ):
            results.append(row)
            with file.open("a") as lines:
                lines.write(json.dumps(row) + "\n")
            print({k: row[k] for k in ("setting", "seed", "share", "percentile", "seconds")})
    show(results, truth)


if __name__ == "__main__":
    main()
