"""history.jsonl, whatever it holds."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from tests.support.run_folders import depth_history, history, save_history
from tests.support.spaces import load_space
from tfnas.runs import history as module
from tfnas.runs.history import load_history
from tfnas.strategies.parts.skips import DEPTHS

RECORDS = history(load_space("tiny"))


@pytest.mark.parametrize("learns", [True, False])
def test_what_a_search_writes_is_read(learns: bool, tmp_path: Path) -> None:
    records = history(load_space("tiny"), learns=learns)
    found = load_history(save_history(tmp_path, records))
    assert found.records == tuple(records)
    assert found.warnings == ()


WRONG: dict[str, tuple[Any, str]] = {
    "no JSON": ("{", "is not JSON"),
    "list": ([], "holds [], expected `object`"),
    "field missing": ({"epoch": 1}, "is wrong: Object missing required field"),
    "text": ({**asdict(RECORDS[1]), "train_loss": "<script>"}, "has train_loss='<script>'"),
    "infinite": ({**asdict(RECORDS[1]), "train_loss": float("inf")}, "holds inf"),
    "truth": ({**asdict(RECORDS[1]), "epoch": True}, "has epoch=True"),
    "percent": (
        {**asdict(RECORDS[1]), "train_top1": 101},
        "has train_top1=101, expected",
    ),
    "no list": ({**asdict(RECORDS[1]), "op_probs": 3}, "has op_probs=3, expected `array`"),
    "flat": ({**asdict(RECORDS[1]), "op_probs": [0.5]}, "has op_probs[0]=0.5, expected `array`"),
    "negative": ({**asdict(RECORDS[1]), "depths": [-1, 1]}, "has depths[0]=-1"),
    "uneven": ({**asdict(RECORDS[1]), "widths": [[3]]}, "has lists of 1, 4 blocks or stages"),
    "many stages": (
        {**asdict(RECORDS[1]), "depths": [1] * 1001, "depth_probs": []},
        "length <= 1000",
    ),
    "deep": ({**asdict(RECORDS[1]), "depths": [10**9, 1]}, "has depths[0]=1000000000"),
    "ops trained": ({**asdict(RECORDS[1]), "sampled": [[1, 2]] * 4}, "other numbers of ops"),
    "widths": ({**asdict(RECORDS[1]), "widths": [[3, 3]] * 4}, "other numbers of ops"),
    "unknown": ({**asdict(RECORDS[1]), "more": 1}, "has the fields"),
    "many ops": ({**asdict(RECORDS[1]), "sampled": [[1] * 101] * 4}, "has sampled[0]="),
    "no ops": ({**asdict(RECORDS[1]), "sampled": [[]] * 4}, "has sampled[0]=[]"),
    "epoch again": (asdict(RECORDS[0]), "is epoch 0 after 0"),
    "other blocks": ({**asdict(RECORDS[1]), "sampled": []}, "has other blocks"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_line_that_makes_no_sense_is_left_out_and_told(case: str, tmp_path: Path) -> None:
    values, told = WRONG[case]
    file = save_history(tmp_path, RECORDS[:1])
    line = values if isinstance(values, str) else json.dumps(values)
    with file.open("a") as lines:
        lines.write(f"{line}\n{json.dumps(asdict(RECORDS[2]))}\n")
    found = load_history(file)
    assert found.records == (RECORDS[0], RECORDS[2])
    (warning,) = found.warnings
    assert warning.startswith(f"line 2 of {file}")
    assert told in warning


def test_a_history_of_before_a_field_was_told_is_read(tmp_path: Path) -> None:
    values = asdict(RECORDS[0])
    del values["expected_depths"]
    file = tmp_path / "history.jsonl"
    file.write_text(json.dumps(values))
    assert load_history(file).records == (replace(RECORDS[0], expected_depths=()),)


@pytest.mark.parametrize("depth", DEPTHS)
def test_every_way_to_search_depth_leaves_a_history(depth: str, tmp_path: Path) -> None:
    space = load_space("tiny")
    found = load_history(save_history(tmp_path, depth_history(space, depth)))
    assert found.warnings == ()
    assert len(found.records) == 3


def test_many_such_lines_are_counted(tmp_path: Path) -> None:
    file = tmp_path / "history.jsonl"
    file.write_text("x\n" * 10)
    warnings = load_history(file).warnings
    assert len(warnings) == 4
    assert warnings[-1] == f"7 more lines of {file} are left out"


def test_it_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = save_history(tmp_path, RECORDS)
    monkeypatch.setattr(module, "MAX_EPOCHS", 2)
    found = load_history(file)
    assert found.records == tuple(RECORDS[:2])
    assert found.warnings == (f"of 3 lines of {file} the first 2 are shown",)
    monkeypatch.setattr(module, "MAX_BYTES", 100)
    assert "100 are the most" in load_history(file).warnings[0]


def test_no_file_and_no_plain_file(tmp_path: Path) -> None:
    assert "can't read" in load_history(tmp_path / "none").warnings[0]
    os.mkfifo(tmp_path / "pipe")
    assert "not a plain file" in load_history(tmp_path / "pipe").warnings[0]
    (tmp_path / "bytes").write_bytes(b"\xff\xfe")
    assert "can't read" in load_history(tmp_path / "bytes").warnings[0]


def test_epochs_may_be_missing(tmp_path: Path) -> None:
    later = replace(RECORDS[2], epoch=7)
    assert load_history(save_history(tmp_path, [RECORDS[0], later])).records[1].epoch == 7
