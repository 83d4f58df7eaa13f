"""Scores of subnets are those of independent forward passes."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest
import torch

from tfnas.derive.architecture import Architecture, Derived
from tfnas.derive.methods import draw_constrained
from tfnas.files.state import restore
from tfnas.nets.blocks import Network
from tfnas.nets.supernet import Supernet
from tfnas.strategies.contract import Task
from tfnas.strategies.parts.scoring import Scores
from tfnas.strategies.parts.training import new_supernet


@pytest.fixture
def net(task: Task) -> Supernet:
    return new_supernet(task.space, 1.0, 0, task.device, alike=False)


@pytest.fixture
def subnets(task: Task) -> list[Derived]:
    rng, arch = np.random.default_rng(0), Architecture.initial(task.space)
    return [draw_constrained(task.space, arch, task.constraints, rng) for _ in range(3)]


def test_a_score_is_that_of_the_subnet_alone(
    net: Supernet,
    task: Task,
    subnets: list[Derived],
) -> None:
    scores = Scores(net, task, images=64)
    for derived in [*subnets, subnets[0]]:
        scores.add(derived)
    values = []
    for derived in subnets:
        alone = Network(derived.subnet).train()
        alone.load_state_dict(net.extract(derived.subnet, derived.picks), strict=False)
        with torch.no_grad():
            hits = [alone(x).argmax(1) == y for x, y in islice(task.held_out.epoch(0), 2)]
        values.append(100 * float(torch.cat(hits).float().mean()))
    assert scores.values() == pytest.approx(values)
    assert len(set(values)) > 1
    assert scores.best() is subnets[int(np.argmax(values))]
    figures = scores.figures()
    assert figures["subnets"] == 3
    assert figures["scored_images"] == 3 * 64
    assert figures["mean_supernet_top1"] == pytest.approx(np.mean(values))


def test_restored_scores_are_not_measured_again(
    net: Supernet, task: Task, subnets: list[Derived]
) -> None:
    first, scores = Scores(net, task, images=64), Scores(net, task, images=64)
    for derived in subnets[:2]:
        first.add(derived)
    for row, value in zip(rows := first.rows, (12.5, 99.0), strict=True):
        row["score"]["top1"] = value
    restore(scores, {"rows": rows})
    for derived in [subnets[0], subnets[0], *subnets]:
        scores.add(derived)
    assert scores.values()[:2] == [12.5, 99.0]
    assert scores.best() == subnets[1]
