"""python -m benchmarks.quality IMAGES TABLE --space NAME --target-ms MS --out FOLDER

Does the search pay? Nets that searches find against random ones, hand-made ones and those of SPOS,
all at one latency on one table, each trained from scratch by one recipe and tested once.

IMAGES is an archive for `data=npz`. TABLE was measured with `python -m profilers space=NAME`. A
search is the user's default command with so many `minutes`, or that with another strategy. Searches
and trainings are commands of their own, one after the other, each with all cores. A result is a
line of FOLDER/results.jsonl as soon as it is there; the same command goes on with what is missing,
also with a copy of FOLDER that holds results.jsonl and setting.json alone. `--tables` prints what
is done. Seeds count from 100 times the group.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

import tfnas
from tfnas.app.command_line import override
from tfnas.derive.hand_made import RULES, hand_made
from tfnas.files import checkpoint
from tfnas.files.atomic import write_atomically
from tfnas.intervals import Interval, difference, mean_interval
from tfnas.latency.table import LatencyTable
from tfnas.pipeline.find import new_task
from tfnas.process.exits import DONE, OUTSIDE_TOLERANCE
from tfnas.runs.folder import RunFolder
from tfnas.runs.result import Result
from tfnas.strategies.contract import Task
from tfnas.strategies.parts.evaluate import Genome
from tfnas.training.loop import CHECKPOINT

SEARCHES = 3  # of each way
TRAININGS = 2  # of each net that a search found
RANDOM_NETS = 10
FIRST_RANDOM = 20_000  # seed of the random nets; a search's is below 1000
WAYS: Mapping[str, tuple[str, ...]] = {
    "found": (),
    "spos": ("strategy=spos",),
    "tfnas": ("strategy=tfnas",),
}
Row = dict[str, Any]


@dataclass(frozen=True)
class Setting:
    """What all jobs share; written down before the first one runs.

    Attributes:
        given: overrides of all searches, such as the space's resolution.
        minutes: of a search.
        epochs: of a training, by conf/recipe/`recipe`.yaml.
    """

    images: str
    table: str
    space: str
    target_ms: float
    given: tuple[str, ...]
    minutes: float
    recipe: str
    epochs: int
    first_seed: int


@dataclass(frozen=True)
class Job:
    """A search, or the training of one net.

    Attributes:
        origin: random | a rule | a way to search.
        net: its number, or the seed of its search.
        training: which one of the net; None: the search itself.
    """

    origin: str
    net: int
    training: int | None = None

    @property
    def name(self) -> str:
        kind = "search" if self.training is None else f"train{self.training}"
        return f"{kind}-{self.origin}-{self.net}"


def jobs() -> list[Job]:
    """In an order of which each part shows something by itself."""
    turns = range(SEARCHES)
    planned: list[Job] = []
    for turn in turns:
        planned += [Job("found", turn), Job("found", turn, 0)]
        planned += [Job("random", n, 0) for n in range(RANDOM_NETS) if n % SEARCHES == turn]
        planned += [Job(rule, 0, turn) for rule in RULES if turn < TRAININGS]
    for again in range(1, TRAININGS):
        planned += [Job("found", turn, again) for turn in turns]
    for way in [way for way in WAYS if way != "found"]:
        for turn in turns:
            planned += [Job(way, turn), Job(way, turn, 0)]
    return planned


class Study:
    """Runs jobs, one at a time."""

    def __init__(self, setting: Setting, images: Path, table: Path, out: Path):
        self.setting, self.out = setting, out
        self.data = ("data=npz", override("data.root", images.resolve()), "data.workers=0")
        self.table = override("table", table.resolve())
        self.file = out / "results.jsonl"
        lines = self.file.read_text().splitlines() if self.file.exists() else []
        self.rows: dict[str, Row] = {row["job"]: row for row in map(json.loads, lines)}
        self.task = self._task(images, table)

    def _task(self, images: Path, table: Path) -> Task:
        s = self.setting
        changes = {k: int(v) for k, v in (g.removeprefix("space.").split("=") for g in s.given)}
        dataset = tfnas.load_images("npz", root=str(images))
        spec = tfnas.load_preset("space", s.space, classes=len(dataset.classes), **changes)
        budget = tfnas.load_preset("budget", "quick", resolution=None)
        derive = tfnas.load_preset("derive", "constrained")
        return new_task(
            spec, dataset, LatencyTable.load(table), s.target_ms, budget=budget, derive=derive,
            tolerance=0.01, seed=s.first_seed, device=torch.device("cpu"),
        )  # fmt: skip

    def run(self, job: Job) -> None:
        try:
            row = self._search(job) if job.training is None else self._train(job)
        except ValueError as error:
            if job.origin not in RULES:
                raise
            row = {"failed": str(error), "seconds": 0.0}  # the rule has no net at the target
        self.rows[job.name] = {"job": job.name, "origin": job.origin, "net": job.net, **row}
        with self.file.open("a") as lines:
            lines.write(json.dumps(self.rows[job.name]) + "\n")
        shown = {k: v for k, v in row.items() if isinstance(v, int | float)}
        print(job.name, shown, flush=True)

    def _search(self, job: Job) -> Row:
        s, files = self.setting, RunFolder(self.out / job.name)
        if files.result.exists():
            pass
        elif files.overrides.exists():  # begun
            _call("tfnas.search", override("resume", files.path.resolve()))
        else:
            _call(
                "tfnas.search", f"space={s.space}", *s.given, *self.data, self.table,
                f"target_ms={s.target_ms}", f"minutes={s.minutes}", "loop_minutes=0",
                f"seed={s.first_seed + job.net}", *WAYS[job.origin],
                override("hydra.run.dir", files.path.resolve()),
            )  # fmt: skip
        result = Result.load(files.result)
        return {
            "seconds": sum(v for k, v in result.seconds.items() if k != "profile"),
            "table_ms": result.table_ms,
            "measured_ms": result.measured_ms,
            "subnet": json.loads(files.subnet.read_text()),
        }

    def _train(self, job: Job) -> Row:
        s, files = self.setting, RunFolder(self.out / job.name)
        if not files.subnet.exists():
            files.path.mkdir(parents=True, exist_ok=True)
            write_atomically(files.subnet, self._subnet(job))
        if not files.trained.exists():
            begun = checkpoint.exists(files.path / CHECKPOINT)
            _call(
                "tfnas.train", override("subnet", files.subnet.resolve()), *self.data,
                f"recipe={s.recipe}", f"recipe.epochs={s.epochs}",
                f"seed={s.first_seed + (job.training or 0)}",
                override("out", files.path.resolve()), f"resume={begun}".lower(),
            )  # fmt: skip
        trained, net = json.loads(files.trained.read_text()), tfnas.load_subnet(files.subnet)
        return {
            "top1": 100 * trained["top1"],
            "table_ms": self.task.constraints[0].table.total(net),
            "macs": net.macs,
            "seconds": trained["seconds"],
        }

    def _subnet(self, job: Job) -> str:
        constraint = self.task.constraints[0]
        if job.origin == "random":
            rng = np.random.default_rng(FIRST_RANDOM + self.setting.first_seed + job.net)
            return Genome.random(self.task, rng).meet_target(self.task, rng).subnet.to_json()
        if job.origin in RULES:
            return hand_made(self.task.space, constraint, job.origin).to_json()
        return json.dumps(self.rows[Job(job.origin, job.net).name]["subnet"])


def _call(module: str, *overrides: str) -> None:
    """Run a command of the user's; a target that was missed is a result like others."""
    done = subprocess.run([sys.executable, "-m", module, *overrides], check=False)
    if done.returncode not in (DONE, OUTSIDE_TOLERANCE):
        raise SystemExit(f"{module} ended with status {done.returncode}; the same command goes on")


def table(rows: Sequence[Row]) -> str:
    """Accuracies by origin and what the found nets have above them, as Markdown.

    A net's accuracy is the mean of its trainings. A rule's is one net: its trainings count.
    """
    nets: dict[str, dict[str, list[float]]] = {}
    for row in rows:
        if "top1" in row:
            key = row["job"] if row["origin"] in RULES else str(row["net"])
            nets.setdefault(row["origin"], {}).setdefault(key, []).append(row["top1"])
    means = {origin: [float(np.mean(v)) for v in of.values()] for origin, of in nets.items()}
    found = means.get("found", [])
    lines = ["| nets | top-1, % | found minus it |", "|---|---|---|"]
    for origin, values in means.items():
        apart = _shown(difference(found, values)) if found and origin != "found" else ""
        lines.append(f"| {origin}, {len(values)} | {_shown(mean_interval(values))} | {apart} |")
    search_s = [row["seconds"] for row in rows if row["job"].startswith("search-found")]
    # Those of found nets have all cores, as searches do; others may have shared them.
    train_s = [row["seconds"] for row in rows if "top1" in row and row["origin"] == "found"]
    if found and search_s and "random" in means:
        cost = 1 + float(np.mean(search_s)) / float(np.mean(train_s))
        best = best_of(means["random"], round(cost))
        lines.append(
            f"| best of {round(cost)} random, as many as a search and a training cost, chosen by "
            f"the test | {best:.2f} | {np.mean(found) - best:+.2f} |"
        )
        lines.append(
            f"\nA search {np.mean(search_s) / 60:.1f} minutes, a training "
            f"{np.mean(train_s) / 60:.1f}; {sum(row['seconds'] for row in rows) / 3600:.1f} hours."
        )
    return "\n".join(lines)


def best_of(values: Sequence[float], count: int) -> float:
    """The expected best of so many that are drawn from the values, each at most once."""
    ordered = np.sort(values)
    count = min(count, len(ordered))
    shares = np.ones(len(ordered))  # of draws whose best is this or lower
    for drawn in range(count):
        shares *= np.maximum(np.arange(1, len(ordered) + 1) - drawn, 0) / (len(ordered) - drawn)
    return float(np.diff(shares, prepend=0.0) @ ordered)


def _shown(interval: Interval) -> str:
    return f"{interval.mean:.2f} ± {interval.half_width:.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("images", type=Path)
    parser.add_argument("table", type=Path)
    parser.add_argument("--space", required=True)
    parser.add_argument("--target-ms", type=float, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--given", nargs="*", default=[], help="such as space.resolution=64")
    parser.add_argument("--minutes", type=float, default=15)
    parser.add_argument("--recipe", default="small")
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--group", type=int, default=0)
    parser.add_argument("--tables", action="store_true")
    options = parser.parse_args()
    setting = Setting(
        options.images.name, options.table.name, options.space, options.target_ms,
        tuple(options.given), options.minutes, options.recipe, options.epochs,
        100 * options.group,
    )  # fmt: skip
    options.out.mkdir(parents=True, exist_ok=True)
    file = options.out / "setting.json"
    text = json.dumps({**asdict(setting), "ways": WAYS}, indent=1) + "\n"
    if file.exists() and file.read_text() != text:
        raise SystemExit(f"{file} has another setting than this command: give another --out")
    write_atomically(file, text)
    study = Study(setting, options.images, options.table, options.out)
    for job in jobs():
        if job.name not in study.rows and not options.tables:
            study.run(job)
    print(table(list(study.rows.values())))


if __name__ == "__main__":
    main()
