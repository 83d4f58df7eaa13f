"""What `tfnas.search` checks before it starts: values, data, device, table, reach.

A part of that entry script. Everything here raises ValueError or LookupError, with one clear line,
for input that can't be used.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import OmegaConf

from profilers.contract import Profiler
from profilers.tables.own import ELSEWHERE
from tfnas.app.data import load_data
from tfnas.app.schemas import SearchConfig
from tfnas.data.batches import Batches
from tfnas.data.images import Dataset, stratified_split
from tfnas.derive.architecture import Constraint
from tfnas.files.checkpoint import State
from tfnas.latency.table import LatencyTable
from tfnas.nets.distillation import Lesson
from tfnas.nets.weights import read_supernet
from tfnas.pipeline import folder
from tfnas.pipeline.beside import beside
from tfnas.pipeline.device import (
    check_device,
    check_extremes,
    find_device,
    reach,
    reachable,
)
from tfnas.pipeline.jobs import check_backend
from tfnas.process.accelerator import check_amp, pick_accelerator
from tfnas.process.checks import check_writable
from tfnas.process.cores import usable_cores
from tfnas.process.errors import DisagreementError
from tfnas.process.ranks import ALONE, Ranks, check_batch
from tfnas.runs.folder import RunFolder
from tfnas.runs.plan import Plan
from tfnas.runs.scalars import check_trackers
from tfnas.runs.scores import ScoreFile
from tfnas.runs.teachers import load_teacher
from tfnas.space.size import Size, scaled
from tfnas.space.spec import SpaceSpec
from tfnas.strategies import strategy_class
from tfnas.strategies.contract import Budget, Strategy
from tfnas.strategies.parts.training import WeightKnobs
from tfnas.strategies.surrogate import Reused, Surrogate
from tfnas.training.recipe import check_recipe
from tfnas.training.teacher import lesson


@dataclass(frozen=True)
class Inputs:
    """What every process of a search loads and checks for itself.

    Attributes:
        train, held_out: batches for weights and for the architecture.
        beside: what the net must meet beside its target.
        ranks: the processes that search together.
        lesson: of the teacher of the supernet's weights, whose identity is `teacher`.
    """

    cfg: SearchConfig
    spec: SpaceSpec
    beside: tuple[Constraint, ...]
    dataset: Dataset
    train: Batches
    held_out: Batches
    strategy: Strategy
    accelerator: torch.device
    ranks: Ranks
    lesson: Lesson | None = None
    teacher: str | None = None


@dataclass(frozen=True)
class Prepared:
    """A search whose input has been checked.

    Attributes:
        who: see `tfnas.pipeline.folder.identity`.
        saved: the checkpoint to go on with, if any.
        profiler: the device, if it can be reached from here.
        at_hand: the devices of what must be met beside the target, by its place in
            `Inputs.beside`, as far as they can be reached.
        table: None where it has yet to be measured (or completed) into `table_file`.
        constraint: the target on the table, where there is one.
        targets: of runs that will reuse this one.
        plan: what was planned from `minutes`, once it is; `planning_s` is what that took.
    """

    inputs: Inputs
    folder: RunFolder
    who: Mapping[str, Any]
    saved: State | None
    profiler: Profiler | None
    at_hand: Mapping[int, Profiler]
    table: LatencyTable | None
    table_file: Path
    constraint: Constraint | None
    targets: tuple[float, ...]
    plan: Plan | None
    planning_s: float = 0.0


def load_inputs(cfg: SearchConfig, ranks: Ranks = ALONE) -> Inputs:
    """Check what doesn't depend on the folder, the table and the device to be measured."""
    check_values(cfg)
    budget = cfg.budget
    check_batch("budget.batch_size", budget.batch_size, ranks)
    accelerator = pick_accelerator(cfg.accelerator, ranks)
    check_amp(cfg.amp, accelerator)
    strategy = make_strategy(cfg.strategy, cfg.derive.method)
    dataset = load_data(cfg.data, budget.max_train).fed_as(cfg.space.in_channels)
    if cfg.reuse is not None:
        strategy = reusing(Path(cfg.reuse), strategy, dataset)
    spec = with_classes(cfg.space, dataset)
    size = scaled(spec.size, budget.resolution)
    train, held_out = split(dataset, budget, size, cfg.seed, cfg.data.workers, ranks)
    others = beside(cfg, spec)
    mine = Inputs(cfg, spec, others, dataset, train, held_out, strategy, accelerator, ranks)
    return mine if cfg.teacher is None else taught(mine, cfg.teacher)


def taught(mine: Inputs, teacher: str) -> Inputs:
    """With a teacher. Raises ValueError or OSError if it can't be used, or has nothing to teach."""
    cfg = mine.cfg
    if cfg.reuse is not None or not isinstance(mine.strategy, WeightKnobs):
        other = (
            f"reuse={cfg.reuse}" if cfg.reuse is not None else f"strategy={cfg.strategy['name']}"
        )
        raise ValueError(f"teacher={teacher}: {other} trains no supernet; give one of the two up")
    asked = load_teacher(teacher, mine.accelerator)
    learned = lesson(
        asked, mine.dataset, mine.spec.size, mine.accelerator,
        temperature=cfg.teacher_temperature, weight=cfg.teacher_weight,
    )  # fmt: skip
    return replace(mine, lesson=learned, teacher=asked.identity)


def agreed_inputs(cfg: SearchConfig, ranks: Ranks) -> Inputs:
    """The inputs of another rank than 0, once every rank has its own.

    Raises:
        ValueError: on all ranks, if one can't use what it is given, or has other data.
        LostError: see `tfnas.process.ranks`.
    """
    try:
        mine = load_inputs(cfg, ranks)
    except (ValueError, LookupError, OSError) as error:  # data or a GPU that aren't here
        ranks.agree(error)
        raise
    ranks.agree(None)
    check_start(mine)
    return mine


def prepared(
    cfg: SearchConfig,
    out: RunFolder,
    ranks: Ranks = ALONE,
    plan: Plan | None = None,
    targets: Sequence[float] = (),
) -> Prepared:
    """Check all that can be checked before work starts.

    Args:
        plan: what the options were planned to be, where the search goes on.
        targets: of runs that will reuse this one, to be reached as its own.
    """
    folder.check_unused(out, cfg.resume, ranks)
    if cfg.minutes is not None and ranks.size > 1:
        raise ValueError(
            f"minutes={cfg.minutes:g}: steps of {ranks.size} processes aren't planned; give "
            "budget=NAME and its values instead"
        )
    check_finals(cfg)
    mine = load_inputs(cfg, ranks)
    check_reused(mine)
    who = folder.identity(cfg, mine.dataset, mine.accelerator, ranks, mine.teacher)
    saved = folder.saved(out, cfg, who)
    ranks.agree(None)  # before anything is measured, while the others still load
    check_start(mine)
    profiler, table, file = find_device(cfg, mine.spec, resumes=saved is not None)
    if saved is not None:
        check_device(saved, profiler, table, file)
    constraint = None
    if table is not None:
        constraint = all_reachable(mine, table, targets)
    elif profiler is not None:
        check_writable(file, ELSEWHERE)
        space = mine.spec.build(profiler.device.quantum)
        check_extremes(profiler, space, (*targets, cfg.target_ms), cfg.derive.at_most)
    others = {i: reach(c.table, cfg.device) for i, c in enumerate(mine.beside) if c.is_latency}
    at_hand = {i: other for i, other in others.items() if other is not None}
    return Prepared(
        mine, out, who, saved, profiler, at_hand, table, file, constraint, tuple(targets), plan
    )


def all_reachable(mine: Inputs, table: LatencyTable, targets: Sequence[float]) -> Constraint:
    """The target as a constraint on the table; ValueError if it or another target can't be met."""
    cfg, space = mine.cfg, mine.spec.build(table.device.quantum)

    def met(target_ms: float, told: bool) -> Constraint:
        return reachable(
            space, table, target_ms, derive=cfg.derive, tolerance=cfg.tolerance,
            beside=mine.beside, told=told,
        )  # fmt: skip

    for target_ms in targets:
        if target_ms != cfg.target_ms:
            met(target_ms, told=False)
    return met(cfg.target_ms, told=True)


def check_start(mine: Inputs) -> None:
    """Make sure that the ranks begin the same search.

    Raises:
        ValueError: if they don't.
    """
    try:
        mine.ranks.check_same(
            {
                "options": folder.options_of(mine.cfg),
                "data": mine.dataset.identity,
                "labels": torch.from_numpy(mine.dataset.train.labels),
                "accelerator": mine.accelerator.type,
                "teacher": mine.teacher,
            }
        )
    except DisagreementError as error:
        raise ValueError(str(error)) from None


def check_values(cfg: SearchConfig) -> None:
    """Check what the bounds of single options don't say."""
    cores = usable_cores()
    if cfg.cores is not None and cfg.cores > cores.count:
        why = f" ({cores.limit})" if cores.limit else ""
        raise ValueError(f"cores={cfg.cores}: this process may use {cores.count}{why}")
    check_trackers(cfg.tensorboard, cfg.trackers)
    if cfg.budget.warmup_epochs > cfg.budget.epochs:
        raise ValueError(
            f"budget.warmup_epochs={cfg.budget.warmup_epochs}: expected 0 to "
            f"budget.epochs={cfg.budget.epochs}"
        )


def check_finals(cfg: SearchConfig) -> None:
    """Raises ValueError for finals that can't be held."""
    finals = cfg.finals
    if finals.name == "none":
        return
    check_recipe(finals.recipe)
    check_backend(finals.jobs, finals.backend)
    if cfg.derive.method == "greedy":
        raise ValueError(
            "derive=greedy may miss the target, and in finals all nets meet it: give "
            "derive=constrained, or finals=none"
        )
    if finals.from_supernet and cfg.reuse is not None:
        kept = RunFolder.reused(cfg.reuse).supernet
        if not kept.is_file():
            raise ValueError(
                f"finals.from_supernet=true: there is no {kept}, since the supernet was a proxy "
                "with fewer channels or the run is of before; give one of the two up"
            )
    if finals.from_supernet and cfg.budget.channel_factor != 1:
        raise ValueError(
            f"finals.from_supernet=true: a supernet with budget.channel_factor="
            f"{cfg.budget.channel_factor} has no weights for its nets; give one of the two up"
        )
    if finals.searched + finals.random + finals.handmade < 2:
        raise ValueError(
            f"finals.searched={finals.searched} finals.random={finals.random} "
            f"finals.handmade={finals.handmade}: expected two nets or more to compare"
        )


def make_strategy(values: Mapping[str, Any], derive: str) -> Strategy:
    """The strategy of conf/strategy/ with its knobs checked."""
    knobs = {key: value for key, value in values.items() if key != "name"}
    cls = strategy_class(str(values["name"]))
    typed = OmegaConf.merge(OmegaConf.structured(cls), knobs)  # checks names and types
    strategy = cls(**{str(k): v for k, v in typed.items()})
    strategy.check(derive)
    return strategy


def reusing(run: Path, strategy: Strategy, dataset: Dataset) -> Reused:
    """What takes the net by the scores of another run.

    Raises:
        ValueError: if it has none, they are of other images, or another strategy is asked for.
    """
    if not isinstance(strategy, Surrogate):
        raise ValueError("reuse= goes with strategy=surrogate, whose scores serve any target")
    file = run if run.is_file() else RunFolder(run).scores
    if not file.is_file():
        raise ValueError(
            f"reuse={run}: holds no {file.name}; expected the folder of a search with "
            "strategy=surrogate that has come to its net"
        )
    known = ScoreFile.load(file)
    if known.images not in (dataset.test_identity, dataset.identity):  # the latter of before
        raise ValueError(f"reuse={run}: its nets were scored on other images than {dataset.origin}")
    supernet = RunFolder.reused(str(run)).supernet
    weights = read_supernet(supernet) if supernet.exists() else None
    fixed = known.nets[0].subnet.fixed if known.nets else None
    return Reused(known.space, known.evaluations, strategy.optima, weights, known.key, fixed)


def check_reused(mine: Inputs) -> None:
    """Raise ValueError for scores of another space, or of nets that there can't be."""
    if isinstance(mine.strategy, Reused):
        try:
            mine.strategy.check_nets(mine.spec.build(1))
        except ValueError as error:
            raise ValueError(f"reuse={mine.cfg.reuse}: {error}") from None


def with_classes(space: SpaceSpec, dataset: Dataset) -> SpaceSpec:
    """The space with as many classes as the data has. Raises ValueError if it says another one."""
    classes = len(dataset.classes)
    if space.classes not in (None, classes):
        raise ValueError(
            f"the space has classes={space.classes}, the data {dataset.name} has {classes}; "
            "leave out space.classes and data.classes to take those of the data"
        )
    return replace(space, classes=classes)


def split(
    dataset: Dataset,
    budget: Budget,
    size: Size,
    seed: int,
    workers: int = 0,
    ranks: Ranks = ALONE,
) -> tuple[Batches, Batches]:
    """Batches of that size for weights (augmented) and for the architecture, stratified.

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

    dataset.check_by_class()
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
