"""The finals of a search: its nets, random and hand-made ones are really trained, the worse ones
dropped early, and the winner's training is kept.

All nets are at the target on the table, corrected for what the device said of the search's own net;
widths don't change once a net is trained. Accuracies are those on the training images that the
search held out; the test set is seen once, by the winner.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace

import numpy as np

from profilers.tables.closed_loop import LoopResult
from tfnas.data.batches import Batches
from tfnas.derive.architecture import Constraint
from tfnas.files import checkpoint
from tfnas.pipeline.device import reachable
from tfnas.pipeline.drive import new_task
from tfnas.pipeline.entrants import Entrant, Plan, choose, read_plan
from tfnas.pipeline.inputs import Prepared
from tfnas.pipeline.jobs import run_jobs
from tfnas.pipeline.rung import (
    START,
    Curve,
    Job,
    Outcome,
    Split,
    open_training,
    read_curve,
    split_images,
)
from tfnas.process.accelerator import cpu_threads
from tfnas.process.errors import DivergedError
from tfnas.process.progress import duration
from tfnas.runs.finals import Finals, FinalsRow, evidence, margins, ordered
from tfnas.runs.result import within_tolerance
from tfnas.runs.trained import leave
from tfnas.space.search_space import SearchSpace
from tfnas.space.subnet import Subnet
from tfnas.strategies.contract import Found
from tfnas.strategies.parts.halving import Rung, ranking, rungs
from tfnas.training.accuracy import accuracy
from tfnas.training.loop import CHECKPOINT

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Held:
    """What finals leave to the run.

    Attributes:
        subnet: the winner; its weights lie in the run's folder.
        seconds: that earlier tries spent on trainings.
    """

    subnet: Subnet
    plan: Plan
    result: Finals
    seconds: float


def begun(p: Prepared) -> Plan | None:
    """The plan of finals that this search had begun. Raises ValueError if it is damaged."""
    if p.saved is None:  # the search starts anew, and so do they
        shutil.rmtree(p.folder.finals, ignore_errors=True)
    return read_plan(p.folder.finals)


def hold(
    p: Prepared,
    space: SearchSpace,
    constraint: Constraint,
    found: Found,
    own: Subnet,
    loop: LoopResult | None,
    plan: Plan | None,
    stop: Callable[[], bool],
) -> Held:
    """Train, and leave the winner's weights.safetensors and train.json in the run's folder.

    Args:
        own: the search's net, as the device left it.
        plan: of finals that have begun.

    Raises:
        StoppedError: after saving, once `stop()` is true.
        DivergedError: if no training came to its end.
        OSError: if a file can't be read or written.
    """
    cfg, folder = p.inputs.cfg, p.folder.finals
    seconds = 0.0
    if plan is None:
        plan = _new_plan(p, space, constraint, found, own, loop)
    else:
        curves = [read_curve(folder / entrant.name) for entrant in plan.entrants]
        seconds = sum(curve.seconds for curve in curves) / cfg.finals.jobs
    steps = rungs(
        len(plan.entrants), cfg.finals.recipe.epochs, cfg.finals.keep, cfg.finals.first_cut
    )
    _announce(plan, steps)
    curves_by_name = _climb(p, plan, steps, stop)
    cuts = [step.epochs for step in steps]
    rows = [
        FinalsRow(e.name, e.source, e.table_ms, e.scores, c.top1, c.failed)
        for e, c in ((e, curves_by_name[e.name]) for e in plan.entrants)
    ]
    last = {row.name: row for row in rows if row.epochs == cuts[-1] and row.failed is None}
    winner = ranking({name: curves_by_name[name].judged(cuts[-1]) for name in last})[0]
    job = _job(p, winner, cuts[-1])
    _keep(p, job)
    images = len(split_images(job.split).test)
    result = Finals(
        winner=winner,
        epochs=cuts[-1],
        judged_images=images,
        target_ms=plan.target_ms,
        rows=ordered(rows, winner),
        evidence=evidence(rows, cuts),
        margins=tuple(
            margin
            for name in dict.fromkeys((winner, plan.entrants[0].name))
            for margin in margins(rows, name, cuts, images)
        ),
    )
    return Held(Subnet.load(folder / winner / "subnet.json"), plan, result, seconds)


def _new_plan(
    p: Prepared,
    space: SearchSpace,
    constraint: Constraint,
    found: Found,
    own: Subnet,
    loop: LoopResult | None,
) -> Plan:
    cfg, target = p.inputs.cfg, constraint
    closed: Subnet | None = own
    if loop is not None:
        asked_ms = cfg.target_ms * loop.table_ms / loop.measured.median_ms
        try:
            target = reachable(
                space, constraint.table, asked_ms, derive=cfg.derive, tolerance=cfg.tolerance,
                beside=p.inputs.beside,
            )  # fmt: skip
            log.info("on the device %g ms are %.4g ms on the table", cfg.target_ms, asked_ms)
            if not within_tolerance(
                loop.measured.median_ms, cfg.target_ms, cfg.tolerance, cfg.derive.at_most
            ):
                closed = None  # the loop's time was too short for it
        except ValueError as error:
            log.warning("warning: the nets aren't corrected for the device: %s", error)
    task = new_task(p.inputs, space, target)
    entrants = choose(cfg.finals, task, found, closed, target is not constraint, p.folder.finals)
    plan = Plan(target.target, entrants, None if loop is None else loop.trail_json())
    plan.save(p.folder.finals)
    return plan


def _announce(plan: Plan, steps: tuple[Rung, ...]) -> None:
    counts: dict[str, int] = {}
    for entrant in plan.entrants:
        counts[entrant.source] = counts.get(entrant.source, 0) + 1
    before = [0, *(step.epochs for step in steps)]
    epochs = sum(step.nets * (step.epochs - b) for step, b in zip(steps, before, strict=False))
    log.info(
        "finals: %s; %s; %d epochs in all",
        ", ".join(f"{count} {source}" for source, count in counts.items()),
        ", ".join(f"{step.nets} nets to epoch {step.epochs}" for step in steps),
        epochs,
    )


def _climb(
    p: Prepared, plan: Plan, steps: tuple[Rung, ...], stop: Callable[[], bool]
) -> dict[str, Curve]:
    """What each training came to. Raises DivergedError if none came to its end."""
    finals = p.inputs.cfg.finals
    left: tuple[str, ...] = tuple(entrant.name for entrant in plan.entrants)
    curves = {name: Curve() for name in left}
    for number, step in enumerate(steps):
        jobs = [_job(p, name, step.epochs) for name in left]
        outcomes = run_jobs(jobs, finals.jobs, finals.backend, stop)
        for name in left:
            curves[name] = _curve_of(name, outcomes[name])
        done = {
            name: curves[name].judged(step.epochs) for name in left if curves[name].failed is None
        }
        if not done:
            raise DivergedError(f"no training of the finals came to epoch {step.epochs}")
        order = ranking(done)
        kept = order[: steps[number + 1].nets] if number + 1 < len(steps) else order[:1]
        shown = ", ".join(f"{name} {100 * done[name].top1:.1f} %" for name in order)
        log.info("held-out top-1 after %d epochs: %s", step.epochs, shown)
        if number + 1 < len(steps):
            for name in set(left) - set(kept):
                _forget(p, name)
        left = kept
    return curves


def _curve_of(name: str, outcome: Outcome) -> Curve:
    """What a training came to; why it dropped out is said."""
    curve = outcome.curve
    if outcome.error is not None:
        curve = replace(curve, failed=outcome.error)
    if curve.failed is not None:
        log.warning("warning: %s drops out: %s", name, curve.failed)
    return curve


def _job(p: Prepared, name: str, until: int) -> Job:
    cfg, mine = p.inputs.cfg, p.inputs
    threads = cpu_threads(cfg.cores, tell=False)
    split = Split(
        tuple(asdict(cfg.data).items()), cfg.budget.max_train, cfg.finals.recipe.max_train,
        cfg.budget.arch_fraction, cfg.seed,
    )  # fmt: skip
    return Job(
        folder=str(p.folder.finals.resolve() / name),
        split=split,
        recipe=cfg.finals.recipe,
        until=until,
        seed=cfg.seed,
        device=mine.accelerator.type,
        threads=max(1, threads // cfg.finals.jobs),
        checkpoint_minutes=cfg.checkpoint_minutes,
        on_nonfinite=cfg.on_nonfinite,
        stop_file=str(p.folder.finals.resolve() / "stop"),
        owner=os.getpid(),
    )


def _keep(p: Prepared, job: Job) -> None:
    """Test the winner once, and write what `tfnas.train` leaves into the run's folder."""
    training = open_training(job)
    data, test, workers = training.dataset, p.inputs.dataset.test, p.inputs.cfg.data.workers
    batches = Batches(
        test, np.arange(len(test)), batch=job.recipe.batch_size, size=training.resolution,
        mean=data.mean, std=data.std, seed=job.seed, augment=False, workers=workers,
        drop_last=False,
    )  # fmt: skip
    model = training.network if training.ema is None else training.ema
    found = accuracy(model, batches.epoch(0))
    trained = replace(training.trained, top1=found.top1, top5=found.top5)
    result = leave(training, p.folder.path, trained)
    log.info("%s wins, trained in %s: %s", job.name, duration(result.seconds), result.line)


def _forget(p: Prepared, name: str) -> None:
    """Remove what a training that is over would have gone on with; its curve stays."""
    folder = p.folder.finals / name
    checkpoint.remove(folder / CHECKPOINT)
    (folder / START).unlink(missing_ok=True)


def forget_all(p: Prepared, entrants: tuple[Entrant, ...]) -> None:
    """Once the run's result is written."""
    for entrant in entrants:
        _forget(p, entrant.name)
