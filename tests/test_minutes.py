"""Minutes are planned once, and stand for options that could have been given."""

from __future__ import annotations

import json
import shutil
from functools import partial
from pathlib import Path

import pytest

import tfnas
from tests.support.browser import check_self_contained
from tests.support.entry import run_entry
from tests.support.spaces import load_space, load_spec, macs_table
from tfnas.app import values
from tfnas.app.command_line import override
from tfnas.derive.menu import feasible
from tfnas.process.exits import DONE, UNUSABLE_INPUT
from tfnas.runs.folder import RunFolder
from tfnas.runs.plan import Plan
from tfnas.runs.result import Result

pytestmark = pytest.mark.slow

SAME = ("subnet.json", "weights.safetensors", "supernet_weights.safetensors", "history.jsonl")
# So much is given that the plan is the same on every machine.
PLANNED = {"budget.warmup_epochs": 1, "budget.channel_factor": 1.0, "budget.max_train": None}


def test_a_plan_is_made_once_and_could_be_given(tmp_path: Path) -> None:
    space = load_space("tiny")
    table = macs_table(space)
    table.save(tmp_path / "table.json")
    low, high = feasible(space, table)
    command = [
        "space=tiny", "data.root=shipped", "data.max_train=200", f"target_ms={(low + high) / 2}",
        "cores=1", override("table", tmp_path / "table.json"), "strategy=surrogate",
        "strategy.evaluations=20", "strategy.optima=5", "strategy.score_images=32",
        "budget.epochs=2", "budget.batch_size=32", "finals=test", "finals.recipe.epochs=2",
        "finals.searched=1", "finals.random=1", "finals.handmade=false",
        "finals.recipe.resolution=16", "budget.resolution=16",
    ]  # fmt: skip

    def search(out: str, *more: str) -> tuple[RunFolder, str, int]:
        folder = tmp_path / out
        options = [override("hydra.run.dir", folder), *command]
        if any(option.startswith("resume=") for option in more):
            options = []
        done = run_entry("tfnas.search", *options, *more, cwd=tmp_path)
        return RunFolder(folder), done.stdout + done.stderr, done.returncode

    first, text, status = search("first", "minutes=60")
    assert status == DONE, text
    plan = Plan.load(first.plan)
    assert plan.values == PLANNED
    assert plan.seconds.keys() >= {"plan", "search", "finals"}
    assert all(line in text for line in ("plan for 60 minutes:", *plan.lines, "planned were"))
    result = Result.load(first.result)
    assert result.plan == plan
    assert result.finals is not None
    assert result.options["minutes"] == 60
    assert "planned" in check_self_contained(first.report.read_text()).text

    by_hand = plan.lines[-1].partition("by hand: ")[2].split()
    assert by_hand == ["minutes=null", *(override(k, v) for k, v in plan.values.items())]
    second, text, status = search("second", *by_hand)
    assert status == DONE, text
    assert not second.plan.exists()
    assert "plan" not in json.loads(second.result.read_text())
    third = RunFolder(tmp_path / "third")  # stopped before the first step
    third.path.mkdir()
    shutil.copy(first.overrides, third.overrides)
    third.plan.write_text(
        first.plan.read_text().replace(
            '"budget.channel_factor": 1.0', '"budget.channel_factor": 0.5'
        )
    )
    _, text, status = search("third", override("resume", third.path), "budget.channel_factor=0.25")
    assert status == UNUSABLE_INPUT
    assert "was planned with budget.channel_factor=0.5" in text
    _, text, status = search("third", override("resume", third.path))
    assert status == DONE, text
    assert "measuring steps" not in text
    assert Result.load(third.result).options["budget.channel_factor"] == 0.5
    for name in SAME:
        assert (second.path / name).read_bytes() == (first.path / name).read_bytes(), name
    _, text, status = search("first", override("resume", first.path))
    assert status == DONE, text

    fourth, text, status = search("fourth", "minutes=1e-4")
    assert status == UNUSABLE_INPUT
    assert "error: minutes=0.0001: the smallest plan takes" in text
    assert not fourth.path.exists()


def test_find_net_in_minutes(monkeypatch: pytest.MonkeyPatch) -> None:
    space = load_space("tiny")
    table = macs_table(space)
    target_ms = sum(feasible(space, table)) / 2
    images = tfnas.load_images("fashion_mnist", root="shipped", max_train=400)
    strategy = tfnas.load_preset("strategy", "random", subnets=3, score_images=32)
    budget = tfnas.load_preset("budget", "test", epochs=1)
    find = partial(tfnas.find_net, load_spec("tiny"), images, table, target_ms, cores=1)
    kept = find(strategy=strategy, budget=budget, minutes=60)
    assert kept.subnet == find(strategy=strategy, budget=budget).subnet
    with pytest.raises(ValueError, match=r"minutes=0\.0001: the smallest plan takes"):
        find(strategy=strategy, minutes=1e-4)
    monkeypatch.setattr(values, "default", lambda *option: {("search", "minutes"): 2e-4}[option])
    with pytest.raises(ValueError, match=r"minutes=0\.0002: the smallest plan takes"):
        find(strategy=strategy)
