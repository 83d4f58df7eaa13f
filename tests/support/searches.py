"""Strategies and small tasks for tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from omegaconf import OmegaConf

from tests.support.spaces import load_space, macs_table
from tfnas.app.values import conf_path
from tfnas.data.batches import Batches
from tfnas.data.images import stratified_split
from tfnas.data.sets import load_images
from tfnas.derive.architecture import Constraint
from tfnas.derive.menu import feasible
from tfnas.process.ranks import ALONE, Ranks
from tfnas.strategies import strategy_class
from tfnas.strategies.contract import Budget, Strategy, Task
from tfnas.strategies.tfnas import TFNAS, Search

SMALL = {
    "random": {"subnets": 5, "score_images": 64},
    "surrogate": {"evaluations": 6, "optima": 3, "score_images": 64},
    **{name: {"evaluations": 5, "score_images": 64} for name in ("nas_rl", "manas", "alphax")},
    "mnas": {"evaluations": 6, "score_images": 64, "batch": 3},
    "aging": {"evaluations": 6, "score_images": 64, "population": 3},
    "pnas": {"evaluations": 7, "score_images": 64, "beam": 2, "expansions": 2},
    "spos": {"population": 4, "generations": 3, "parents": 3, "score_images": 64},
}


def values(group: str, name: str) -> dict:
    """conf/<group>/<name>.yaml."""
    loaded = OmegaConf.to_container(OmegaConf.load(Path(conf_path()) / group / f"{name}.yaml"))
    assert isinstance(loaded, dict)
    return loaded


def make(name: str, **knobs: object) -> Strategy:
    """A strategy with the values of its YAML, few subnets, and these knobs."""
    given = {k: v for k, v in values("strategy", name).items() if k != "name"}
    cls = strategy_class(name)
    typed = OmegaConf.merge(OmegaConf.structured(cls), given, SMALL.get(name, {}), knobs)
    strategy = cls(**{str(k): v for k, v in typed.items()})
    strategy.check("constrained")
    return strategy


def new_search(task: Task, **knobs: object) -> Search:
    strategy = make("tfnas", **knobs)
    assert isinstance(strategy, TFNAS)
    return Search(strategy, task)


def new_task(ranks: Ranks = ALONE, arch_fraction: float = 0.2) -> Task:
    """Two epochs on 400 real images at 16 px, for a target in the middle of the tiny space."""
    space = load_space("tiny")
    table = macs_table(space)
    low, high = feasible(space, table)
    dataset = load_images("fashion_mnist", root="shipped", max_train=400)
    train, held_out = stratified_split(dataset.train.labels, 1 - arch_fraction, 0)

    def batches(indices: np.ndarray, augment: bool) -> Batches:
        return Batches(
            dataset.train, indices, batch=32, size=16, mean=dataset.mean, std=dataset.std,
            seed=0, augment=augment, shuffle=True, drop_last=True, ranks=ranks,
        )  # fmt: skip

    return Task(
        space=space,
        constraints=(Constraint(table, (low + high) / 2),),
        train=batches(train, True),
        held_out=batches(held_out, False),
        budget=Budget("test", 2, 1, 32, 400, 16, 1.0, True, arch_fraction),
        seed=0,
        derive="constrained",
        device=torch.device("cpu"),
        ranks=ranks,
    )
