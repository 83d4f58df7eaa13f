"""A refactor changes no numbers: the searches of `tests.support.same_numbers` in two checkouts."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.support.entry import REPOSITORY

OTHER = os.environ.get("TFNAS_SAME_AS")


@pytest.mark.slow
@pytest.mark.skipif(not OTHER, reason="TFNAS_SAME_AS doesn't name another checkout")
def test_a_refactor_changes_no_numbers() -> None:
    command = [sys.executable, "-m", "tests.support.same_numbers", str(OTHER)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-5000:]
