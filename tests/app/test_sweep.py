"""Sweeps: one worst status of many members, wherever they ran and however they ended."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.entry import environment, run_entry
from tests.support.spaces import load_space, macs_table
from tfnas.app.command_line import override
from tfnas.app.sweep import planned
from tfnas.derive.menu import feasible
from tfnas.process.exits import DONE, FAILED, INTERRUPTED, OUTSIDE_TOLERANCE, UNUSABLE_INPUT, worst
from tfnas.runs.folder import RunFolder
from tfnas.runs.status import read_status

pytestmark = pytest.mark.slow

# An entry point whose members end as the environment says, by their seed.
APP = """
import os, signal, time
from pathlib import Path
from tfnas.app.command_line import is_sweep, output_dir
from tfnas.app.main import main
from tfnas.app.schemas import ExportConfig

def wait_for_first():
    if not is_sweep():
        return
    first = output_dir().parent / "0" / "status.json"
    for _ in range(600):
        if first.exists() and "null" not in first.read_text():
            return
        time.sleep(0.05)

def prepare(cfg):
    end = os.environ["ENDS"].split()[cfg.seed]
    if end == "refuse":
        raise ValueError("not that")
    def work():
        if end == "raise":
            raise RuntimeError("a fault")
        if end == "die":
            wait_for_first()
            os.kill(os.getpid(), signal.SIGKILL)
        if end in ("ctrl-c", "ctrl-c-above"):
            wait_for_first()
            os.kill(os.getpid() if end == "ctrl-c" else os.getppid(), signal.SIGINT)
            time.sleep(60)
        return int(end)
    return work

if __name__ == "__main__":
    main(ExportConfig, "export", prepare)
"""
JOBLIB = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]
LAUNCHERS = pytest.mark.parametrize("launcher", [[], JOBLIB], ids=["basic", "joblib"])


def sweep(ends: str, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A sweep of APP into `folder`; what its members end with, separated by spaces."""
    app = folder.with_name("app.py")
    app.write_text(APP)
    seeds = ",".join(map(str, range(len(ends.split()))))
    return subprocess.run(
        [
            sys.executable, str(app), "-m", "subnet=x.json", f"seed={seeds}", *arguments,
            override("hydra.sweep.dir", folder),
        ],
        env={**environment(), "ENDS": ends}, capture_output=True, text=True, timeout=120,
        check=False, cwd=folder.parent,
    )  # fmt: skip


def statuses(folder: Path, members: int) -> list[int | None]:
    found = [read_status(folder / str(number)) for number in range(members)]
    return [None if status is None else status.status for status in found]


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ([], 0),
        ([0, 0], 0),
        ([0, 1], 1),
        ([130, 1], 130),
        ([130, 2], 2),
        ([2, 3, 130], 3),
        ([0, 99], 3),
    ],
)
def test_worst(found: list[int], expected: int) -> None:
    assert worst(found) == expected


@LAUNCHERS
def test_no_member_ends_the_sweep_and_each_leaves_its_status(
    launcher: list[str], tmp_path: Path
) -> None:
    folder = tmp_path / "sweep"
    done = sweep("1 raise refuse 0", folder, *launcher)
    assert done.returncode == FAILED, done.stdout + done.stderr
    assert statuses(folder, 4) == [1, 3, 2, 0]
    assert "sweep of 4: 1 done, 1 missed, 1 refused, 1 failed" in done.stdout


def test_a_repeated_sweep_of_what_has_no_resume_is_judged_by_its_own_members(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "sweep"
    assert sweep("3 1 3", folder).returncode == FAILED
    done = sweep("0 1", folder)
    assert done.returncode == OUTSIDE_TOLERANCE, done.stdout + done.stderr
    assert statuses(folder, 3) == [0, 1, 3]


def test_a_resumed_sweep_is_judged_by_its_own_members_and_stays_what_it_was(
    elsewhere_table: tuple[Path, float], tmp_path: Path
) -> None:
    file, target_ms = elsewhere_table
    folder = tmp_path / "sweep"
    command = (
        "space=tiny", "budget=test", "strategy=tfnas",
        "data.root=shipped", "cores=1", f"target_ms={target_ms}",
        "seed=0,1", override("table", file), override("hydra.sweep.dir", folder),
    )  # fmt: skip
    assert run_entry("tfnas.search", "-m", *command, cwd=tmp_path).returncode == DONE
    before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    done = run_entry("tfnas.search", "-m", *command, "target_ms=99", cwd=tmp_path)
    assert done.returncode == UNUSABLE_INPUT, done.stdout + done.stderr
    assert f"error: {folder} holds a sweep: go on with it by resume={folder}" in done.stderr
    assert {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()} == before
    RunFolder(folder / "1").result.unlink()
    again = override("resume", folder)
    for options, status, told in (
        (["seed=4"], UNUSABLE_INPUT, "seed=4: would make other runs"),
        (["tolerance=1e-9"], OUTSIDE_TOLERANCE, "sweep of 2: 2 missed"),
        ([], DONE, "sweep of 2: 2 done"),
    ):
        done = run_entry("tfnas.search", again, *options, cwd=tmp_path)
        assert done.returncode == status, done.stdout + done.stderr
        assert told in done.stdout + done.stderr


def test_a_process_that_dies_is_a_failed_member_and_no_status_is_lost(tmp_path: Path) -> None:
    folder = tmp_path / "sweep"
    done = sweep("1 die", folder, *JOBLIB)
    assert done.returncode == FAILED, done.stdout + done.stderr
    assert statuses(folder, 2) == [1, None]
    assert "Traceback" not in done.stdout + done.stderr
    assert "error: the sweep broke off" in done.stderr
    assert "sweep of 2: 1 missed, 1 failed" in done.stdout


def test_an_interrupted_member_in_a_process_of_its_own_is_alone(tmp_path: Path) -> None:
    folder = tmp_path / "sweep"
    done = sweep("1 ctrl-c 0", folder, *JOBLIB)
    assert done.returncode == INTERRUPTED, done.stdout + done.stderr
    assert statuses(folder, 3) == [1, 130, 0]


@pytest.mark.parametrize("end", ["ctrl-c", "130"])
def test_an_interrupted_member_in_the_same_process_ends_the_sweep(end: str, tmp_path: Path) -> None:
    folder = tmp_path / "sweep"
    done = sweep(f"3 {end} 0", folder)
    assert done.returncode == INTERRUPTED, done.stdout + done.stderr
    assert statuses(folder, 3) == [3, 130, None]
    assert "sweep of 3: 1 interrupted, 1 failed, 1 not started" in done.stdout


def test_members_that_a_launcher_kills_on_ctrl_c_are_interrupted(tmp_path: Path) -> None:
    folder = tmp_path / "sweep"
    done = sweep("3 ctrl-c-above", folder, *JOBLIB)
    assert done.returncode == INTERRUPTED, done.stdout + done.stderr
    assert statuses(folder, 2) == [3, 130]


def test_a_folder_that_takes_no_status_does_not_end_the_sweep(tmp_path: Path) -> None:
    folder = tmp_path / "sweep"
    (folder / "0" / "status.json" / "in the way").mkdir(parents=True)
    done = sweep("0 1", folder)
    assert done.returncode == FAILED, done.stdout + done.stderr
    assert "can't write" in done.stdout
    assert read_status(folder / "1") is not None


def single(end: str, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    app = folder / "app.py"
    app.write_text(APP)
    return subprocess.run(
        [sys.executable, str(app), "subnet=x.json", *arguments],
        env={**environment(), "ENDS": end}, capture_output=True, text=True, timeout=60, check=False,
        cwd=folder,
    )  # fmt: skip


def test_only_a_folder_of_its_own_gets_a_status(tmp_path: Path) -> None:
    done = single("1", tmp_path)
    assert done.returncode == OUTSIDE_TOLERANCE, done.stdout + done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["app.py"]


@pytest.mark.parametrize(("end", "status"), [("ctrl-c", 130), ("1", 1), ("raise", 3)])
def test_a_single_run_leaves_its_status_too(end: str, status: int, tmp_path: Path) -> None:
    done = single(end, tmp_path, "hydra.run.dir=run", "hydra.output_subdir=.hydra")
    assert done.returncode == status, done.stdout + done.stderr
    left = read_status(tmp_path / "run")
    assert left is not None
    assert left.status == status


def test_a_launcher_that_is_not_installed_is_unusable_input(tmp_path: Path) -> None:
    done = sweep("0", tmp_path / "sweep", "hydra/launcher=nowhere")
    assert done.returncode == UNUSABLE_INPUT
    assert "hydra-joblib-launcher" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("module", ["tfnas.train", "tfnas.export"])
def test_other_entry_points_reach_other_processes(module: str, tmp_path: Path) -> None:
    folder = tmp_path / "sweep"
    done = run_entry(
        module, "-m", "subnet=none.json", "seed=0,1", *JOBLIB,
        override("hydra.sweep.dir", folder), cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == UNUSABLE_INPUT, done.stdout + done.stderr
    assert statuses(folder, 2) == [UNUSABLE_INPUT] * 2
    assert done.stdout.count("error: ") == 2
    assert "none.json" in done.stdout


@pytest.fixture
def elsewhere_table(tmp_path: Path) -> tuple[Path, float]:
    """A made-up table, and a target in the middle of its range."""
    space = load_space("tiny")
    file = tmp_path / "elsewhere.json"
    macs_table(space).save(file)
    low, high = feasible(space, macs_table(space))
    return file, round((low + high) / 2, 4)


def test_a_sweep_of_searches_in_processes_and_its_report(
    elsewhere_table: tuple[Path, float], tmp_path: Path
) -> None:
    file, target_ms = elsewhere_table
    folder = tmp_path / "sweep"
    done = run_entry(
        "tfnas.search", "-m", "space=tiny", "budget=test", "strategy=tfnas",
        "profile=test", "verify=test",
        "data.root=shipped", "cores=1", f"target_ms=99,{target_ms}", *JOBLIB,
        override("table", file), override("hydra.sweep.dir", folder), cwd=tmp_path,
    )  # fmt: skip
    text = done.stdout + done.stderr
    assert done.returncode == UNUSABLE_INPUT, text
    assert statuses(folder, 2) == [UNUSABLE_INPUT, DONE]
    assert [RunFolder(folder / name).result.exists() for name in "01"] == [False, True]
    assert "go on:" not in text  # what is refused is refused again
    assert f"one table: python -m tfnas.report {folder}" in text

    plan = planned(folder)
    assert plan is not None
    assert plan.app == "search"
    for number, target in enumerate(("99", str(target_ms))):
        overrides = plan.members[folder / str(number)]
        saved = (folder / str(number) / ".hydra" / "overrides.yaml").read_text()
        assert overrides["target_ms"] == target
        assert f"target_ms={target}\n" in saved
        assert len(overrides) == len(saved.splitlines())

    told = run_entry("tfnas.report", str(folder), cwd=tmp_path)
    assert told.returncode == DONE, told.stderr
    assert told.stderr == ""
    assert f"{folder / '0'}: refused: target_ms=99 is out of reach" in told.stdout
    with (folder / "runs.csv").open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    result = json.loads(RunFolder(folder / "1").result.read_text())
    assert [row["status"] for row in rows] == ["refused", "done"]
    assert [float(row["target_ms"]) for row in rows] == [99, target_ms]
    assert [row["table_ms"] for row in rows] == ["", str(result["table_ms"])]
    assert [row["strategy"] for row in rows] == ["tfnas", "tfnas"]
