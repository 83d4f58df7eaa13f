"""One table of many runs, whatever their folders hold."""

from __future__ import annotations

import csv
import json
import os
import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.nets.test_weights import TRAINED as TOLD
from tests.support.nets import random_network, tiny_subnet
from tests.support.run_folders import checked_int8, trained_run
from tfnas import report
from tfnas.nets.weights import save_weights
from tfnas.process.exits import DONE, FAILED, INTERRUPTED, OUTSIDE_TOLERANCE, UNUSABLE_INPUT
from tfnas.runs.folder import RunFolder
from tfnas.runs.result import RawSamples, Result
from tfnas.runs.status import Status, read_status, write_status

pytestmark = pytest.mark.slow

RESULT = Result(
    target_ms=8.0, table_ms=7.92, measured_ms=7.98, measured_ci_ms=(7.92, 8.06),
    measured_raw_ms=RawSamples(7.8, 8.1), feasible_ms=(1.76, 15.4), device="Xeon, 1 thread",
    table="/tables/here.json", space="tfnas", strategy="tfnas", seed=3, verified=True,
    tolerance=0.01, at_most=False, within=True, reached=True, log_prob=-9.0, argmax_log_prob=-8.0,
    resolution=224, classes=10, macs=10**8, batch=1, threads=1, precision="fp32", data="shipped",
    options={"budget.epochs": 2}, overhead_from_table=False, noisy=None, loop=None, scores={},
    versions={"python": "3.11"}, seconds={"search": 2.0},
)  # fmt: skip
MISSED = replace(RESULT, target_ms=10.0, within=False)
TRAINED = {"format": "tfnas.train/1", "top1": 0.866, "resolution": 224}
MULTIRUN = """
hydra:
  job: {config_name: search}
  sweep: {dir: runs/x, subdir: '${hydra.job.num}'}
  sweeper: {_target_: hydra._internal.core_plugins.basic_sweeper.BasicSweeper, params: null}
  overrides: {hydra: [], task: ['target_ms=8,99', 'seed=range(0,2)', 'strategy=spos']}
"""


def saved(folder: Path, result: Result | None, status: int | None = 0) -> Path:
    """A run's folder as `tfnas.search` leaves it."""
    (folder / ".hydra").mkdir(parents=True)
    (folder / ".hydra" / "config.yaml").write_text(
        "target_ms: 99\nseed: 1\nstrategy: {name: random}\nspace: {name: tiny}\n"
    )
    RunFolder(folder).overrides.write_text("- target_ms=99\n")
    write_status(folder, status, "launch")
    if result is not None:
        result.save(folder / "result.json")
    return folder


def changed(run: Path, **values: Any) -> None:
    """Its result.json with other values."""
    file = run / "result.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


def told(
    *arguments: Path | str, capsys: pytest.CaptureFixture[str], status: int = DONE
) -> tuple[list[str], str]:
    """Lines of standard output, and standard error."""
    with pytest.raises(SystemExit) as end:
        report.main([str(a) for a in arguments])
    captured = capsys.readouterr()
    assert end.value.code == status, captured.err
    return captured.out.splitlines(), captured.err


def cells(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as lines:
        return list(csv.DictReader(lines))


def test_a_run_is_one_line_and_one_row(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = saved(tmp_path / "run", RESULT)
    (run / "train.json").write_text(json.dumps(TRAINED))
    lines, errors = told(run, capsys=capsys)
    assert errors == ""
    for text in (
        "8 ms", "7.92 ms", "7.98 ± 0.07 ms", "-0.25 %", "yes", "tfnas", "3", "Xeon, 1 thread",
        "86.6 % at 224 px", "done",
    ):  # fmt: skip
        assert text in lines[1]
    assert lines[2:] == [f"wrote {run / 'runs.csv'}: 1 run", f"wrote {run / 'report.html'}"]
    [row] = cells(run / "runs.csv")
    assert float(row["gap"]) == RESULT.gap
    assert (row["measured_low_ms"], row["measured_high_ms"]) == ("7.92", "8.06")
    assert (row["device"], row["within"], row["top1"]) == ("Xeon, 1 thread", "true", "0.866")


def test_accuracies_in_int8_stand_beside_those_in_float(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trained_run(tmp_path / "a", precision="int8", in_int8=0.845)
    trained_run(tmp_path / "b", precision="int8")
    trained_run(tmp_path / "c", precision="int8", qat=True)
    (tmp_path / "d").mkdir()
    other = checked_int8(tiny_subnet(7), 0.1)
    other.save(trained_run(tmp_path / "d" / "run") / "int8.json")
    lines, errors = told(tmp_path, capsys=capsys)
    assert errors == ""
    for line, text in zip(
        lines[1:5],
        ("float 86.0 %, int8 84.5 % at 32 px", "float 85.0 %, int8 – at 32 px",
         "float –, int8 85.0 % at 32 px", "  85.0 % at 32 px"),
        strict=True,
    ):  # fmt: skip
        assert text in line
    rows = cells(tmp_path / "runs.csv")
    assert [row["precision"] for row in rows] == ["int8"] * 3 + ["fp32"]
    assert [row["top1_int8"] for row in rows] == ["0.845", "", "0.85", ""]
    assert [row["top1_float"] for row in rows] == ["0.86", "0.85", "", "0.85"]
    nets = {row["run"]: row for row in cells(tmp_path / "nets.csv") if row["source"] == "found"}
    assert nets[str(tmp_path / "a")]["top1"] == "84.500"  # at the precision of the latency
    assert (nets[str(tmp_path / "b")]["top1"], nets[str(tmp_path / "b")]["precision"]) == (
        "", "int8",
    )  # fmt: skip
    (tmp_path / "a" / "int8.json").write_text("{}")
    lines, errors = told(tmp_path, capsys=capsys)
    assert "int8.json is no accuracy in int8" in errors
    assert "float 85.0 %, int8 –" in lines[1]


def test_trained_nets_are_listed_as_timm_does(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    subnet = tiny_subnet()
    for number in range(2):
        run = saved(tmp_path / str(number), RESULT)
        (run / "train.json").write_text(json.dumps(TRAINED))
        subnet.save(run / "subnet.json")
        weights = random_network(subnet).state_dict()
        save_weights(weights, subnet, run / "weights.safetensors", TOLD)
    lines, errors = told(tmp_path, capsys=capsys)
    assert errors == ""
    assert f"wrote {tmp_path / 'results.csv'}" in lines
    rows = cells(tmp_path / "results.csv")
    assert [row["run"] for row in rows] == [str(tmp_path / name) for name in "01"]
    assert {row["top1"] for row in rows} == {"50.000"}
    (run / "weights.safetensors").write_text("no weights")
    _, errors = told(tmp_path, capsys=capsys)
    assert errors.startswith(f"warning: can't read the weights {run}")
    assert len(cells(tmp_path / "results.csv")) == 1


def test_a_sweep_lists_all_its_members_and_how_to_go_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = tmp_path / "a sweep"
    saved(sweep / "0", replace(RESULT, noisy="busy"))
    refused = saved(sweep / "2", None, UNUSABLE_INPUT)
    (refused / "log.txt").write_text(
        "2026-11-21 10:00:00,123 INFO data: shipped\n"
        "2026-11-21 10:00:00,123 ERROR error: target_ms=99 is out of reach\n"
    )
    (sweep / "multirun.yaml").write_text(MULTIRUN)
    lines, _ = told(sweep, capsys=capsys)
    rows = cells(sweep / "runs.csv")
    assert [row["run"] for row in rows] == [str(sweep / name) for name in "0123"]
    assert [row["status"] for row in rows] == ["done", "not started", "refused", "not started"]
    assert [row["target_ms"] for row in rows] == ["8.0", "8.0", "99.0", "99.0"]
    assert [row["seed"] for row in rows] == ["3", "1", "1", "1"]
    assert [row["strategy"] for row in rows] == ["tfnas", "spos", "random", "spos"]
    assert "(doubtful)" in lines[1]
    assert rows[0]["doubtful"] == "busy"
    assert f"{refused}: refused: target_ms=99 is out of reach" in lines
    assert f"go on: python -m tfnas.search 'resume='\"'\"'{sweep}'\"'\"''" in lines


@pytest.mark.parametrize(
    ("status", "name", "goes_on"),
    [
        (FAILED, "failed", True),
        (INTERRUPTED, "interrupted", True),
        (UNUSABLE_INPUT, "refused", False),
        (77, "failed", True),
    ],
)
def test_a_run_without_result_tells_what_became_of_it(
    status: int, name: str, goes_on: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = saved(tmp_path / "run", None, status)
    lines, _ = told(run, capsys=capsys)
    assert lines[1].endswith(name)
    assert (f"go on: python -m tfnas.search resume={run}" in lines) is goes_on


def test_a_run_of_several_processes_goes_on_with_as_many(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for key, value in (("RANK", "0"), ("WORLD_SIZE", "2")):
        monkeypatch.setenv(key, value)
    run = saved(tmp_path / "run", None, INTERRUPTED)
    monkeypatch.undo()
    lines, _ = told(run, capsys=capsys)
    again = f"torchrun --standalone --nproc_per_node=2 -m tfnas.search resume={run}"
    assert f"go on: {again}" in lines
    assert again in (run / "report.html").read_text()


def test_a_run_that_never_began_cannot_go_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = saved(tmp_path / "run", None, FAILED)
    RunFolder(run).overrides.unlink()
    lines, _ = told(run, capsys=capsys)
    assert "go on" not in "".join(lines)


def test_a_failure_is_told_by_the_end_of_its_trace(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = saved(tmp_path / "run", None, FAILED)
    (run / "log.txt").write_text(
        "2026-11-21 10:00:00,123 ERROR error: an earlier one\n"
        "2026-11-21 10:00:01,123 ERROR failed\nTraceback (most recent call last):\n"
        '  File "x.py", line 1\nRuntimeError: verify ended with status 3\n'
        "2026-11-21 10:00:02,123 INFO bye\n"
    )
    lines, _ = told(run, capsys=capsys)
    log = run / "log.txt"
    assert f"{run}: failed: RuntimeError: verify ended with status 3; see {log}" in lines


@pytest.mark.parametrize(
    ("host", "pid", "name"),
    [
        (socket.gethostname(), os.getpid(), "running"),
        (socket.gethostname(), 2**31 - 1, "failed"),  # no such process
        ("elsewhere", 1, "running"),
    ],
    ids=["here", "dead", "elsewhere"],
)
def test_a_run_without_an_end_runs_or_was_killed(
    host: str, pid: int, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = saved(tmp_path / "run", None, None)
    record = json.loads((run / "status.json").read_text())
    (run / "status.json").write_text(json.dumps({**record, "host": host, "pid": pid}))
    lines, _ = told(run, capsys=capsys)
    assert lines[1].endswith(name)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": "tfnas.status/1", "status": "0"}'])
def test_an_unreadable_status_is_a_failure(
    text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = saved(tmp_path / "run", None)
    (run / "status.json").write_text(text)
    lines, _ = told(run, capsys=capsys)
    assert lines[1].endswith("failed")


def test_runs_of_before_the_status_file_are_told_by_their_result(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, result in (("met", RESULT), ("off", MISSED)):
        (saved(tmp_path / name, result) / "status.json").unlink()
    lines, _ = told(tmp_path, capsys=capsys)
    assert [line.split()[-1] for line in lines[1:3]] == ["done", "missed"]


@pytest.mark.parametrize(
    "spoilt",
    [
        {"target_ms": 0},
        {"target_ms": "8"},
        {"table_ms": -1.0},
        {"measured_ms": float("nan")},
        {"measured_ms": 10**400},
        {"measured_ci_ms": [8.06, 7.92]},
        {"measured_ci_ms": [7.92]},
        {"within": False},
        {"tolerance": 1e-9},
        {"device": None},
        {"extra": 1},
    ],
)
def test_a_malformed_result_is_one_warning_and_no_figure(
    spoilt: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = saved(tmp_path / "bad", RESULT)
    changed(bad, **spoilt)
    saved(tmp_path / "good", RESULT)
    lines, errors = told(tmp_path, capsys=capsys)
    assert len(errors.splitlines()) == 1
    assert errors.startswith("warning: ")
    assert "result.json" in errors
    assert lines[1].endswith("unreadable")
    assert lines[2].endswith("done")
    first, second = cells(tmp_path / "runs.csv")
    assert (first["measured_ms"], first["within"]) == ("", "")
    assert second["measured_ms"] == "7.98"


@pytest.mark.parametrize(
    "text", ["{", "[1]", "9" * 5000, '"\\ud800"', "[" * 100_000, '{"format": "tfnas.train/1"}']
)
@pytest.mark.parametrize("file", ["result.json", "train.json"])
def test_no_text_in_a_file_ends_the_report(
    file: str, text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = saved(tmp_path / "run", RESULT)
    (run / file).write_text(text)
    lines, errors = told(run, capsys=capsys)
    assert len(errors.splitlines()) == 1
    assert file in errors
    assert "%" not in lines[1].replace("-0.25 %", "")  # no accuracy


@pytest.mark.parametrize("file", ["result.json", "train.json", "log.txt", "status.json"])
def test_a_pipe_is_not_waited_for(
    file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = saved(tmp_path / "run", RESULT, FAILED)
    (run / file).unlink(missing_ok=True)
    os.mkfifo(run / file)
    told(run, capsys=capsys)


def test_a_lost_result_is_not_passed_off_as_done(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = saved(tmp_path / "run", None, DONE)
    lines, _ = told(run, capsys=capsys)
    assert lines[1].endswith("unreadable")
    assert f"go on: python -m tfnas.search resume={run}" in lines


FORMULAS = ["=1+1", "+cmd|x", "-cmd", "@SUM(A1)", " =1", "\t=1", "\r=1", "-1-1", "-nan"]


@pytest.mark.parametrize("text", FORMULAS)
def test_no_cell_is_a_formula(
    text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    saved(tmp_path / "run", replace(RESULT, device=text, noisy=text))
    told(tmp_path, capsys=capsys)
    [row] = cells(tmp_path / "runs.csv")
    for name in ("device", "doubtful"):
        assert row[name].startswith("'")
        assert row[name].endswith(text.strip())
    assert float(row["gap"]) < 0  # a number stays one


def test_a_folder_is_no_formula(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    saved(tmp_path / "=1+1", RESULT)
    monkeypatch.chdir(tmp_path)
    told("=1+1", capsys=capsys)
    assert cells(tmp_path / "=1+1" / "runs.csv")[0]["run"] == "'=1+1"


def test_what_files_say_does_not_reach_the_terminal_as_control(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evil = "x\x1b[2J\ny\u202e" + "z" * 10_000
    run = saved(tmp_path / "run", replace(RESULT, device=evil))
    failed = saved(tmp_path / "failed", None, FAILED)
    (failed / "log.txt").write_text("2026-11-21 10:00:00,123 ERROR error: " + evil)
    (run / "train.json").write_text(json.dumps({"format": evil}))
    lines, errors = told(tmp_path, capsys=capsys)
    written = "".join(lines) + errors.replace("\n", "") + (tmp_path / "runs.csv").read_text()
    assert written.replace("\n", "").isprintable()
    assert max(map(len, lines)) < 1000


def test_several_folders_make_one_table_in_the_current_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = [saved(tmp_path / "sweep" / str(n), RESULT) for n in (9, 10)]
    other = saved(tmp_path / "other", MISSED, OUTSIDE_TOLERANCE)
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    told(tmp_path / "sweep", other, runs[0], capsys=capsys)
    assert [row["run"] for row in cells(here / "runs.csv")] == [str(r) for r in (*runs, other)]
    told(other, "--csv", "mine.csv", capsys=capsys)
    assert [row["status"] for row in cells(here / "mine.csv")] == ["missed"]


def test_a_page_that_cannot_be_written_is_a_failure_after_the_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = saved(tmp_path / "sweep" / "0", RESULT)
    (run / "report.html").mkdir()
    file = tmp_path / "runs.csv"
    lines, errors = told(run, "--csv", file, capsys=capsys, status=FAILED)
    assert lines[-1] == f"wrote {file}: 1 run"
    assert errors.startswith(f"warning: no page in {run} (")


def test_a_member_without_page_ends_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> str:
        raise RuntimeError("can't be drawn")

    run = saved(tmp_path / "0", RESULT)
    monkeypatch.setattr("tfnas.pages.run.run_page", fail)
    lines, errors = told(tmp_path, capsys=capsys)
    assert errors == f"warning: no page in {run} (RuntimeError: can't be drawn)\n"
    assert lines[-1] == f"wrote {tmp_path / 'report.html'}"


def test_the_page_of_several_runs_replaces_no_run_s_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = [saved(tmp_path / name, RESULT) for name in "ab"]
    monkeypatch.chdir(runs[0])
    _, errors = told(*runs, capsys=capsys, status=UNUSABLE_INPUT)
    assert "is a run's folder" in errors
    assert not list(tmp_path.rglob("runs.csv"))


@pytest.mark.parametrize("spoil", ["absent", "file", "empty"])
def test_what_is_no_run_is_refused(
    spoil: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "x"
    if spoil == "file":
        folder.write_text("")
    if spoil == "empty":
        (folder / "nothing").mkdir(parents=True)
    _, errors = told(folder, capsys=capsys, status=UNUSABLE_INPUT)
    assert errors.startswith("error: ")
    assert str(folder) in errors


@pytest.mark.parametrize(
    ("task", "rows"),
    [
        ("target_ms=range(0,1000000000)", 10_000),  # the most that are told
        ("strategy=glob(*)", 1),
        ("target_ms=choice(", 1),
        ("seed=shuffle(1,2)", 1),  # in another order every time
    ],
)
def test_a_plan_that_cannot_be_told_is_left_out(
    task: str, rows: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    saved(tmp_path / "0", RESULT)
    (tmp_path / "multirun.yaml").write_text(MULTIRUN.replace("seed=range(0,2)", task))
    told(tmp_path, capsys=capsys)
    assert len(cells(tmp_path / "runs.csv")) == rows


def test_status_round_trip(tmp_path: Path) -> None:
    write_status(tmp_path, FAILED, "launch")
    assert read_status(tmp_path) == Status(FAILED, "launch", os.getpid(), socket.gethostname())
    assert read_status(tmp_path / "none") is None


def test_json_is_all_of_standard_output(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    saved(tmp_path / "0", RESULT)
    failed = saved(tmp_path / "1", None, FAILED)
    (failed / "result.json").write_text("{")
    lines, errors = told(tmp_path, "--json", capsys=capsys)
    found = json.loads("\n".join(lines))
    first, second = found["runs"]
    rows = cells(tmp_path / "runs.csv")
    assert list(first) == list(rows[0])
    assert (first["run"], first["within"]) == (str(tmp_path / "0"), True)
    assert (first["measured_low_ms"], first["gap"]) == (7.92, float(rows[0]["gap"]))
    assert (second["measured_ms"], second["status"]) == (None, "unreadable")
    assert found["advice"] == report.advice(report.gather(tmp_path)[0])
    assert "warning: " in errors
    assert f"wrote {tmp_path / 'report.html'}" in errors
