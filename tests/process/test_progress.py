"""Progress lines and durations."""

from __future__ import annotations

import logging
import time

import pytest

from tfnas.process import progress
from tfnas.process.progress import duration, heartbeat


def test_heartbeat_tells_share_and_time_left(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "EVERY_S", 0.05)
    done = 0.0
    with (
        caplog.at_level(logging.INFO),
        heartbeat(logging.getLogger("beat"), "search", lambda: (done, "epoch 1/2")),
    ):
        time.sleep(0.1)
        done = 0.5
        time.sleep(0.15)
    lines = [record.message for record in caplog.records]
    assert lines[0] == "search   0 % · ? left · epoch 1/2"
    assert any(line.startswith("search  50 %") and " s left" in line for line in lines)
    count = len(caplog.records)
    time.sleep(0.12)
    assert len(caplog.records) == count


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.2, "0 s"), (59.4, "59 s"), (200, "3 min 20 s"), (7500, "2 h 05 min"), (float("nan"), "?")],
)
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text
