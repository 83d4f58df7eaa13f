"""One measuring process at a time on a machine, whoever's it is and wherever its TMPDIR lies."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from profilers.onboard.lock import SHARED, check_lockable, machine_lock
from tests.support.entry import environment

ONCE = """
import os, sys
from profilers.onboard.lock import machine_lock
os.setuid(int(sys.argv[1]))
os.umask(0o077)
try:
    with machine_lock(print, wait_s=0.1):
        print("free")
except TimeoutError as error:
    print(error)
"""
NOBODY = 65534


def once(user: int = os.getuid(), **variables: str) -> str:
    """What another process finds that wants the lock."""
    done = subprocess.run(
        [sys.executable, "-c", ONCE, str(user)], env={**environment(), **variables}, text=True,
        capture_output=True, check=True,
    )  # fmt: skip
    return done.stdout.splitlines()[-1]


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """One that all users may write to."""
    with TemporaryDirectory() as place:
        Path(place).chmod(0o1777)
        monkeypatch.setenv("TFNAS_LOCKS", place)
        yield Path(place)


def test_the_lock_is_one_for_all_whatever_their_folder_for_temporary_files(
    folder: Path, tmp_path: Path
) -> None:
    with machine_lock(print):
        assert f"(pid {os.getpid()}) is at it" in once(TMPDIR=str(tmp_path))
    assert once(TMPDIR=str(tmp_path)) == "free"


@pytest.mark.skipif(os.getuid() != 0, reason="needs root, to be two users")
def test_of_two_users_one_waits(folder: Path) -> None:
    assert once(user=NOBODY) == "free"  # whose file it is from now on, and whose umask is strict
    with machine_lock(print):
        assert f"(pid {os.getpid()}) is at it" in once(user=NOBODY)
    (folder / "tfnas-measuring.lock").unlink()
    with machine_lock(print):
        assert f"(pid {os.getpid()}) is at it" in once(user=NOBODY)
    assert once(user=NOBODY) == "free"


def test_a_folder_that_is_not_there_is_made(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    place = tmp_path / "not" / "there"
    monkeypatch.setenv("TFNAS_LOCKS", str(place))
    with machine_lock(print):
        assert (place / "tfnas-measuring.lock").is_file()
    file = tmp_path / "file"
    file.touch()
    monkeypatch.setenv("TFNAS_LOCKS", str(file / "below"))
    with pytest.raises(OSError, match=r"TFNAS_LOCKS=.*below: expected a folder for locks"):
        check_lockable()


def test_boards_look_in_the_same_places() -> None:
    script = (files("profilers.onboard") / "measure.sh").read_text()
    assert f'for folder in "${{TFNAS_LOCKS:-}}" {" ".join(SHARED)} ' in script
