"""`target_ms=[6,8,10]`: one search, and a net for each target."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from tests.support.browser import check_self_contained
from tests.support.entry import run_entry
from tests.support.nets import few_root
from tests.support.spaces import load_space, macs_table
from tfnas.app.command_line import override
from tfnas.app.several import as_sweep
from tfnas.derive.menu import feasible
from tfnas.process.exits import DONE, UNUSABLE_INPUT
from tfnas.runs.folder import RunFolder
from tfnas.runs.scores import ScoreFile
from tfnas.space.subnet import Subnet

SOURCES = ("found", "search", "random", "hand-made")


def test_a_list_is_a_sweep_from_the_middle() -> None:
    given = ["space=tiny", "target_ms=[6, 8,12, 10]", "hydra.run.dir=out"]
    assert as_sweep(given) == [
        "--multirun", "space=tiny", "hydra.sweep.dir=out", "target_ms=8,6,12,10", "reuse=first",
    ]  # fmt: skip
    for plain in (["target_ms=8"], ["-m", "target_ms=6,8"], ["target_ms=8", "reuse=run"]):
        assert as_sweep(plain) == plain


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["target_ms=[6]"], "two or more"),
        (["target_ms=[]"], "two or more"),
        (["target_ms=[6,6]"], "different numbers"),
        (["target_ms=[6,-8]"], "above 0"),
        (["target_ms=[6,fast]"], "expected numbers"),
        (["target_ms=[6"], "expected numbers"),
        (["target_ms=[6,8]", "reuse=run"], "-m target_ms=6.0,8.0"),
    ],
)
def test_lists_that_make_no_sense(given: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message.replace("[", r"\[")):
        as_sweep(given)
    with pytest.raises(ValueError, match="under torchrun"):
        as_sweep(["target_ms=[6,8]"], processes=2)


@pytest.mark.slow
def test_one_search_gives_a_net_for_each_target(tmp_path: Path) -> None:
    space = load_space("tiny")
    macs_table(space).save(tmp_path / "table.json")
    low, high = feasible(space, macs_table(space))
    targets = [round(low + share * (high - low), 4) for share in (0.3, 0.5, 0.8)]
    out = tmp_path / "out"
    command = [
        "space=tiny", f"data.root={few_root()}", "cores=1", "budget=test",
        "strategy.evaluations=30", "strategy.optima=6", "strategy.score_images=64",
        override("table", tmp_path / "table.json"),
    ]  # fmt: skip
    done = run_entry(
        "tfnas.search", *command, f"target_ms={targets}".replace(" ", ""),
        override("hydra.run.dir", out), cwd=tmp_path,
    )  # fmt: skip
    text = done.stdout + done.stderr
    assert done.returncode == DONE, text
    assert text.count("searching with surrogate") == 1
    assert text.count("by the scores in") == 2
    assert "sweep of 3: 3 done" in text
    scores = [ScoreFile.load(RunFolder(out / str(number)).scores) for number in range(3)]
    assert scores[0].evaluations == scores[1].evaluations == scores[2].evaluations
    found = {}
    for number in range(3):
        files = RunFolder(out / str(number))
        result = json.loads(files.result.read_text())
        assert result["table_ms"] == pytest.approx(result["target_ms"], rel=0.01)
        found[result["target_ms"]] = Subnet.load(files.subnet)
    assert sorted(found) == targets
    assert found[targets[0]].macs < found[targets[1]].macs < found[targets[2]].macs
    moved = tmp_path / "moved"
    out.rename(moved)
    again = run_entry("tfnas.search", override("resume", moved), cwd=tmp_path)
    moved.rename(out)
    assert again.returncode == DONE, again.stdout + again.stderr
    assert (again.stdout + again.stderr).count("is finished") == 3
    page = run_entry("tfnas.report", str(out), cwd=tmp_path)
    assert page.returncode == DONE, page.stdout + page.stderr
    rows = list(csv.DictReader((out / "runs.csv").read_text().splitlines()))
    assert sorted(float(row["target_ms"]) for row in rows) == targets
    nets = list(csv.DictReader((out / "nets.csv").read_text().splitlines()))
    by_source = {source: [n for n in nets if n["source"] == source] for source in SOURCES}
    assert sum(map(len, by_source.values())) == len(nets)
    assert sorted(float(n["target_ms"]) for n in by_source["found"]) == targets
    scored = len(scores[0].evaluations)  # some of them may be a run's best, too
    assert 0.5 * scored < len(by_source["random"]) <= scored + 60
    assert len({n["scores"] for n in nets}) == 1
    table = macs_table(space)
    for net in by_source["found"]:
        subnet = found[float(net["target_ms"])]
        assert float(net["infer_step_time"]) == pytest.approx(table.total(subnet), rel=1e-4)
        assert float(net["infer_gmacs"]) == pytest.approx(subnet.macs / 1e9, abs=1e-4)
    text = (out / "report.html").read_text()
    check_self_contained(text)
    assert 'id="front-1' in text


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["target_ms=8", "reuse=first"], "goes with several runs"),
        (["target_ms=[8,9]", "reuse=first"], "beside reuse="),
        (["target_ms=[8,9]", "strategy=spos"], "several targets by one search need"),
        (["target_ms=[0.05,5]", "table=table.json"], "target_ms=5 is out of reach"),
        (["target_ms=[0.05,5,6]", "table=table.json"], "has come to no scores"),
    ],
)
def test_what_is_no_several_targets(tmp_path: Path, options: list[str], message: str) -> None:
    macs_table(load_space("tiny")).save(tmp_path / "table.json")
    done = run_entry("tfnas.search", "space=tiny", *options, cwd=tmp_path)
    assert done.returncode == UNUSABLE_INPUT
    assert "searching with" not in done.stdout + done.stderr
    assert message in done.stdout + done.stderr
