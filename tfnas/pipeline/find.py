"""The search of one net from plain values, without a run folder: what `tfnas.find_net` does."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace
from functools import partial

import torch

from tfnas.app.schemas import DeriveConfig
from tfnas.data.images import Dataset
from tfnas.derive.architecture import Constraint
from tfnas.latency.table import LatencyTable
from tfnas.nets.distillation import Lesson
from tfnas.pipeline.device import reachable
from tfnas.pipeline.drive import run_strategy
from tfnas.pipeline.inputs import split, with_classes
from tfnas.pipeline.planned import Ground, make_plan, of_group, open_budget
from tfnas.process.accelerator import cpu_threads, pick_accelerator
from tfnas.process.checks import check_positive
from tfnas.runs.found import FoundNet
from tfnas.space.size import scaled
from tfnas.space.spec import SpaceSpec
from tfnas.strategies.contract import Budget, Progress, Strategy, Task


def find(
    spec: SpaceSpec,
    images: Dataset,
    table: LatencyTable,
    target_ms: float,
    *,
    strategy: Strategy,
    budget: Budget,
    derive: DeriveConfig,
    tolerance: float,
    seed: int,
    cores: int | None,
    accelerator: str,
    minutes: float | None = None,
    beside: tuple[Constraint, ...] = (),
    given: Collection[str] = (),
    lesson: Lesson | None = None,
    on_progress: Callable[[Progress], None] = lambda progress: None,
) -> FoundNet:
    """Search, and derive the net that takes `target_ms` on the table; see `tfnas.find_net`.

    Args:
        given: where there are `minutes`: dotted keys of what isn't planned.
        lesson: of a teacher of the supernet's weights, on the same accelerator.
    """
    check_positive(target_ms=target_ms, tolerance=tolerance, cores=cores, minutes=minutes)
    strategy.check(derive.method)
    torch.set_num_threads(cpu_threads(cores))
    task_for = partial(
        new_task, spec, images, table, target_ms, derive=derive, tolerance=tolerance, seed=seed,
        beside=beside, device=pick_accelerator(accelerator), lesson=lesson,
    )  # fmt: skip
    if minutes is not None:
        budget = open_budget(budget, given)
    task = task_for(budget=budget)
    if minutes is not None:
        ground = Ground(
            task, strategy, given, {}, len(task.train.images), None, images, 0,
            torch.get_num_threads(),
        )  # fmt: skip
        values = make_plan(minutes, ground).values
        strategy = replace(strategy, **of_group("strategy", values))  # type: ignore[type-var]
        task = task_for(budget=replace(budget, **of_group("budget", values)))
    found = run_strategy(strategy, task, on_progress=on_progress)
    derived = found.derived
    return FoundNet(
        derived.subnet, task.space, task.constraints[0].table, target_ms, derived.costs[0],
        derive.at_most, derived.reached, found.scores, found.weights, beside,
    )  # fmt: skip


def new_task(
    spec: SpaceSpec,
    images: Dataset,
    table: LatencyTable,
    target_ms: float,
    *,
    budget: Budget,
    derive: DeriveConfig,
    tolerance: float,
    seed: int,
    device: torch.device,
    beside: tuple[Constraint, ...] = (),
    lesson: Lesson | None = None,
) -> Task:
    """What a strategy gets; ValueError for what doesn't fit together, or can't be reached."""
    space = with_classes(spec, images).build(table.device.quantum)
    images = images.fed_as(space.in_channels)
    table = table.for_space(space)
    constraint = reachable(
        space, table, target_ms, derive=derive, tolerance=tolerance, beside=beside
    )
    if budget.max_train is not None:
        images = images.at_most(budget.max_train)
    train, held_out = split(images, budget, scaled(space.resolution, budget.resolution), seed)
    return Task(
        space, (constraint, *beside), train, held_out, budget, seed, derive.method, device,
        lesson=lesson,
    )  # fmt: skip
