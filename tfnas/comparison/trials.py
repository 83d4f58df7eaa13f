"""The trainings of a comparison: which are done, and the next one."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path

from tfnas.app.schemas import CompareConfig
from tfnas.comparison.contenders import Contender
from tfnas.comparison.record import FILE, Comparison, Cost, Method, Net, Trial, costs_so_far
from tfnas.data.images import Dataset
from tfnas.files import checkpoint
from tfnas.files.checkpoint import read_checkpoint
from tfnas.nets.weights import WEIGHTS, fingerprint
from tfnas.process.progress import duration
from tfnas.runs.folder import RunFolder
from tfnas.runs.trained import Versions, check_finished, load_finished, train
from tfnas.space.size import Size
from tfnas.space.subnet import Subnet
from tfnas.training.loop import CHECKPOINT, Training, identity

log = logging.getLogger("tfnas.compare")

SHARED = tuple(f.name for f in fields(Versions))  # one version for all trainings


@dataclass(frozen=True)
class Plan:
    """A comparison whose input has been checked.

    Attributes:
        subnets: by fingerprint.
        start: the comparison with the trainings that are finished already.
    """

    config: CompareConfig
    out: Path
    dataset: Dataset
    subnets: dict[str, Subnet]
    start: Comparison

    def folder(self, subnet: str, seed: int) -> Path:
        return self.out / subnet / f"seed_{seed}"


def method_of(contender: Contender, ms: Mapping[Path, float]) -> Method:
    pairs = zip(contender.paths, contender.subnets, strict=True)
    nets = (Net(str(path), fingerprint(s), ms[path], s.macs) for path, s in pairs)
    return Method(contender.name, tuple(nets))


def dry_run(config: CompareConfig, dataset: Dataset, subnets: dict[str, Subnet]) -> Size:
    """Refuse now what a training would refuse hours later; the resolution that it would have."""
    resolution: Size = 0
    with tempfile.TemporaryDirectory() as folder:
        for subnet in subnets.values():
            training = Training(
                subnet, dataset, config.recipe, seed=config.seeds[0], out=Path(folder)
            )
            resolution = training.resolution
    return resolution


def with_finished(plan: Plan) -> Plan:
    """The plan with what lies in its folder already.

    Raises:
        ValueError: if that is of another comparison.
    """
    start, file = plan.start, plan.out / FILE
    costs = costs_so_far(file) if file.exists() else ()
    planned = {(net.subnet, seed) for net, seed in start.planned}
    if other := [cost for cost in costs if (cost.subnet, cost.seed) not in planned]:
        nets = len({cost.subnet for cost in other} - set(plan.subnets))
        seeds = sorted({cost.seed for cost in other} - set(start.seeds))
        what = [f"{nets} other nets"] if nets else []
        what += [f"seeds {', '.join(map(str, seeds))}"] if seeds else []
        raise ValueError(
            f"{plan.out} holds a comparison with {' and '.join(what)}, which would be lost: give "
            "those too, or another out=FOLDER"
        )
    trials = (_finished(plan, net.subnet, seed) for net, seed in start.planned)
    kept = tuple(trial for trial in trials if trial is not None)
    return replace(plan, start=replace(start, trials=kept, costs=costs))


def _finished(plan: Plan, subnet: str, seed: int) -> Trial | None:
    """A training that has been done; None if it has yet to be begun or ended.

    Raises:
        ValueError: if it is of another recipe or data set, or `_read` refuses it.
    """
    folder = plan.folder(subnet, seed)
    who = identity(plan.subnets[subnet], plan.dataset, plan.config.recipe, seed)
    if checkpoint.exists(folder / CHECKPOINT):
        read_checkpoint(folder / CHECKPOINT, {**who, "processes": 1})
        return None
    if not RunFolder(folder).trained.is_file():
        return None
    check_finished(folder, who)
    return _read(folder, subnet, seed, plan.start)


def _read(folder: Path, subnet: str, seed: int, start: Comparison) -> Trial:
    """What a finished training left.

    Raises:
        ValueError: if that is damaged, or it ran otherwise than `start` says of all.
    """
    found = load_finished(folder)
    if found.top1 is None or found.top5 is None or found.top1 > found.top5:
        raise ValueError(
            f"{RunFolder(folder).trained} is no result of a training: top1={found.top1}, "
            f"top5={found.top5}, expected fractions of which the first is no larger"
        )
    ran = {"accelerator": found.device, "threads": found.threads, **vars(found.versions)}
    now = {"accelerator": start.accelerator, "threads": start.threads, **start.versions}
    if found.skipped_steps != 0:  # where none was, stop and skip are the same
        ran, now = {**ran, "on_nonfinite": "skip"}, {**now, "on_nonfinite": start.on_nonfinite}
    if changed := checkpoint.changes(ran, now):
        raise ValueError(
            f"{folder} was trained otherwise ({changed}), and pairs need one for all: go on as it "
            "was, or give another out=FOLDER"
        )
    weights = str(folder / WEIGHTS)
    return Trial(subnet, seed, found.top1, found.top5, found.seconds, weights, found.epochs)


def train_next(
    plan: Plan, done: Comparison, net: Net, seed: int, stop: Callable[[], bool]
) -> Comparison:
    """The comparison with one more training, which is saved whatever becomes of that one."""
    config, folder = plan.config, plan.folder(net.subnet, seed)
    name = next(m.name for m in done.methods if net in m.nets)
    total = len(done.planned)
    log.info(
        "training %d of %d: %s (%s), seed %d", len(done.trials) + 1, total, name, net.path, seed
    )
    before = _cpu_seconds()
    try:
        result = train(
            plan.subnets[net.subnet], plan.dataset, config.recipe, seed=seed, out=folder,
            device=done.accelerator, workers=config.data.workers,
            checkpoint_minutes=config.checkpoint_minutes, on_nonfinite=config.on_nonfinite,
            resume=checkpoint.exists(folder / CHECKPOINT), stop=stop,
        )  # fmt: skip
        trial = _read(folder, net.subnet, seed, done)
        done = replace(done, trials=(*done.trials, trial))
    finally:
        done = _with_cost(done, net.subnet, seed, _cpu_seconds() - before)
        done.save(plan.out / FILE)
    seconds = sum(trial.seconds for trial in done.trials) / len(done.trials)
    left = total - len(done.trials)
    more = (
        f"; {left} training{'s' if left != 1 else ''} left, about {duration(seconds * left)}"
        if left
        else ""
    )
    log.info("%s, seed %d: %s%s", name, seed, result.line, more)
    return done


def _cpu_seconds() -> float:
    """Of this process and of those that it has waited for, such as readers of images."""
    return sum(os.times()[:4])


def _with_cost(done: Comparison, subnet: str, seed: int, seconds: float) -> Comparison:
    spent = {(cost.subnet, cost.seed): cost for cost in done.costs}
    before = spent.get((subnet, seed), Cost(subnet, seed, 0.0)).cpu_seconds
    spent[subnet, seed] = Cost(subnet, seed, round(before + seconds, 2))
    return replace(done, costs=tuple(spent.values()))
