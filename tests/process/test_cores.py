"""Cores are those of the affinity mask and of control groups, not the machine's."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.entry import environment
from tfnas.process.accelerator import cpu_threads
from tfnas.process.cores import Cores, OtherWork, usable_cores
from tfnas.process.ranks import Ranks


def system(root: Path, groups: str, **files: str) -> Path:
    """A file system with /proc/self/cgroup and files of control groups, `__` for a slash."""
    (root / "proc" / "self").mkdir(parents=True)
    (root / "proc" / "self" / "cgroup").write_text(groups)
    for name, text in files.items():
        path = root / "sys/fs/cgroup" / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.fixture
def four(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3}, raising=False)


@pytest.mark.usefixtures("four")
@pytest.mark.parametrize(
    ("groups", "files", "cores"),
    [
        ("0::/\n", {"cpu.max": "max 100000\n"}, Cores(4)),
        ("0::/\n", {"cpu.max": "25000 100000\n"}, Cores(1, "a CPU quota of 0.25")),
        ("0::/a/b\n", {"a__cpu.max": "150000 100000\n"}, Cores(2, "a CPU quota of 1.5")),
        ("0::/a\n", {"a__cpu.max": "max 100000\n", "b__cpu.max": "1 100000\n"}, Cores(4)),
        ("0::/../../x\n", {"cpu.max": "200000 100000\n"}, Cores(2, "a CPU quota of 2")),
        ("0::/\n", {"cpu.max": "900000 100000\n"}, Cores(4)),
        (
            "3:memory:/m\n2:cpu,cpuacct:/job\n0::/\n",
            {
                "cpu,cpuacct__job__cpu.cfs_quota_us": "100000\n",
                "cpu,cpuacct__job__cpu.cfs_period_us": "50000\n",
            },
            Cores(2, "a CPU quota of 2"),
        ),
        ("1:cpu:/\n", {"cpu__cpu.cfs_quota_us": "-1", "cpu__cpu.cfs_period_us": "9"}, Cores(4)),
        ("0::/\n", {"cpu.max": "nonsense\n"}, Cores(4)),
        ("0::/\n", {"cpu.max": "5 0\n"}, Cores(4)),
        ("", {}, Cores(4)),
    ],
)
def test_quotas(groups: str, files: dict[str, str], cores: Cores, tmp_path: Path) -> None:
    assert usable_cores(system(tmp_path, groups, **files)) == cores


def test_an_affinity_mask() -> None:
    if (os.cpu_count() or 1) < 2:
        pytest.skip("needs two cores")
    code = (
        "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))});"
        "from tfnas.process.cores import usable_cores; print(usable_cores())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == str(Cores(1, "the affinity mask"))


def test_processes_of_a_machine_share_them_and_what_limits_is_told_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    monkeypatch.setattr("tfnas.process.accelerator.usable_cores", lambda: Cores(8))
    assert cpu_threads(None) == 8
    assert cpu_threads(None, Ranks(2, 4, 0, 2)) == 4
    assert cpu_threads(3, Ranks(1, 2, 1, 2)) == 3
    assert caplog.text == ""
    monkeypatch.setattr(
        "tfnas.process.accelerator.usable_cores", lambda: Cores(1, "the affinity mask")
    )
    assert cpu_threads(None, Ranks(1, 2, 1, 2)) == 1
    assert cpu_threads(None, tell=False) == 1
    assert caplog.text == ""
    assert cpu_threads(None, Ranks(0, 2, 0, 2)) == 1
    assert "the affinity mask" in caplog.text


def stat_file(root: Path, *rows: tuple[int, ...]) -> None:
    lines = ["cpu  1 1 1 1 1 1 1 1 0 0"]
    lines += [
        f"cpu{n} {' '.join(map(str, row))} 0 0" for n, row in enumerate(rows)
    ]  # guest time is in that of users
    (root / "proc").mkdir(exist_ok=True)
    (root / "proc" / "stat").write_text("\n".join([*lines, "intr 5", ""]))


def test_others_are_those_on_the_cores_of_this_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0, 0.0]
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {1, 2}, raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    monkeypatch.setattr(os, "sysconf", lambda _: 100)
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(time, "process_time", lambda: clock[1])
    stat_file(tmp_path, (0,) * 8, (10,) * 8, (10,) * 8, (0,) * 8)
    others = OtherWork(tmp_path)
    clock[:] = [10.0, 6.0]
    # Of twenty seconds of two cores eleven are busy, six of them its own; what idles doesn't count.
    stat_file(
        tmp_path,
        (900,) * 8,
        (510, 10, 10, 900, 900, 10, 10, 10),
        (310, 10, 10, 10, 10, 10, 10, 310),
    )
    assert others.share() == pytest.approx(5 / 20)
    (tmp_path / "proc" / "stat").unlink()
    assert others.share() is None
    assert OtherWork(tmp_path).share() is None


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_busy_neighbour_is_seen() -> None:
    others = OtherWork()
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as neighbour:
        time.sleep(1.0)
        share = others.share()
        neighbour.kill()
    assert share is not None
    assert share > 0.3 / usable_cores().count
