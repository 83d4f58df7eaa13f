"""Who takes part in finals: distinct nets, all at one target, the same ones for the same seed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.support.searches import new_task
from tfnas.app.schemas import FinalsConfig
from tfnas.app.values import load
from tfnas.derive.architecture import Architecture
from tfnas.derive.hand_made import hand_made
from tfnas.derive.methods import derive_constrained
from tfnas.nets.supernet import Supernet
from tfnas.pipeline.entrants import START, Entrant, Plan, choose, read_plan, supernet_scores
from tfnas.runs.folder import RunFolder
from tfnas.space.subnet import Subnet
from tfnas.strategies.contract import Candidate, Found, Task
from tfnas.strategies.parts.evaluate import Genome
from tfnas.strategies.parts.scoring import Scores

pytestmark = pytest.mark.slow

CONFIG = FinalsConfig(
    "x", searched=3, random=2, handmade=True, keep=0.5, first_cut=0.2, from_supernet=False, jobs=1,
    backend="loky", recipe=load("recipe", "test"),
)  # fmt: skip


def found_by(task: Task, candidates: int, learns: bool = False) -> Found:
    rng = np.random.default_rng(1)
    nets = [Genome.random(task, rng).meet_target(task, rng) for _ in range(max(candidates, 1))]
    arch = Architecture.initial(task.space)
    scored = tuple(Candidate(net, 9.0 - i) for i, net in enumerate(nets)) if candidates else ()
    best = nets[0] if candidates else derive_constrained(task.space, arch, task.constraints)
    return Found(best, arch if learns else None, None, candidates=scored)


def chosen(task: Task, found: Found, folder: Path, moved: bool = False) -> tuple[Entrant, ...]:
    return choose(CONFIG, task, found, found.derived.subnet, moved, folder)


def subnets(folder: Path, entrants: tuple[Entrant, ...]) -> list[Subnet]:
    return [Subnet.load(RunFolder(folder / entrant.name).subnet) for entrant in entrants]


@pytest.mark.parametrize(
    ("candidates", "learns", "sources"),
    [
        (5, False, ["search-1", "search-2", "search-3"]),
        (0, True, ["search-1", "draw-1", "draw-2"]),
        (0, False, ["search-1"]),
        (2, True, ["search-1", "search-2", "draw-1"]),
    ],
)
def test_sources(candidates: int, learns: bool, sources: list[str], tmp_path: Path) -> None:
    task = new_task()
    found = found_by(task, candidates, learns)
    entrants = chosen(task, found, tmp_path)
    names = [entrant.name for entrant in entrants]
    assert names[: len(sources)] == sources
    rest = ["random-1", "random-2", "hand-made-1"]
    made = hand_made(task.space, task.constraints[0], "mobilenetv2")
    own = subnets(tmp_path, entrants)[: len(names) - 1]
    assert names[len(sources) :] == (rest[:2] if made in own else rest)
    nets = subnets(tmp_path, entrants)
    assert len(set(nets)) == len(nets)
    assert nets[0] == found.derived.subnet
    constraint = task.constraints[0]
    for net, entrant in zip(nets, entrants, strict=True):
        assert net in task.space
        assert entrant.table_ms == constraint.table.total(net)
        assert constraint.met_by(entrant.table_ms)
    assert [e.scores for e in entrants[: min(candidates, 3)]] == [
        {"search": 9.0 - i} for i in range(min(candidates, 3))
    ]
    assert chosen(task, found, tmp_path / "again") == entrants


def test_all_but_the_own_net_move_to_what_the_device_asks_for(tmp_path: Path) -> None:
    task = new_task()
    found = found_by(task, 5)
    other = replace(task.constraints[0], target=0.9 * task.constraints[0].target, tol=0.005)
    entrants = chosen(replace(task, constraints=(other,)), found, tmp_path, moved=True)
    assert subnets(tmp_path, entrants)[0] == found.derived.subnet
    assert all(other.met_by(entrant.table_ms) for entrant in entrants[1:])
    assert [entrant.name for entrant in entrants[:3]] == ["search-1", "search-2", "search-3"]
    moved = choose(CONFIG, replace(task, constraints=(other,)), found, None, True, tmp_path / "all")
    assert other.met_by(moved[0].table_ms)


def test_the_supernets_score_is_that_of_the_search(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    task = new_task()
    net = Supernet(task.space)
    found = found_by(task, 3)
    scores = Scores(net, task, 64)
    scores.add(found.derived)
    weights = net.extract(found.derived.subnet, found.derived.picks)
    found_here = supernet_scores(found.derived.subnet, weights, task)
    ((score, _),) = scores.scored.values()
    assert found_here["supernet top-1"] == pytest.approx(score.top1)
    assert found_here["minus supernet loss"] == pytest.approx(-score.loss, rel=1e-4)
    with_weights = replace(found, weights=lambda subnet: net.extract(subnet))
    config = replace(CONFIG, from_supernet=True)
    entrants = choose(config, task, with_weights, found.derived.subnet, False, tmp_path)
    assert all("supernet top-1" in entrant.scores for entrant in entrants)
    assert all((tmp_path / entrant.name / START).is_file() for entrant in entrants)
    assert not caplog.messages
    bare = choose(config, task, found, found.derived.subnet, False, tmp_path / "bare")
    assert "the search has no weights for its nets" in caplog.messages[0]
    assert not any((tmp_path / "bare" / entrant.name / START).exists() for entrant in bare)


def test_a_plan_is_read_as_it_was_written(tmp_path: Path) -> None:
    assert read_plan(tmp_path) is None
    plan = Plan(8.0, (Entrant("search-1", "search", 8.0, {"search": 1.0}),), [{"moved": 1}])
    plan.save(tmp_path)
    assert read_plan(tmp_path) == plan
    (tmp_path / "plan.json").write_text("{}")
    with pytest.raises(ValueError, match="plan of finals"):
        read_plan(tmp_path)
