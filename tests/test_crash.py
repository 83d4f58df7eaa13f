"""The short form of `python -m tests.support.crash`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.crash import CRASHES

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("what", CRASHES)
def test_killed_at_random_moments(what: str, tmp_path: Path) -> None:
    assert CRASHES[what](tmp_path, 2, 1) >= 1
