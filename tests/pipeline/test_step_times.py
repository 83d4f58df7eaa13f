"""Steps of every strategy, and of trainings, can be measured on the way to a plan."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from tests.support.searches import make, new_task
from tfnas.app.values import load
from tfnas.data.sets import load_images
from tfnas.pipeline.planner import Proxy
from tfnas.pipeline.step_times import search_costs, training_costs, trimmed_mean
from tfnas.strategies import STRATEGIES

pytestmark = pytest.mark.slow

SCORES = {
    "random": 5, "surrogate": 6, "spos": 12, "tfnas": 0,
    "aging": 6, "nas_rl": 5, "mnas": 6, "manas": 5, "alphax": 5, "pnas": 7,
}  # fmt: skip


@pytest.mark.parametrize("name", STRATEGIES)
def test_every_strategy_is_measured_on_a_proxy(name: str) -> None:
    task, proxy = new_task(), Proxy(8, 0.5)
    task = replace(task, train=task.train.like(8, 4))
    costs = search_costs(make(name), task, proxy, math.inf, 0.1)
    assert costs is not None
    assert min(costs.warm_step, costs.step, costs.epoch_end) > 0
    assert costs.scores == SCORES[name]
    assert (costs.score > 0) == (costs.scores > 0)
    assert search_costs(make(name), task, proxy, 1e-9, 0.1) is None  # clearly too slow


def test_knobs_that_are_planned_exist() -> None:
    for name in STRATEGIES:
        strategy = make(name)
        for knob in getattr(type(strategy), "SCORED", ()):
            assert isinstance(getattr(strategy, knob), int)


def test_trainings_are_measured() -> None:
    dataset = load_images("fashion_mnist", root="shipped", max_train=400)
    costs = training_costs(new_task(), dataset, load("recipe", "test", resolution=8), 0, 1, 0.1)
    assert costs.step > costs.test > 0


def test_a_pause_of_the_machine_is_no_step() -> None:
    assert trimmed_mean([1.0] * 9 + [100.0]) == 1
    assert trimmed_mean([2.0]) == 2
