"""A search with finals ends with a trained net, whatever kills it on the way."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import tfnas
from tests.support.browser import check_self_contained
from tests.support.entry import Entry, run_entry
from tests.support.nets import few_root
from tests.support.spaces import load_space, macs_table
from tfnas.app.command_line import override
from tfnas.derive.menu import feasible
from tfnas.files import checkpoint
from tfnas.nets.weights import fingerprint
from tfnas.process.exits import DONE, UNUSABLE_INPUT
from tfnas.runs.folder import RunFolder
from tfnas.runs.result import Result
from tfnas.space.subnet import Subnet

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Case:
    """A run that was not interrupted, and the command that began it."""

    out: Path
    command: list[str]
    text: str


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Case:
    folder = tmp_path_factory.mktemp("finals")
    space = load_space("tiny")
    table = macs_table(space)
    table.save(folder / "table.json")
    low, high = feasible(space, table)
    command = [
        "space=tiny", "budget=test", "strategy=tfnas",
        "budget.epochs=1", f"data.root={few_root()}", "finals=test",
        "finals.recipe.max_train=200", f"target_ms={(low + high) / 2:.4f}", "cores=1",
        override("table", folder / "table.json"),
    ]  # fmt: skip
    out = folder / "whole"
    done = run_entry("tfnas.search", *command, override("hydra.run.dir", out), cwd=folder)
    text = done.stdout + done.stderr
    assert done.returncode == DONE, text
    return Case(out, command, text)


def result_of(out: Path) -> dict[str, Any]:
    result: dict[str, Any] = json.loads((out / "result.json").read_text())
    del result["seconds"]
    return result


def trained_as(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "train.json").read_text())
    del found["seconds"]
    return {**found, "epochs": [{**epoch, "seconds": 0} for epoch in found["epochs"]]}


def check_same(out: Path, whole: Case) -> None:
    assert result_of(out) == result_of(whole.out)
    assert trained_as(out) == trained_as(whole.out)
    for name in ("subnet.json", "weights.safetensors"):
        assert (out / name).read_bytes() == (whole.out / name).read_bytes(), name


def test_a_run_ends_with_a_trained_net(whole: Case, tmp_path: Path) -> None:
    out = RunFolder(whole.out)
    finals = Result.load(out.result).finals
    assert finals is not None
    assert finals.rows[0].name == finals.winner
    assert {row.source for row in finals.rows} >= {"search", "draw", "random", "hand-made"}
    assert {row.epochs for row in finals.rows} == {1, 2}
    assert {row.epochs for row in finals.rows[:2]} == {2}
    assert finals.judged_images == 80
    assert all("supernet top-1" in row.scores for row in finals.rows)
    assert finals.evidence[0].score == "supernet top-1"
    assert finals.margins
    assert abs(Result.load(out.result).table_ms / Result.load(out.result).target_ms - 1) < 1e-3

    subnet = Subnet.load(out.subnet)
    net = tfnas.load(whole.out)
    record = json.loads(out.trained.read_text())
    assert record["subnet"] == fingerprint(subnet) == fingerprint(net.subnet)
    assert net.trained.top1 == record["top1"]
    assert [epoch["top1"] for epoch in record["epochs"]] == list(finals.rows[0].curve)
    assert "judged on 80 others" in record["data"]["origin"]
    assert not any(checkpoint.exists(path) for path in out.finals.glob("*/train.ckpt"))

    for told in ("finals: 1 search, 1 draw, 2 random", "wins, trained in"):
        assert told in whole.text
    assert "python -m tfnas.train" not in whole.text  # it is trained
    page = check_self_contained(out.report.read_text()).text
    assert f"{finals.winner} won" in page
    exported = run_entry(
        "tfnas.export", override("subnet", out.subnet), override("out", tmp_path / "model.onnx"),
        cwd=tmp_path,
    )  # fmt: skip
    assert exported.returncode == DONE, exported.stdout + exported.stderr


@pytest.mark.parametrize("line", ["epoch 1/2", "held-out top-1 after", "wins, trained in"])
def test_killed_and_gone_on_with(line: str, whole: Case, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = [*whole.command, override("hydra.run.dir", out), "checkpoint_minutes=1e-4"]
    with Entry("tfnas.search", *command, cwd=tmp_path) as search:
        search.until(lambda text: text.startswith(line) or line in text.partition(" ")[2])
    before = {path: path.read_bytes() for path in (out / "finals").glob("*/curve.json")}
    plan = (out / "finals" / "plan.json").read_bytes()
    done = run_entry("tfnas.search", override("resume", out), cwd=tmp_path)
    assert done.returncode == DONE, done.stdout + done.stderr
    assert (out / "finals" / "plan.json").read_bytes() == plan
    kept = [path for path, text in before.items() if path.read_bytes() == text]
    assert len(before) - len(kept) <= 2  # the two that went on; the others weren't trained again
    check_same(out, whole)


def test_side_by_side_it_ends_alike(whole: Case, tmp_path: Path) -> None:
    pytest.importorskip("joblib")
    out = tmp_path / "out"
    command = [*whole.command, "finals.jobs=2", override("hydra.run.dir", out)]
    done = run_entry("tfnas.search", *command, cwd=tmp_path)
    assert done.returncode == DONE, done.stdout + done.stderr
    assert "tried once more" not in done.stdout
    check_same(out, whole)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["derive=greedy"], "derive=greedy may miss the target"),
        (["finals.recipe.lr=0"], "recipe.lr=0"),
        (["finals.jobs=2", "finals.backend=threading"], "need a process each"),
        (["finals.keep=1"], "finals.keep=1"),
        (["finals.random=0", "finals.handmade=false", "finals.searched=1"], "two nets or more"),
        (["finals.from_supernet=true", "budget.channel_factor=0.5"], "has no weights"),
    ],
)
def test_finals_that_can_not_be_held_are_refused(
    options: list[str], told: str, whole: Case, tmp_path: Path
) -> None:
    done = run_entry(
        "tfnas.search", *whole.command, *options, override("hydra.run.dir", tmp_path / "out"),
        cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == UNUSABLE_INPUT, done.stdout + done.stderr
    assert told in done.stdout + done.stderr
    assert not (tmp_path / "out").exists()
