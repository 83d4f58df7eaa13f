"""A full disk, a read-only folder, a clock that jumps: an error, and what was there stays."""

from __future__ import annotations

import random
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import profilers
import tfnas
from profilers.measure.timing import MIN_ROUNDS, measure
from profilers.onboard.rounds import Rounds
from tests.support.entry import run_entry
from tests.support.simulated_device import Machine, Model
from tests.support.spaces import load_space, macs_table
from tfnas.app.command_line import override
from tfnas.derive.menu import feasible
from tfnas.latency.table import LatencyTable
from tfnas.process.exits import DONE, FAILED, UNUSABLE_INPUT

pytestmark = pytest.mark.slow

SIZE = 8_000_000  # bytes: a tiny search with three checkpoints fits


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, of `SIZE` bytes."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(folder)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("only root may mount a small file system")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def search_command(folder: Path, out: Path) -> list[str]:
    table = macs_table(load_space("tiny"))
    table.save(folder / "table.json")
    low, high = feasible(load_space("tiny"), table)
    return [
        "space=tiny", "budget=test", "strategy=tfnas",
        "data.root=shipped", f"target_ms={(low + high) / 2:.4f}",
        override("table", folder / "table.json"), override("hydra.run.dir", out),
    ]  # fmt: skip


def test_a_full_disk_is_an_error_and_the_run_goes_on_later(
    small_disk: Path, tmp_path: Path
) -> None:
    out, ballast = small_disk / "run", small_disk / "ballast"
    ballast.write_bytes(b"x" * (SIZE - 60_000))
    full = run_entry("tfnas.search", *search_command(tmp_path, out), cwd=tmp_path)
    assert full.returncode == FAILED, full.stdout + full.stderr
    assert "error: " in full.stdout
    assert "Traceback" not in full.stdout + full.stderr
    assert ballast.stat().st_size == SIZE - 60_000
    ballast.unlink()
    done = run_entry("tfnas.search", override("resume", out), cwd=tmp_path)
    assert done.returncode == DONE, done.stdout + done.stderr


def test_a_full_disk_leaves_a_loadable_table(small_disk: Path, tmp_path: Path) -> None:
    file = small_disk / "table.json"
    command = ["space=tiny", "profile=test", "data.root=shipped", override("table", file)]
    (small_disk / "ballast").write_bytes(b"x" * (SIZE - 9_000))  # a page is left
    full = run_entry("profilers", *command, cwd=tmp_path)
    assert full.returncode == FAILED, full.stdout + full.stderr
    assert "Traceback" not in full.stdout + full.stderr
    if file.exists():
        LatencyTable.load(file)
    assert not list(small_disk.glob(".*"))  # no half of a file
    (small_disk / "ballast").unlink()
    assert run_entry("profilers", *command, cwd=tmp_path).returncode == DONE


def test_read_only_folders_are_refused_before_work(small_disk: Path, tmp_path: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    for module, *arguments in (
        ("tfnas.search", *search_command(tmp_path, small_disk / "run")),
        ("profilers", "space=tiny", "profile=test", f"table={small_disk / 'new.json'}"),
        ("profilers", "space=tiny", "profile=test", f"table={small_disk / 'a/new.json'}"),
    ):
        done = run_entry(module, *arguments, cwd=tmp_path)
        text = done.stdout + done.stderr
        assert done.returncode == UNUSABLE_INPUT, text
        assert "error: " in text
        assert "Traceback" not in text


def test_a_clock_that_jumps_ends_a_measurement_with_an_interval_or_none() -> None:
    machine = Machine(load=0.2, jitter=0.02)

    def now() -> float:
        return machine.now() + (3600 if machine.now() > 0.3 else 0)

    rounds = Rounds(Model("reference", 0.2, machine), random.Random(0), now)
    (found,) = measure(
        [Model("x", 1.0, machine)], rounds, precision=1e-6, max_seconds=60, progress=lambda _: None
    )
    assert found.samples >= MIN_ROUNDS
    assert found.median_ms == pytest.approx(1.0, rel=0.3)
    assert found.noisy


def test_nothing_rests_on_the_clock_of_the_wall() -> None:
    """It can be set back, and then an interval is negative."""
    for package in (tfnas, profilers):
        for file in Path(str(package.__file__)).parent.rglob("*.py"):
            assert not re.search(
                r"time\.time\(|datetime(?! import timedelta$)", file.read_text(), re.M
            ), file
