"""What the page of one run says."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.support.browser import Elements, check_self_contained
from tests.support.run_folders import RESULT, saved_run, trained_run, unfinished_run
from tfnas.pages.finals import finals_section
from tfnas.pages.run import run_page, verdict, write_report
from tfnas.runs.files import read_files
from tfnas.runs.finals import Evidence, Finals, FinalsRow, Margin
from tfnas.runs.plan import Plan
from tfnas.runs.result import Result
from tfnas.runs.status import write_status

pytestmark = pytest.mark.slow


def page_of(folder: Path, status: str | None = None) -> Elements:
    return check_self_contained(run_page(read_files(folder), status))


UNMEASURED = {"measured_ms": None, "measured_ci_ms": None, "measured_raw_ms": None}


@pytest.mark.parametrize(
    ("changes", "kind", "told"),
    [
        ({}, "good", "Met: the measured latency is −0.25 % off the target (tolerance 1 %)."),
        (
            {"within": False, "measured_ms": 9.0},
            "bad",
            "Missed: the measured latency is +12.50 % off the target (tolerance 1 %).",
        ),
        (
            {**UNMEASURED, "verified": False},
            "doubt",
            "Met on the table only, not measured: the table's latency is −1.00 % off",
        ),
        ({"at_most": True}, "good", "any lower latency is fine"),
    ],
)
def test_the_verdict(changes: dict[str, Any], kind: str, told: str) -> None:
    found, text = verdict(replace(RESULT, **changes))
    assert found == kind
    assert told in text


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"noisy": "a busy machine"}, "The measured interval is doubtful: a busy machine."),
        ({**UNMEASURED, "verified": False}, "Unverified: the device couldn't be reached"),
        ({"reached": False}, "did not meet the target on the table"),
        ({"overhead_from_table": True}, "are one figure of the table"),
    ],
)
def test_doubts_are_said(changes: dict[str, Any], told: str, tmp_path: Path) -> None:
    for name, values in (("run", changes), ("plain", {})):
        folder, _ = saved_run(tmp_path / name, loop=None, **values)
        (folder / "history.jsonl").unlink()  # without figures it takes no time
        assert (told in page_of(folder).text) is (name == "run")


def test_the_figures_are_those_of_the_result(tmp_path: Path) -> None:
    folder, subnet = saved_run(tmp_path / "run")
    (folder / "train.json").write_text(
        json.dumps({"format": "tfnas.train/1", "top1": 0.866, "resolution": 224})
    )
    found = page_of(folder)
    result = json.loads((folder / "result.json").read_text())
    low, high = result["measured_ci_ms"]
    for name, value in (
        ("target-ms", result["target_ms"]),
        ("table-ms", result["table_ms"]),
        ("measured-ms", result["measured_ms"]),
        ("low-ms", low),
        ("high-ms", high),
        ("top1", 0.866),
    ):
        assert [float(v) for v in found.values(f"data-{name}")] == [value]
    assert found.values("data-width") == [str(op.c_mid) for op in subnet.blocks]
    for told in ("python -m tfnas.search space=tiny target_ms=8", "86.6 %", "Xeon, 1 thread",
                 "python 3.11", "path passes", "space.kernels"):  # fmt: skip
        assert told in found.text


def tiles_of(folder: Path) -> str:
    """What the page says of its figures, before the first drawing."""
    (folder / "history.jsonl").unlink()  # without figures it takes no time
    return page_of(folder).text.split("Green: ")[0]


def test_float_and_int8_stand_side_by_side_and_latencies_say_what_they_are_of(
    tmp_path: Path,
) -> None:
    plain = tiles_of(trained_run(tmp_path / "plain", loop=None))
    assert "top-1, trained" in plain
    assert "int8" not in plain
    unknown = tiles_of(trained_run(tmp_path / "unknown", precision="int8", loop=None))
    for told in ("measured, int8, 95 % interval", "table, int8", "target, int8", "top-1, float",
                 "85.0 %", "top-1, int8", "tfnas export precision=int8 tells"):  # fmt: skip
        assert told in unknown
    known = tiles_of(trained_run(tmp_path / "known", precision="int8", in_int8=0.845, loop=None))
    assert known.index("86.0 %") < known.index("84.5 %")
    assert "85.0 %" not in known  # that of the training, on other images perhaps
    floating = tiles_of(trained_run(tmp_path / "floating", in_int8=0.845, loop=None))
    assert "measured, fp32, 95 % interval" in floating
    assert "the latency is of fp32" in floating
    tuned = tiles_of(trained_run(tmp_path / "tuned", precision="int8", qat=True, loop=None))
    assert "trained for int8" in tuned
    assert "at 32 px, simulated" in tuned


def test_finals_of_int8_say_that_accuracies_are_of_floats() -> None:
    assert "(int8)" not in finals_section(FINALS, "fp32")
    text = finals_section(FINALS, "int8")
    for told in ("table, ms (int8)", "top-1, % (float)", "held out, in float"):
        assert told in text


def test_all_options_are_told_in_full(tmp_path: Path) -> None:
    """Those that a result rests on, and those that Hydra noted besides."""
    folder, _ = saved_run(tmp_path / "run", loop=None)
    (folder / "history.jsonl").unlink()
    (folder / ".hydra").mkdir()
    stages = [{"c_out": 8 * i, "name": "x" * 30} for i in range(12)]
    config = {"tolerance": 0.025, "verify": {"max_minutes": 7}, "space": {"stages": stages}}
    (folder / ".hydra" / "config.yaml").write_text(json.dumps(config))
    values = read_files(folder).options
    assert (values["tolerance"], values["verify.max_minutes"]) == (0.025, 7)
    assert values["space.kernels"]
    text = page_of(folder).text
    for key in ("tolerance0.025", "verify.max_minutes7"):
        assert key in text
    unfinished = unfinished_run(tmp_path / "other")
    assert "target_ms8" in page_of(unfinished).text


@pytest.mark.parametrize(
    ("number", "told"),
    [(999, "999"), (999_499, "999 k"), (999_600_000, "1 G"), (2_345_000_000, "2.35 G")],
)
def test_multiply_adds_have_three_digits(number: int, told: str, tmp_path: Path) -> None:
    folder, _ = saved_run(tmp_path / "run", macs=number, loop=None)
    (folder / "history.jsonl").unlink()
    assert f"multiply-adds{told}" in "".join(page_of(folder).text.split("\n"))


def test_an_unfinished_run_says_so_and_shows_what_there_is(tmp_path: Path) -> None:
    folder = unfinished_run(tmp_path / "run")
    found = page_of(folder)
    for told in ("Interrupted: this search has no result", f"tfnas.search resume={folder}",
                 "Supernet loss", "python -m tfnas.search target_ms=8"):  # fmt: skip
        assert told in found.text
    assert found.values("data-measured-ms") == []
    assert "Failed: this search has no result" in page_of(folder, "failed").text


def test_a_run_that_goes_on_is_not_to_be_resumed(tmp_path: Path) -> None:
    folder = unfinished_run(tmp_path / "run")
    write_status(folder, None, "launch")  # this very process
    text = page_of(folder).text
    assert "Running: this search has no result; process" in text
    assert "Go on with" not in text


def test_an_empty_folder_has_a_page_too(tmp_path: Path) -> None:
    assert "this search has no result" in page_of(tmp_path).text


def test_what_can_t_be_read_is_a_warning_on_the_page(tmp_path: Path) -> None:
    folder, _ = saved_run(tmp_path / "run")
    (tmp_path / "table.json").unlink()
    (folder / "history.jsonl").write_text("{\n")
    text = page_of(folder).text
    assert "latencies of single blocks can't be told" in text
    assert "line 1 of" in text
    assert "There is no history of it" in text


def test_the_same_folder_gives_the_same_page(tmp_path: Path) -> None:
    folder, _ = saved_run(tmp_path / "run")
    first = write_report(folder).read_text()
    assert write_report(folder).read_text() == first


FINALS = Finals(
    winner="random-1", epochs=3, judged_images=80, target_ms=7.9,
    rows=(
        FinalsRow("random-1", "random", 7.9, {"supernet top-1": 30.0}, (0.5, 0.6, 0.7)),
        FinalsRow("search-1", "search", 7.9, {"supernet top-1": 40.0}, (0.55, 0.6, 0.65)),
        FinalsRow("<b>", "elsewhere", 7.9, {}, (), "its loss is nan"),
    ),
    evidence=(Evidence("supernet top-1", 1, 8, -0.8, (-0.97, -0.2), False),),
    margins=(Margin("random-1", "random nets, mean", 1, 4, 0.05, (-0.01, 0.11)),),
)  # fmt: skip


PLAN = Plan(60, {"budget.epochs": 12, "budget.max_train": None}, {"search": 1234.5}, ("plan",))


def test_a_plan_is_told(tmp_path: Path) -> None:
    folder, _ = saved_run(tmp_path / "run", plan=PLAN)
    text = page_of(folder).text
    assert "60; planned from steps measured here: budget.epochs=12, budget.max_train=null" in text
    assert "1,234.5" in text
    assert Result.load(folder / "result.json").plan == PLAN


def test_finals_are_told(tmp_path: Path) -> None:
    folder, _ = saved_run(tmp_path / "run", finals=FINALS)
    text = page_of(folder).text
    for told in (
        "random-1 won: 3 nets at 7.9 ms on the table began a training of 3 epochs",
        "random-1 against random nets, mean: +5.00 points after 1 epoch, 95 % interval −1.00 to",
        "ranks the wrong way", "its loss is nan",
    ):  # fmt: skip
        assert told in text
    assert "Beside widths, the net differs" not in text  # it isn't the search's own
    plain, _ = saved_run(tmp_path / "plain")
    assert "Finals" not in page_of(plain).text
    assert "finals" not in json.loads((plain / "result.json").read_text())
