"""The page of several runs."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from tests.support.browser import Elements, check_self_contained
from tests.support.run_folders import RESULT, saved_run, trained_run, unfinished_run
from tfnas.app.gathering import gather
from tfnas.nets.weights import fingerprint
from tfnas.pages.run import write_report
from tfnas.pages.runs import differing, gather_runs, runs_page

pytestmark = pytest.mark.slow

UNMEASURED = {"measured_ms": None, "measured_ci_ms": None, "measured_raw_ms": None}


def page_of(base: Path) -> Elements:
    return check_self_contained(runs_page(gather(base)[0], base))


def test_runs_are_compared(tmp_path: Path) -> None:
    for name, changes in (
        ("a", {"options": {"seed": 0, "space.kernels": [3]}}),
        ("b", {"options": {"seed": 1, "space.kernels": [5]}, "noisy": "busy"}),
        ("c", {**UNMEASURED, "verified": False, "options": {"seed": 2, "strategy.knob": 1}}),
    ):
        saved_run(tmp_path / name, **changes)
    unfinished_run(tmp_path / "d")
    write_report(tmp_path / "a")
    trained = {"format": "tfnas.train/1", "top1": 0.5, "resolution": 32}
    (tmp_path / "b" / "train.json").write_text(json.dumps(trained))
    found = page_of(tmp_path)
    assert found.values("href") == ["./a/report.html"] + [
        href for href in found.values("href") if href.startswith("#")
    ]
    for told in ("4 runs, 3 finished, 3 within their tolerance", "doubtful", "unverified",
                 "interrupted", "50.0 % at 32 px", "seed", "Accuracy of the trained"):  # fmt: skip
        assert told in found.text
    for left_out in ("space.kernels", "strategy.knob"):
        assert left_out not in found.text


def test_no_float_accuracy_is_drawn_against_an_int8_latency(tmp_path: Path) -> None:
    trained_run(tmp_path / "known", precision="int8", in_int8=0.845)
    trained_run(tmp_path / "unknown", precision="int8")
    trained_run(tmp_path / "floats")
    runs = gather(tmp_path)[0]
    lines = {line.name: line for line in gather_runs(runs, tmp_path).lines}
    top1 = {name: line.top1 and line.top1.mean for name, line in lines.items()}
    assert top1 == {"known": 0.845, "unknown": None, "floats": 0.85}
    text = page_of(tmp_path).text
    for told in ("float 86.0 %, int8 84.5 % at 32 px", "float 85.0 %, int8 – at 32 px",
                 "85.0 % at 32 px", "tfnas, int8", "Of 1 net the top-1 isn't known"):  # fmt: skip
        assert told in text


def test_a_comparison_beside_the_runs_gives_intervals(tmp_path: Path) -> None:
    _, subnet = saved_run(tmp_path / "a")
    saved_run(tmp_path / "b", strategy="random")
    for name, seeds in (("compare_1", 2), ("compare_2", 3)):
        trials = [
            {"subnet": fingerprint(subnet), "seed": s, "top1": 0.5 + s / 100} for s in range(seeds)
        ]
        record = {
            "format": "tfnas.compare/1", "recipe": {"name": "quick"}, "resolution": 32,
            "trials": trials,
        }  # fmt: skip
        (tmp_path / name).mkdir()
        (tmp_path / name / "compare.json").write_text(json.dumps(record))
        os.utime(tmp_path / name / "compare.json", (seeds, seeds))
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "compare.json").write_text("{}")
    text = page_of(tmp_path).text
    assert "means of 3 trainings by the recipe quick at 32 px, from compare_2" in text
    assert "None is trained yet" not in text
    trained = {"format": "tfnas.train/1", "top1": 0.5, "resolution": 32}
    (tmp_path / "a" / "train.json").write_text(json.dumps(trained))
    assert "Each accuracy is of one training" not in page_of(tmp_path).text


def test_accuracies_at_several_resolutions_are_told_apart(tmp_path: Path) -> None:
    for name, resolutions in (("same", (32, 32)), ("other", (32, 64))):
        for index, resolution in enumerate(resolutions):
            folder, _ = saved_run(tmp_path / name / str(index))
            trained = {"format": "tfnas.train/1", "top1": 0.5, "resolution": resolution}
            (folder / "train.json").write_text(json.dumps(trained))
        assert ("several resolutions" in page_of(tmp_path / name).text) is (name == "other")


def test_nothing_is_said_of_accuracy_where_nothing_is_trained(tmp_path: Path) -> None:
    saved_run(tmp_path / "a")
    text = page_of(tmp_path).text
    assert "None is trained yet" in text
    assert "Options that differ" not in text


def test_unfinished_runs_alone(tmp_path: Path) -> None:
    unfinished_run(tmp_path / "a")
    found = page_of(tmp_path)
    assert "1 run, 0 finished" in found.text
    assert found.values("aria-label") == []


@pytest.mark.parametrize(
    ("options", "keys"),
    [
        ([{"a": 1}, {"a": 1}], []),
        ([{"a": 1, "b": 2}, {"a": 2, "b": 2}], ["a"]),
        ([{"a": 1}, {"b": 1, "a": 1}], []),
        ([{"a": 1, "b": 0, "c": [1], "d": "x"}, {"b": 1, "c": [2], "d": "y"}], ["b", "d"]),
        ([{"seed": 0, "b": 1, "resume": "x"}, {"seed": 1, "b": 2, "resume": "y"}], ["seed", "b"]),
        ([], []),
    ],
)
def test_options_that_differ(options: list[dict[str, Any]], keys: list[str]) -> None:
    assert differing(options) == keys


def test_a_strategy_has_one_colour_in_all_figures(tmp_path: Path) -> None:
    """Where only the second one's nets are trained, too."""
    for name in ("tfnas", "random"):
        folder, _ = saved_run(tmp_path / f"by_{name}", strategy=name)
        if name == "random":
            trained = {"format": "tfnas.train/1", "top1": 0.5, "resolution": 32}
            (folder / "train.json").write_text(json.dumps(trained))
    runs = sorted(gather(tmp_path)[0], key=lambda run: run.strategy or "")
    accuracy, gap = (
        part.split("</svg>")[0] for part in runs_page(runs, tmp_path).split("<svg")[1:3]
    )
    assert "var(--s1)" in accuracy
    assert "var(--s2)" not in accuracy
    assert {"var(--s1)", "var(--s2)"} <= set(re.findall(r"var\(--s\d\)", gap))
    assert "random" in accuracy


def test_hostile_names_stay_text(tmp_path: Path) -> None:
    hostile = "<b>hostile</b>"
    saved_run(tmp_path / "a", strategy=hostile, options={**RESULT.options, hostile: hostile})
    saved_run(tmp_path / "<img src=x>")
    text = page_of(tmp_path).text
    assert hostile in text
    assert "<img src=x>" in text
