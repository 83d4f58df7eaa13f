"""The scores of one search give the net of another target, without any training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.support.browser import check_self_contained
from tests.support.entry import run_entry
from tests.support.nets import few_root
from tests.support.spaces import load_space, macs_table
from tfnas.app.command_line import override
from tfnas.derive.menu import feasible
from tfnas.nets.blocks import Network
from tfnas.nets.weights import load_weights
from tfnas.pipeline.run import known_off
from tfnas.process.exits import DONE, UNUSABLE_INPUT
from tfnas.runs.folder import RunFolder
from tfnas.runs.scores import ScoreFile
from tfnas.space.subnet import Subnet

pytestmark = pytest.mark.slow

EVALUATIONS, OPTIMA = 40, 6


class Case(NamedTuple):
    """A finished search."""

    folder: RunFolder
    command: list[str]
    low_ms: float
    high_ms: float


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Case:
    folder = tmp_path_factory.mktemp("reuse")
    space = load_space("tiny")
    for quantum in (8, 4):
        macs_table(load_space("tiny", quantum=quantum), quantum=quantum).save(
            folder / f"table{quantum}.json"
        )
    low_ms, high_ms = feasible(space, macs_table(space))
    command = ["space=tiny", f"data.root={few_root()}", "cores=1"]
    out = RunFolder(folder / "first")
    done = run_entry(
        "tfnas.search", *command, "budget=test", f"strategy.evaluations={EVALUATIONS}",
        f"strategy.optima={OPTIMA}", "strategy.score_images=64",
        override("table", folder / "table8.json"), override("hydra.run.dir", out.path),
        f"target_ms={(low_ms + high_ms) / 2}", cwd=folder,
    )  # fmt: skip
    assert done.returncode == DONE, done.stdout + done.stderr
    return Case(out, command, low_ms, high_ms)


def again(first: Case, out: Path, *options: str, quantum: int = 8) -> tuple[str, int]:
    done = run_entry(
        "tfnas.search", *first.command, override("reuse", first.folder.path),
        override("table", first.folder.path.parent / f"table{quantum}.json"),
        override("hydra.run.dir", out), *options, cwd=out.parent,
    )  # fmt: skip
    return done.stdout + done.stderr, done.returncode


def test_at_the_same_target_it_is_the_same_net(first: Case, tmp_path: Path) -> None:
    scored = ScoreFile.load(first.folder.scores).evaluations
    assert EVALUATIONS / 2 < len(scored) <= EVALUATIONS - OPTIMA  # the distinct ones
    target_ms = (first.low_ms + first.high_ms) / 2
    out = RunFolder(tmp_path / "same")
    text, status = again(first, out.path, f"target_ms={target_ms}", f"strategy.optima={OPTIMA}")
    assert status == DONE, text
    assert Subnet.load(out.subnet) == Subnet.load(first.folder.subnet)
    assert out.history.read_text() == ""
    assert ScoreFile.load(out.scores).evaluations == scored
    assert out.supernet_weights.read_bytes() == first.folder.supernet_weights.read_bytes()
    assert out.supernet.read_bytes() == first.folder.supernet.read_bytes()
    assert out.model.exists()


@pytest.mark.parametrize("quantum", [8, 4])
def test_another_target_or_table_is_met_without_training(
    first: Case, tmp_path: Path, quantum: int
) -> None:
    target_ms = 0.3 * first.low_ms + 0.7 * first.high_ms
    out = RunFolder(tmp_path / "other")
    text, status = again(first, out.path, f"target_ms={target_ms}", quantum=quantum)
    assert status == DONE, text
    assert "by the scores in" in text
    assert "epoch 1" not in text
    assert "search   0 %" not in text
    result = json.loads(out.result.read_text())
    assert result["table_ms"] == pytest.approx(target_ms, rel=0.01)
    scored = ScoreFile.load(first.folder.scores).evaluations
    assert result["scores"]["reused_scores"] == len(scored)
    assert result["options"]["reuse"] == str(first.folder.path)
    network = Network(Subnet.load(out.subnet))  # it inherits what the supernet learned
    load_weights(network, out.supernet_weights, complete=False)
    assert str(first.folder.path) in check_self_contained(out.report.read_text()).text
    third = RunFolder(tmp_path / "third")  # what was reused can be reused
    text, status = again(
        first, third.path, f"target_ms={first.low_ms * 1.5}", override("reuse", out.path)
    )
    assert status == DONE, text


def test_the_loop_begins_with_what_was_measured_of_the_same_table(
    first: Case, tmp_path: Path
) -> None:
    table = first.folder.path.parent / "table8.json"
    assert known_off(None, table) == known_off(str(first.folder.path), table) == 1  # not measured
    loop = [{"table_ms": 2.0, "measured_ms": ms} for ms in (2.0, 2.2)]
    result = {**json.loads(first.folder.result.read_text()), "loop": loop}
    (tmp_path / "result.json").write_text(json.dumps(result))
    assert known_off(str(tmp_path), table) == pytest.approx(1.1)
    assert known_off(str(tmp_path / "result.json"), table) == pytest.approx(1.1)  # a file in it
    assert known_off(str(tmp_path), tmp_path / "other.json") == 1
    assert known_off(str(tmp_path / "none"), table) == 1


def test_what_is_left_of_a_supernet_is_told(first: Case, tmp_path: Path) -> None:
    target, kept = f"target_ms={first.low_ms * 1.5}", first.folder.supernet.read_bytes()
    try:
        first.folder.supernet.write_bytes(kept[:20_000])
        text, status = again(first, tmp_path / "damaged", target)
        assert status == UNUSABLE_INPUT, text
        assert "without the file the net inherits no weights" in text
        assert not (tmp_path / "damaged").exists()
        foreign = first.folder.supernet_weights.read_bytes()
        first.folder.supernet.write_bytes(foreign)
        text, status = again(first, tmp_path / "foreign", target)
        assert status == DONE, text
        assert "warning: the net inherits no weights" in text
    finally:
        first.folder.supernet.write_bytes(kept)


def test_part_of_the_images_may_have_been_searched_with(first: Case, tmp_path: Path) -> None:
    out = RunFolder(tmp_path / "part")
    done = run_entry(
        "tfnas.search", *first.command, "budget=test", "budget.max_train=80",
        "budget.batch_size=8", f"strategy.evaluations={EVALUATIONS}", f"strategy.optima={OPTIMA}",
        "strategy.score_images=16", override("table", first.folder.path.parent / "table8.json"),
        override("hydra.run.dir", out.path), f"target_ms={first.low_ms * 1.5}", cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == DONE, done.stdout + done.stderr
    target = f"target_ms={first.low_ms * 1.6}"
    text, status = again(first, tmp_path / "other", target, override("reuse", out.path))
    assert status == DONE, text


def test_finals_start_from_the_supernet(first: Case, tmp_path: Path) -> None:
    options = ["finals=test", "finals.from_supernet=true", f"target_ms={first.low_ms * 1.5}"]
    text, status = again(first, tmp_path / "out", *options)
    assert status == DONE, text
    kept = first.folder.supernet.rename(first.folder.path / "kept")
    text, status = again(first, tmp_path / "none", *options)
    kept.rename(first.folder.supernet)
    assert status == UNUSABLE_INPUT, text
    assert "there is no" in text
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    "wrong",
    [
        {"picks": [99, 0, 0, 0]},
        {"picks": [0]},
        {"depths": [9, 2]},
        {"depths": [2, 2, 2]},
        {"depths": [0, 2]},
        {"widths": [9999, 52, 64, 72]},
        {"widths": [0, 52, 64, 72]},
    ],
)
def test_nets_that_there_cannot_be_are_refused(
    first: Case, tmp_path: Path, wrong: dict[str, list[int]]
) -> None:
    content = json.loads(first.folder.scores.read_text())
    content["evaluations"][1] |= wrong
    damaged = tmp_path / "scores.json"
    damaged.write_text(json.dumps(content))
    text, status = again(
        first, tmp_path / "out", f"target_ms={first.low_ms * 1.5}", override("reuse", damaged)
    )
    assert status == UNUSABLE_INPUT, text
    assert "evaluation 1 is no net of tiny@32" in text
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["strategy=tfnas"], "reuse= goes with strategy=surrogate"),
        (["minutes=5"], "reuse= trains nothing"),
        (["budget=quick"], "reuse= trains nothing"),
        (["teacher=tests.runs.test_teachers:seeded"], "trains no supernet; give one of the two up"),
        (["reuse=."], "holds no scores.json"),
        (["data.root=shipped"], "scored on other images"),
        (["space.kernels=[3]"], "give the options of space"),
        (["space.in_channels=1"], "space.in_channels is 1 now"),
    ],
)
def test_what_does_not_fit_is_refused(
    first: Case, tmp_path: Path, options: list[str], message: str
) -> None:
    text, status = again(first, tmp_path / "out", f"target_ms={first.low_ms * 1.5}", *options)
    assert status == UNUSABLE_INPUT, text
    assert message in text
    assert not (tmp_path / "out").exists()
