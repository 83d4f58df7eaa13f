"""The search of one net from plain values, without a run folder: what `tfnas.find_net` does."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace

import torch

from tfnas.app.schemas import DeriveConfig
from tfnas.data.batches import reading
from tfnas.data.images import Dataset
from tfnas.latency.table import LatencyTable
from tfnas.pipeline.device import reachable
from tfnas.pipeline.inputs import split
from tfnas.process.accelerator import cpu_threads, pick_accelerator
from tfnas.runs.found import FoundNet
from tfnas.space.spec import SpaceSpec
from tfnas.strategies.contract import Budget, Found, Progress, Strategy, Task


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
    on_progress: Callable[[Progress], None] = lambda progress: None,
) -> FoundNet:
    """Search, and derive the net that takes `target_ms` on the table; see `tfnas.find_net`."""
    strategy.check(derive.method)
    if spec.classes is not None and spec.classes != len(images.classes):
        raise ValueError(
            f"the space has classes={spec.classes}, the data {images.name} has "
            f"{len(images.classes)}"
        )
    space = replace(spec, classes=len(images.classes)).build(table.device.quantum)
    table = table.for_space(space)
    constraint = reachable(space, table, target_ms, derive=derive, tolerance=tolerance)
    if budget.max_train is not None:
        images = images.at_most(budget.max_train)
    train, held_out = split(images, budget, budget.resolution or space.resolution, seed)
    torch.set_num_threads(cpu_threads(cores, os.cpu_count() or 1))
    task = Task(
        space, (constraint,), train, held_out, budget, seed, derive.method,
        pick_accelerator(accelerator),
    )  # fmt: skip
    with reading():
        for event in strategy.run(task):
            if isinstance(event, Found):
                derived = event.derived
                return FoundNet(
                    derived.subnet, space, table, target_ms, derived.table_ms[0], derive.at_most,
                    derived.reached, event.scores, event.weights,
                )  # fmt: skip
            on_progress(event)
    raise AssertionError("a strategy must end with what it found")
