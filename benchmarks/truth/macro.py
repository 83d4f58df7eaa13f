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
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import tfnas
from benchmarks.truth.oracles import Floats, Ints, macro_nets
from tfnas.data.images import Dataset
from tfnas.files import checkpoint
from tfnas.intervals import spearman
from tfnas.latency.table import LatencyTable
from tfnas.pipeline.find import new_task
from tfnas.process.accelerator import cpu_threads
from tfnas.space.search_space import SearchSpace
from tfnas.space.subnet import Subnet
from tfnas.strategies.contract import Found, Progress, State, Task
from tfnas.strategies.surrogate import Reused

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
        reused: quantile of the one target that is searched for; its scores give the nets of all.
    """

    strategy: str
    knobs: dict[str, Any] = field(default_factory=dict)
    budget: dict[str, Any] = field(default_factory=dict)
    shared: bool = True
    reused: float | None = None


BUDGET = {
    "epochs": 6, "warmup_epochs": 0, "batch_size": 32, "max_train": None, "resolution": 16,
    "channel_factor": 1.0,
}  # fmt: skip
QUARTER = {**BUDGET, "epochs": 10, "resolution": None, "channel_factor": 0.25}
SETTINGS = {
    "surrogate": Setting("surrogate", {}, BUDGET, shared=False),
    "surrogate 12": Setting("surrogate", {}, {**BUDGET, "epochs": 12}, shared=False),
    "surrogate 24": Setting("surrogate", {}, {**BUDGET, "epochs": 24}, shared=False),
    "surrogate reused": Setting("surrogate", {}, BUDGET, reused=0.5),
    "surrogate uniform": Setting("surrogate", {"paths": "uniform"}, BUDGET),
    "surrogate quarter": Setting("surrogate", {}, QUARTER, shared=False),
    "spos": Setting("spos", {}, BUDGET),
    "spos quarter": Setting("spos", {}, QUARTER),
    "random": Setting("random", {}, BUDGET),
    "tfnas": Setting("tfnas", {}, {**BUDGET, "epochs": 3, "warmup_epochs": 1}, shared=False),
    "tfnas 6": Setting("tfnas", {}, {**BUDGET, "epochs": 6, "warmup_epochs": 1}, shared=False),
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
        fixed = table.fixed(space)
        ms = [fixed + sum(row[i] for row, i in zip(loads, net, strict=True)) for net in known.nets]
        return cls(space, known.nets, known.accuracy, np.array(ms))

    def judge(self, subnet: Subnet, target_ms: float) -> dict[str, float | str]:
        """Compare a net with all that take as long."""
        line = self.line(subnet)
        pool = self.accuracy[self.near(target_ms)]
        mean, best, found = pool.mean(), pool.max(), self.accuracy[line]
        return {
            "net": "".join(map(str, self.nets[line])),
            "ms": float(self.ms[line]),
            "accuracy": float(found),
            "gain": float(found - mean),
            "possible": float(best - mean),
            "share": float((found - mean) / (best - mean)),
            "percentile": float(100 * ((pool < found).mean() + (pool == found).mean() / 2)),
            "pool": len(pool),
        }

    def line(self, subnet: Subnet) -> int:
        picks = [pick for stage in self.space.choices_of(subnet) for pick in stage]
        return int((self.nets == picks).all(axis=1).argmax())

    def near(self, target_ms: float) -> NDArray[np.bool_]:
        """Whether each net is within 2 % of the target."""
        return abs(self.ms / target_ms - 1) <= WINDOW

    def ranks(self, found: Found, target_ms: float) -> dict[str, float]:
        """Spearman with the true accuracies, of scored nets and of what alphas say of all nets."""
        rho = {}
        if len(found.candidates) > 2:
            lines = [self.line(candidate.derived.subnet) for candidate in found.candidates]
            scores = [candidate.score for candidate in found.candidates]
            rho["scored"] = spearman(scores, self.accuracy[lines].tolist())
        if found.architecture is not None:
            near = self.near(target_ms)
            alphas = np.stack(found.architecture.alphas)  # (8, 3)
            said = alphas[np.arange(8), self.nets[near]].sum(axis=1)
            rho["alphas"] = spearman(said.tolist(), self.accuracy[near].tolist())
        return rho

    def best_of(self, count: int, target_ms: float) -> float:
        """Share of the possible gain that the best of so many random nets has, in the mean."""
        pool = np.sort(self.accuracy[self.near(target_ms)])
        ends = (np.arange(len(pool) + 1) / len(pool)) ** count
        return float((np.diff(ends) @ pool - pool.mean()) / (pool.max() - pool.mean()))


def search(
    setting: Setting, task: Task, out: Path, identity: dict[str, Any]
) -> tuple[Found, float]:
    """Search; what was trained is kept in `out`. The seconds include that training."""
    strategy = tfnas.load_preset("strategy", setting.strategy, **setting.knobs)
    state: State | None = None
    start, before = time.monotonic(), 0.0
    if checkpoint.exists(out):
        saved = checkpoint.read_checkpoint(out, identity)
        state, before = saved["search"], saved["seconds"]
    for event in strategy.run(task, state):
        seconds = before + time.monotonic() - start
        if isinstance(event, Found):
            return event, seconds
        if _ends_training(event, task):
            checkpoint.write_checkpoint(
                out, {"identity": identity, "search": event.state(), "seconds": seconds}
            )
    raise AssertionError("a strategy must end with what it found")


def reused(setting: Setting, first: Found, task: Task) -> Found:
    """The net of another target by the scores of the first one's search."""
    strategy = tfnas.load_preset("strategy", setting.strategy, **setting.knobs)
    again = Reused(task.space.skeleton, first.evaluations, strategy.optima)
    (found,) = again.run(task)
    assert isinstance(found, Found)
    return found


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
        scored: tuple[Found, float] | None = None  # of the search that others reuse
        for quantile in quantiles:
            if (name, quantile, seed) in done:
                continue
            target_ms = float(np.quantile(truth.ms, quantile))
            identity: dict[str, Any] = {"setting": json.dumps(asdict(setting)), "seed": seed}
            trained = f"{name.replace(' ', '_')}_{seed}"
            if not setting.shared:
                identity["target_ms"] = target_ms
                trained += f"_{quantile}"
            state = out / f"{trained}.ckpt"
            if setting.reused is None:
                found, seconds = search(setting, make(target_ms, seed=seed), state, identity)
            else:
                first_ms = float(np.quantile(truth.ms, setting.reused))
                if scored is None:
                    scored = search(setting, make(first_ms, seed=seed), state, identity)
                found, seconds = reused(setting, scored[0], make(target_ms, seed=seed)), scored[1]
            judged = truth.judge(found.derived.subnet, target_ms)
            yield {
                "setting": name, "seed": seed, "quantile": quantile, "target_ms": target_ms,
                **judged, "rho": truth.ranks(found, target_ms),
                "seconds": round(seconds, 1),
                "path_passes": found.scores.get("path_passes"), "values": asdict(setting),
                "threads": torch.get_num_threads(),
            }  # fmt: skip


def show(results: Sequence[dict[str, Any]], truth: Truth) -> None:
    """Print shares and percentiles by setting and target, and their means over targets."""
    names = list(dict.fromkeys(row["setting"] for row in results))
    quantiles = sorted({row["quantile"] for row in results} | set(QUANTILES))
    for quantile in quantiles:
        target_ms = float(np.quantile(truth.ms, quantile))
        lucky = " ".join(f"{100 * truth.best_of(n, target_ms):.0f} ({n})" for n in (1, 3, 6, 12))
        print(f"{target_ms:.3f} ms: best of random nets, by number, in % of the gain: {lucky}")
    for name in names:
        mine = [row for row in results if row["setting"] == name]
        cells = []
        for quantile in quantiles:
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
    parser.add_argument("--threads", type=int, default=cpu_threads(None, tell=False))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(options.threads)
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
