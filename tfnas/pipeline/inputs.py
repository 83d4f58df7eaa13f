"""What `tfnas.search` checks before it starts: values, data, device, table, reach.

A part of that entry script. Everything here raises ValueError or LookupError, with one clear line,
for input that can't be used.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import OmegaConf

from profilers.contract import Profiler
from tfnas.app.schemas import SearchConfig
from tfnas.data.batches import Batches
from tfnas.data.images import Dataset, stratified_split
from tfnas.data.sets import load_images
from tfnas.files.checkpoint import State
from tfnas.latency.table import LatencyTable
from tfnas.pipeline import folder
from tfnas.pipeline.device import check_device, check_extremes, find_device, reachable
from tfnas.process.accelerator import check_amp, pick_accelerator
from tfnas.process.checks import check_choice, check_positive, check_writable, smallest
from tfnas.process.errors import DisagreementError
from tfnas.process.ranks import ALONE, Ranks, check_batch
from tfnas.runs.scalars import check_tensorboard
from tfnas.space.spec import SpaceSpec
from tfnas.strategies import strategy_class
from tfnas.strategies.contract import Budget, Strategy


@dataclass(frozen=True)
class Prepared:
    """A search whose input has been checked.

    Attributes:
        train, held_out: batches for weights and for the architecture.
        profiler: the device, if it can be reached from here.
        table: None where it has yet to be measured (or completed) into `table_file`.
        out: the run folder.
        who: see `tfnas.pipeline.folder.identity`.
        saved: the checkpoint to go on with, if any.
        ranks: the processes that search together.
    """

    cfg: SearchConfig
    out: Path
    who: Mapping[str, Any]
    saved: State | None
    spec: SpaceSpec
    dataset: Dataset
    train: Batches
    held_out: Batches
    strategy: Strategy
    accelerator: torch.device
    profiler: Profiler | None
    table: LatencyTable | None
    table_file: Path
    ranks: Ranks = ALONE


@dataclass(frozen=True)
class Inputs:
    """What every process of a search loads and checks for itself; see `Prepared`."""

    spec: SpaceSpec
    dataset: Dataset
    train: Batches
    held_out: Batches
    strategy: Strategy
    accelerator: torch.device


def inputs(cfg: SearchConfig, ranks: Ranks = ALONE) -> Inputs:
    """Check what doesn't depend on the folder, the table and the device to be measured."""
    check_values(cfg)
    check_budget(cfg)
    check_batch("budget.batch_size", cfg.budget.batch_size, ranks)
    accelerator = pick_accelerator(cfg.accelerator, ranks)
    check_amp(cfg.amp, accelerator)
    strategy = make_strategy(cfg.strategy, cfg.derive.method)
    spec, dataset = load_data(cfg)
    size = cfg.budget.resolution or spec.resolution
    train, held_out = split(dataset, cfg.budget, size, cfg.seed, cfg.data.workers, ranks)
    return Inputs(spec, dataset, train, held_out, strategy, accelerator)


def prepared(cfg: SearchConfig, out: Path, ranks: Ranks = ALONE) -> Prepared:
    """Check all that can be checked before work starts."""
    folder.check_unused(out, cfg.resume, ranks)
    found = inputs(cfg, ranks)
    spec, dataset, accelerator = found.spec, found.dataset, found.accelerator
    who = folder.identity(cfg, dataset, accelerator, ranks)
    saved = folder.saved(out, cfg, who)
    ranks.agree(None)  # before anything is measured, while the others still load
    check_start(cfg, dataset, accelerator, ranks)
    profiler, table, file = find_device(cfg, spec)
    if saved is not None:
        check_device(saved, profiler, table, file)
    if table is not None:
        reachable(
            spec.build(table.device.quantum),
            table,
            cfg.target_ms,
            derive=cfg.derive,
            tolerance=cfg.tolerance,
        )
    elif profiler is not None:
        check_writable(file)
        check_extremes(cfg, profiler, spec.build(profiler.device.quantum))
    return Prepared(
        cfg, out, who, saved, spec, dataset, found.train, found.held_out, found.strategy,
        accelerator, profiler, table, file, ranks,
    )  # fmt: skip


def check_start(
    cfg: SearchConfig, dataset: Dataset, accelerator: torch.device, ranks: Ranks
) -> None:
    """Make sure that the ranks begin the same search.

    Raises:
        ValueError: if they don't.
    """
    if ranks.size == 1:
        return
    try:
        ranks.check_same(
            {
                "options": folder.options_of(cfg),
                "data": dataset.origin,
                "labels": torch.from_numpy(dataset.train.labels),
                "accelerator": accelerator.type,
            }
        )
    except DisagreementError as error:
        raise ValueError(str(error)) from None


def check_values(cfg: SearchConfig) -> None:
    check_positive(
        target_ms=cfg.target_ms,
        tolerance=cfg.tolerance,
        cores=cfg.cores,
        checkpoint_minutes=cfg.checkpoint_minutes,
        **{
            "profile.max_minutes": cfg.profile.max_minutes,
            "profile.precision": cfg.profile.precision,
            "profile.anchor_nets": cfg.profile.anchor_nets,
            "verify.max_minutes": cfg.verify.max_minutes,
            "verify.precision": cfg.verify.precision,
        },
    )
    if not 0 < cfg.derive.tol < 1:
        raise ValueError(f"derive.tol={cfg.derive.tol}: expected a fraction above 0 and below 1")
    if not 0 <= cfg.loop_minutes < math.inf:
        raise ValueError(f"loop_minutes={cfg.loop_minutes}: expected 0 or more")
    if not 0 <= (cfg.stage_minutes or 0) < math.inf:
        raise ValueError(f"stage_minutes={cfg.stage_minutes}: expected 0 or more")
    if not 0 <= cfg.seed < 2**32:
        raise ValueError(f"seed={cfg.seed}: expected 0 to {2**32 - 1}")
    cores = os.cpu_count() or 1
    if cfg.cores is not None and cfg.cores > cores:
        raise ValueError(f"cores={cfg.cores}: this machine has {cores}")
    check_choice("on_nonfinite", cfg.on_nonfinite, ("stop", "skip"))
    check_tensorboard(cfg.tensorboard)
    check_choice("derive.method", cfg.derive.method, ("constrained", "greedy"))
    if cfg.space.in_channels != 3:
        raise ValueError(
            f"space.in_channels={cfg.space.in_channels}: expected 3, images come as RGB"
        )


def check_budget(cfg: SearchConfig) -> None:
    b = cfg.budget
    check_positive(**{"budget.epochs": b.epochs, "budget.batch_size": b.batch_size})
    check_positive(**{"budget.resolution": b.resolution})
    if not 0 <= b.warmup_epochs <= b.epochs:
        raise ValueError(
            f"budget.warmup_epochs={b.warmup_epochs}: expected 0 to budget.epochs={b.epochs}"
        )
    if b.batch_size < 2:
        raise ValueError("budget.batch_size=1: batch norm needs 2 images or more")
    if not 0 < b.channel_factor <= 1:
        raise ValueError(f"budget.channel_factor={b.channel_factor}: expected above 0, at most 1")
    if not 0 < b.arch_fraction < 1:
        raise ValueError(f"budget.arch_fraction={b.arch_fraction}: expected between 0 and 1")


def make_strategy(values: Mapping[str, Any], derive: str) -> Strategy:
    """The strategy of conf/strategy/ with its knobs checked."""
    knobs = {key: value for key, value in values.items() if key != "name"}
    cls = strategy_class(str(values["name"]))
    typed = OmegaConf.merge(OmegaConf.structured(cls), knobs)  # checks names and types
    strategy = cls(**{str(k): v for k, v in typed.items()})
    strategy.check(derive)
    return strategy


def load_data(cfg: SearchConfig) -> tuple[SpaceSpec, Dataset]:
    """The data set, and the space with its number of classes."""
    d = cfg.data
    dataset = load_images(
        d.name,
        root=d.root,
        train_list=d.train_list,
        test_list=d.test_list,
        max_train=smallest(d.max_train, cfg.budget.max_train),
    )
    classes = cfg.space.classes
    if classes is not None and classes != len(dataset.classes):
        raise ValueError(
            f"the space has classes={classes}, the data {d.name} has {len(dataset.classes)}; "
            "leave out space.classes and data.classes to take those of the data"
        )
    return replace(cfg.space, classes=len(dataset.classes)), dataset


def split(
    dataset: Dataset,
    budget: Budget,
    size: int,
    seed: int,
    workers: int = 0,
    ranks: Ranks = ALONE,
) -> tuple[Batches, Batches]:
    """Batches of `size` pixels for weights (augmented) and for the architecture, stratified.

    Raises:
        ValueError: if a part has fewer images than a batch.
    """

    def batches(indices: np.ndarray, augment: bool) -> Batches:
        return Batches(
            dataset.train,
            indices,
            batch=budget.batch_size,
            size=size,
            mean=dataset.mean,
            std=dataset.std,
            seed=seed,
            augment=augment,
            shuffle=True,
            workers=workers,
            drop_last=True,
            ranks=ranks,
        )

    labels = dataset.train.labels
    weights, arch = stratified_split(labels, 1 - budget.arch_fraction, seed)
    for indices, what in ((weights, "for weights"), (arch, "held out for the architecture")):
        if len(indices) < budget.batch_size:
            raise ValueError(
                f"{len(indices)} of {len(labels)} training images are {what} "
                f"(budget.arch_fraction={budget.arch_fraction}), fewer than a batch: lower "
                f"budget.batch_size={budget.batch_size}, or give more images"
            )
    return batches(weights, augment=True), batches(arch, augment=False)
