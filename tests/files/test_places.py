"""Folders of a user's own files, also of one who has no home."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.entry import environment
from tfnas.files.places import KINDS, NOWHERE, user_folder

CODE = "from tfnas.files.places import KINDS, user_folder; print(*map(user_folder, sorted(KINDS)))"


def found(user: int | None = None, **variables: str) -> list[Path]:
    """Of the cache, the data and the state, as another process finds them."""
    path = environment()["PYTHONPATH"]
    setup = "" if user is None else f"import os, tfnas.files.places; os.setuid({user}); "
    done = subprocess.run(
        [sys.executable, "-c", setup + CODE], env={"PYTHONPATH": path, **variables},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return list(map(Path, done.stdout.split()))


def test_they_go_by_the_home_and_by_their_variables() -> None:
    home = Path("/some/home")
    own = [home / ".cache/tfnas", home / ".local/share/tfnas", home / ".local/state/tfnas"]
    assert found(HOME=str(home)) == own
    assert found(HOME=str(home), XDG_DATA_HOME="/data")[1] == Path("/data/tfnas")
    for kind in KINDS:
        assert user_folder(kind).is_absolute()


@pytest.mark.skipif(os.getuid() != 0, reason="needs root, to be another user")
def test_a_user_without_a_home_has_none() -> None:
    assert found(user=54321) == [NOWHERE] * 3
    assert found(user=54321, XDG_DATA_HOME="/data") == [NOWHERE, Path("/data/tfnas"), NOWHERE]
