"""python -m tfnas.compare RUN RUN

Trains nets of one latency by one recipe with the same seeds, and tells their accuracies with 95 %
intervals and the differences between them. The same command goes on where it was stopped, and with
more `seeds` it trains those alone. Writes compare.json after every training, and compare.html.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import shlex
import sys
import tempfile
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from tfnas import checkpoint
from tfnas import config as cfg
from tfnas.accelerator import cpu_threads, pick_accelerator
from tfnas.checkpoint import read_checkpoint
from tfnas.compare_page import PAGE, page
from tfnas.comparison import (
    FILE,
    FINISHED,
    UNFINISHED,
    Comparison,
    Cost,
    Data,
    Method,
    Net,
    Table,
    Trial,
    cautions,
    costs_so_far,
    table,
    verdicts,
    warnings,
)
from tfnas.contenders import (
    Contender,
    as_overrides,
    check_latencies,
    check_shapes,
    find_table,
    latencies,
    load_contenders,
)
from tfnas.data import Dataset
from tfnas.distributed import from_environment
from tfnas.files import write_atomically
from tfnas.progress import duration
from tfnas.result import MAX_BYTES, versions
from tfnas.runs import clean
from tfnas.space import Subnet
from tfnas.stopping import StoppedError, locked, stop_on_signals
from tfnas.strategies.contract import DivergedError
from tfnas.train import RESULT, check_finished, load_data, train
from tfnas.training import CHECKPOINT, EpochResult, Training, identity
from tfnas.untrusted import parse_json, read_bytes
from tfnas.weights import WEIGHTS, fingerprint

log = logging.getLogger("tfnas.compare")

LEAST_SEEDS = 3
SHARED = ("tfnas", "torch")  # one version for all trainings of a comparison


@dataclass(frozen=True)
class Plan:
    """A comparison whose input has been checked.

    Attributes:
        subnets: by fingerprint.
        start: the comparison with the trainings that are finished already.
    """

    config: cfg.CompareConfig
    out: Path
    dataset: Dataset
    subnets: dict[str, Subnet]
    start: Comparison

    def folder(self, subnet: str, seed: int) -> Path:
        return self.out / subnet / f"seed_{seed}"


def prepare(config: cfg.CompareConfig) -> cfg.Work:
    if from_environment().size > 1:
        raise ValueError(
            "torchrun: comparisons run in one process; start it by `python -m tfnas.compare`"
        )
    _check_values(config)
    accelerator = pick_accelerator(config.accelerator)
    contenders = load_contenders(config.nets)
    dataset = load_data(config.data, config.recipe)
    check_shapes(contenders, len(dataset.classes), dataset.origin)
    latency_table = find_table(config.table, contenders)
    ms = latencies(latency_table, contenders)
    check_latencies(ms, contenders, config.latency_tolerance, latency_table.source)
    subnets = {fingerprint(net): net for c in contenders for net in c.subnets}
    torch.set_num_threads(cpu_threads(config.threads, os.cpu_count() or 1))
    resolution = _dry_run(config, dataset, subnets)
    device = latency_table.device
    start = Comparison(
        status=UNFINISHED,
        command="",
        methods=tuple(_method(contender, ms) for contender in contenders),
        seeds=tuple(config.seeds),
        trials=(),
        costs=(),
        recipe=config.recipe,
        data=Data(dataset.name, dataset.origin, len(dataset.test)),
        table=Table(latency_table.source, device.name, device.fingerprint),
        latency_tolerance=config.latency_tolerance,
        resolution=resolution,
        deployed_resolution=contenders[0].subnets[0].resolution,
        accelerator=accelerator.type,
        threads=torch.get_num_threads(),
        on_nonfinite=config.on_nonfinite,
        versions={name: version for name, version in versions().items() if name in SHARED},
    )
    plan = Plan(config, _folder(config, dataset, subnets), dataset, subnets, start)
    _with_finished(plan)  # refuses now; what counts is read once nobody else writes
    cfg.check_writable(plan.out / FILE)
    return lambda: _work(plan)


def _check_values(config: cfg.CompareConfig) -> None:
    cfg.check_positive(threads=config.threads, checkpoint_minutes=config.checkpoint_minutes)
    cfg.check_choice("on_nonfinite", config.on_nonfinite, ("stop", "skip"))
    if not 0 <= config.latency_tolerance < math.inf:
        raise ValueError(
            f"latency_tolerance={config.latency_tolerance}: expected a fraction of 0 or more"
        )
    seeds = config.seeds
    if len(set(seeds)) < max(len(seeds), LEAST_SEEDS):
        raise ValueError(
            f"seeds={seeds}: expected {LEAST_SEEDS} or more different ones, such as seeds=[0,1,2]: "
            "from fewer nobody can tell a difference from chance"
        )
    if not all(0 <= seed < 2**32 for seed in seeds):
        raise ValueError(f"seeds={seeds}: expected 0 to {2**32 - 1}")


def _method(contender: Contender, ms: Mapping[Path, float]) -> Method:
    pairs = zip(contender.paths, contender.subnets, strict=True)
    nets = (Net(str(path), fingerprint(s), ms[path], s.macs) for path, s in pairs)
    return Method(contender.name, tuple(nets))


def _dry_run(config: cfg.CompareConfig, dataset: Dataset, subnets: dict[str, Subnet]) -> int:
    """Refuse now what a training would refuse hours later; the resolution that it would have."""
    resolution = 0
    with tempfile.TemporaryDirectory() as folder:
        for subnet in subnets.values():
            training = Training(
                subnet, dataset, config.recipe, seed=config.seeds[0], out=Path(folder)
            )
            resolution = training.resolution
    return resolution


def _folder(config: cfg.CompareConfig, dataset: Dataset, subnets: dict[str, Subnet]) -> Path:
    """The same for the same nets, recipe and data, so that the same command goes on there."""
    if config.out is not None:
        return Path(config.out)
    if cfg.is_sweep():
        return cfg.output_dir()
    same = [sorted(subnets), vars(config.recipe), dataset.name, dataset.origin]
    return Path("runs") / f"compare_{hashlib.sha256(json.dumps(same).encode()).hexdigest()[:8]}"


def _with_finished(plan: Plan) -> Plan:
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
    if not (folder / RESULT).is_file():
        return None
    check_finished(folder, who)
    return _read(folder, subnet, seed, plan.start)


def _read(folder: Path, subnet: str, seed: int, start: Comparison) -> Trial:
    """What a finished training left.

    Raises:
        ValueError: if that is damaged, or it ran otherwise than `start` says of all.
    """
    path = folder / RESULT
    try:
        record = parse_json(read_bytes(path, MAX_BYTES).decode())
        epochs = tuple(EpochResult(**epoch) for epoch in record["epochs"])
        numbers = [value for epoch in epochs for value in vars(epoch).values()]
        numbers += [record["seconds"], record["top1"], record["top5"]]
        if not epochs or not all(type(n) in (int, float) for n in numbers):
            raise ValueError("expected numbers of each epoch")
        if not 0 <= record["top1"] <= record["top5"] <= 1:
            raise ValueError("expected top1 and top5 to be fractions")
        if not all(0 <= epoch.top1 <= 1 for epoch in epochs):
            raise ValueError("expected the epochs' top1 to be fractions")
        ran = {"accelerator": record["device"], "threads": record["threads"]}
        ran |= {name: record["versions"][name] for name in SHARED}
        skipped = record["skipped_steps"] != 0
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise ValueError(f"{path} is no result of a training: {error}") from None
    now = {"accelerator": start.accelerator, "threads": start.threads, **start.versions}
    if skipped:  # where none was, stop and skip are the same
        ran, now = {**ran, "on_nonfinite": "skip"}, {**now, "on_nonfinite": start.on_nonfinite}
    if changed := checkpoint.changes(ran, now):
        raise ValueError(
            f"{folder} was trained otherwise ({changed}), and pairs need one for all: go on as it "
            "was, or give another out=FOLDER"
        )
    weights = str(folder / WEIGHTS)
    return Trial(subnet, seed, record["top1"], record["top5"], record["seconds"], weights, epochs)


def _work(plan: Plan) -> int:
    with ExitStack() as stack:
        try:
            stack.enter_context(locked(plan.out))
            plan = _with_finished(plan)
        except (ValueError, OSError) as error:
            return cfg.refuse(error)
        return _compare(plan)


def _compare(plan: Plan) -> int:
    given = [o for o in cfg.overrides() if not o.startswith("out=")]
    command = f"python -m tfnas.compare {shlex.join([*given, cfg.override('out', plan.out)])}"
    done = replace(plan.start, command=command)
    done.save(plan.out / FILE)
    _announce(plan, done)
    try:
        with stop_on_signals() as stop:
            for net, seed in done.planned:
                if not any((t.subnet, t.seed) == (net.subnet, seed) for t in done.trials):
                    done = _train(plan, done, net, seed, stop)
    except StoppedError:
        log.info("stopped, and saved; go on with: %s", command)
        return cfg.INTERRUPTED
    except (DivergedError, OSError, ValueError) as error:  # ValueError: an unreadable image
        log.error("error: %s; what is finished is kept by: %s", error, command)
        log.debug("", exc_info=error)
        return cfg.FAILED
    done = replace(done, status=FINISHED)
    done.save(plan.out / FILE)
    write_atomically(plan.out / PAGE, page(done, plan.subnets))
    _tell(done)
    log.info("wrote %s and %s", plan.out / FILE, plan.out / PAGE)
    return cfg.DONE


def _train(
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


def _announce(plan: Plan, done: Comparison) -> None:
    for method in done.methods:
        for net in method.nets:
            log.info(
                "%s: %.4g ms on the table, %.0f M multiply-adds (%s)",
                method.name, net.table_ms, net.macs / 1e6, clean(net.path),
            )  # fmt: skip
    for line in warnings(done):
        log.warning("warning: %s", line)
    recipe = done.recipe
    log.info(
        "recipe %s: %d epochs of %d images at %d px on %s, seeds %s; data %s",
        recipe.name, recipe.epochs, len(plan.dataset.train), done.resolution, done.accelerator,
        ", ".join(map(str, done.seeds)), clean(done.data.origin),
    )  # fmt: skip
    finished = f", {len(done.trials)} of them finished" if done.trials else ""
    log.info("%d trainings%s, into %s", len(done.planned), finished, plan.out)


def _tell(done: Comparison) -> None:
    log.info("")
    for line in table(done).splitlines():
        log.info("%s", line)
    log.info("")
    for line in verdicts(done):
        log.info("%s", line)
    for line in warnings(done):
        log.warning("warning: %s", line)
    for line in cautions(done):
        log.info("note: %s", line)
    log.info("%s of CPU time in all", duration(done.cpu_seconds))


if __name__ == "__main__":
    try:
        sys.argv[1:] = as_overrides(sys.argv[1:])
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(cfg.UNUSABLE_INPUT)
    cfg.main(cfg.CompareConfig, "compare", prepare)
