"""Without `fcntl` or `sched_getaffinity` everything can be imported and read, but not measured.
Where text isn't UTF-8, files are, and the console shows what it can."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.entry import environment
from tests.support.nets import few_root
from tests.support.spaces import load_space, macs_table
from tfnas.derive.menu import feasible
from tfnas.process.exits import DONE

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
# What each of them lacks of what is used here; other packages ask for the system's name instead.
WINDOWS = """
import os, signal, sys
for module in ("fcntl", "resource", "termios"):
    sys.modules[module] = None
for name in (
    "O_DIRECTORY", "O_NOFOLLOW", "getuid", "pread", "pwrite", "sched_getaffinity",
    "sched_setaffinity",
):
    delattr(os, name)
del signal.SIGHUP
"""
MACOS = """
import os
del os.sched_getaffinity, os.sched_setaffinity
"""
IMPORT_AND_READ = """
import importlib, pkgutil, random
import profilers, tfnas

for package in (tfnas, profilers):
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)

from pathlib import Path
from tests.support.spaces import load_space
from tfnas.derive.architecture import Architecture, Constraint
from tfnas.derive.menu import feasible
from tfnas.derive.methods import derive_constrained
from tfnas.latency.table import LatencyTable
from tfnas.process.stopping import locked

table = LatencyTable.load(sorted(Path("latency_tables").glob("*.json"))[0])
space = load_space("tfnas", 10, table.device.quantum)
low, high = feasible(space, table.for_space(space))
constraint = Constraint(table.for_space(space), (low + high) / 2, False, 0.01)
net = derive_constrained(space, Architecture.initial(space), [constraint])
with locked(Path(os.environ["OUT"])):
    print(net)
"""


def started(system: str, folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """Python as it would be there."""
    (folder / "sitecustomize.py").write_text(system)
    paths = os.pathsep.join((str(folder), str(ROOT)))
    return subprocess.run(
        [sys.executable, *command],
        env={**os.environ, "PYTHONPATH": paths, "OUT": str(folder / "out")},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.parametrize("system", [WINDOWS, MACOS], ids=["windows", "macos"])
def test_everything_can_be_imported_and_read(system: str, tmp_path: Path) -> None:
    done = started(system, tmp_path, "-c", f"import os\n{IMPORT_AND_READ}")
    assert done.returncode == 0, done.stderr
    assert ("can't lock" in done.stderr) == (system == WINDOWS)


@pytest.mark.parametrize(
    ("system", "reason"),
    [(WINDOWS, "has no locks"), (MACOS, "doesn't tell which cores")],
    ids=["windows", "macos"],
)
def test_measuring_says_so_in_one_line(system: str, reason: str, tmp_path: Path) -> None:
    out = f"hydra.run.dir={tmp_path / 'run'}"
    done = started(system, tmp_path, "-m", "profilers", "device=cpu", "space=tiny", out)
    assert done.returncode == 2, done.stdout + done.stderr
    (line,) = (done.stdout + done.stderr).splitlines()
    assert line.startswith("error: measuring needs Linux: this system")
    assert reason in line


def test_where_text_is_ascii_files_are_utf_8(tmp_path: Path) -> None:
    """Python's own way out, UTF-8 mode, is shut off; a locale that isn't UTF-8 reads and writes as
    this one does."""
    space = load_space("tiny")
    table, run = macs_table(space), tmp_path / "run"
    table.save(tmp_path / "table.json")
    target_ms = sum(feasible(space, table)) / 2
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}

    def command(*arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", *arguments], env={**environment(), **ascii_only}, cwd=tmp_path,
            capture_output=True, encoding="ascii", check=False,
        )  # fmt: skip
        assert done.returncode == DONE, done.stdout + done.stderr
        assert "warning: no page" not in done.stderr
        return done.stdout

    said = command(
        "tfnas.search", "space=tiny", "budget=test", "strategy=tfnas",
        "budget.epochs=1", "budget.warmup_epochs=0",
        f"data.root={few_root()}", "cores=1", "table=table.json", f"target_ms={target_ms:.4f}",
        "hydra.run.dir=run",
    )  # fmt: skip
    assert "epoch 1/1 ? loss" in said  # its dot can't be shown
    assert "epoch 1/1 · loss" in (run / "log.txt").read_text("utf-8")
    assert "·" in (run / "report.html").read_text("utf-8")
    assert "?" in command("tfnas.report", "run")
    command("tfnas.table", "show", "table.json")
