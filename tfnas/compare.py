"""python -m tfnas.compare RUN RUN

Trains nets of one latency by one recipe with the same seeds, and tells their accuracies with 95 %
intervals and the differences between them. The same command goes on where it was stopped, and with
more `seeds` it trains those alone. Writes compare.json after every training, and compare.html.
`json=-` prints what compare.json holds at the end.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from tfnas.app import job
from tfnas.app.answer import answer_to, keep_stdout_free
from tfnas.app.command_line import is_sweep, output_dir, override, overrides
from tfnas.app.data import load_data
from tfnas.app.main import Work, main
from tfnas.app.schemas import CompareConfig
from tfnas.comparison.contenders import (
    as_overrides,
    check_latencies,
    check_shapes,
    find_table,
    latencies,
    load_contenders,
)
from tfnas.comparison.record import (
    FILE,
    FINISHED,
    UNFINISHED,
    Comparison,
    Data,
    Table,
)
from tfnas.comparison.trials import SHARED, Plan, dry_run, method_of, train_next, with_finished
from tfnas.comparison.verdicts import cautions, table, verdicts, warnings
from tfnas.data.images import Dataset
from tfnas.files.atomic import write_atomically
from tfnas.nets.weights import fingerprint
from tfnas.pages.compare import PAGE, compare_page
from tfnas.process.accelerator import cpu_threads, pick_accelerator
from tfnas.process.checks import check_writable
from tfnas.process.exits import DONE, UNUSABLE_INPUT
from tfnas.process.progress import duration
from tfnas.process.ranks import from_environment
from tfnas.process.stopping import stop_on_signals
from tfnas.process.versions import versions
from tfnas.runs.run import clean
from tfnas.space.subnet import Subnet
from tfnas.training.recipe import options

log = logging.getLogger("tfnas.compare")

LEAST_SEEDS = 3


def prepare(config: CompareConfig) -> Work:
    keep_stdout_free(config.json)
    if from_environment().size > 1:
        raise ValueError(
            "torchrun: comparisons run in one process; start it by `python -m tfnas.compare`"
        )
    _check_seeds(config.seeds)
    accelerator = pick_accelerator(config.accelerator)
    contenders = load_contenders(config.nets)
    dataset = load_data(config.data, config.recipe.max_train)
    check_shapes(contenders, len(dataset.classes), dataset.origin)
    latency_table = find_table(config.table, contenders)
    ms = latencies(latency_table, contenders)
    check_latencies(ms, contenders, config.latency_tolerance, latency_table.source)
    subnets = {fingerprint(net): net for c in contenders for net in c.subnets}
    torch.set_num_threads(cpu_threads(config.threads))
    resolution = dry_run(config, dataset, subnets)
    device = latency_table.device
    start = Comparison(
        status=UNFINISHED,
        command="",
        methods=tuple(method_of(contender, ms) for contender in contenders),
        seeds=tuple(config.seeds),
        trials=(),
        costs=(),
        recipe=config.recipe,
        data=Data(dataset.name, dataset.origin, len(dataset.test)),
        table=Table(latency_table.source, device.name, device.fingerprint, device.precision),
        latency_tolerance=config.latency_tolerance,
        resolution=resolution,
        deployed_resolution=contenders[0].subnets[0].resolution,
        accelerator=accelerator.type,
        threads=torch.get_num_threads(),
        on_nonfinite=config.on_nonfinite,
        versions={name: version for name, version in versions().items() if name in SHARED},
    )
    plan = Plan(config, _folder(config, dataset, subnets), dataset, subnets, start)
    with_finished(plan)  # refuses now; what counts is read once nobody else writes
    check_writable(plan.out / FILE)
    answer = answer_to(config.json)
    return lambda: _work(plan, answer)


def _check_seeds(seeds: Sequence[int]) -> None:
    if len(set(seeds)) < max(len(seeds), LEAST_SEEDS):
        raise ValueError(
            f"seeds={seeds}: expected {LEAST_SEEDS} or more different ones, such as seeds=[0,1,2]: "
            "from fewer nobody can tell a difference from chance"
        )
    if not all(0 <= seed < 2**32 for seed in seeds):
        raise ValueError(f"seeds={seeds}: expected 0 to {2**32 - 1}")


def _folder(config: CompareConfig, dataset: Dataset, subnets: dict[str, Subnet]) -> Path:
    """The same for the same nets, recipe and data, so that the same command goes on there."""
    if config.out is not None:
        return Path(config.out)
    if is_sweep():
        return output_dir()
    same = [sorted(subnets), options(config.recipe), dataset.name, dataset.identity]
    return Path("runs") / f"compare_{hashlib.sha256(json.dumps(same).encode()).hexdigest()[:8]}"


def _work(plan: Plan, answer: Callable[[str], None]) -> int:
    given = [o for o in overrides() if not o.startswith(("out=", "json="))]
    command = f"python -m tfnas.compare {shlex.join([*given, override('out', plan.out)])}"
    return job.run_alone(
        plan.out,
        lambda: with_finished(plan),
        lambda plan: _compare(plan, command, answer),
        go_on=lambda: command,
    )


def _compare(plan: Plan, command: str, answer: Callable[[str], None]) -> int:
    done = replace(plan.start, command=command)
    done.save(plan.out / FILE)
    _announce(plan, done)
    with stop_on_signals() as stop:
        for net, seed in done.planned:
            if not any((t.subnet, t.seed) == (net.subnet, seed) for t in done.trials):
                done = train_next(plan, done, net, seed, stop)
    done = replace(done, status=FINISHED)
    done.save(plan.out / FILE)
    write_atomically(plan.out / PAGE, compare_page(done, plan.subnets))
    _print_results(done)
    log.info("wrote %s and %s", plan.out / FILE, plan.out / PAGE)
    answer(done.to_json())
    return DONE


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
        "recipe %s: %d epochs of %d images at %s px on %s, seeds %s; data %s",
        recipe.name, recipe.epochs, len(plan.dataset.train), done.resolution, done.accelerator,
        ", ".join(map(str, done.seeds)), clean(done.data.origin),
    )  # fmt: skip
    finished = f", {len(done.trials)} of them finished" if done.trials else ""
    log.info("%d trainings%s, into %s", len(done.planned), finished, plan.out)


def _print_results(done: Comparison) -> None:
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
        sys.exit(UNUSABLE_INPUT)
    main(CompareConfig, "compare", prepare)
