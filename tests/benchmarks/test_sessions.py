"""The benchmark of sessions reads in turn, keeps its readings, and tells what scatters."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from benchmarks.latency import sessions
from tests.support.spaces import load_space
from tfnas.deploy.onnx_file import export

pytestmark = pytest.mark.slow


def test_readings_are_kept_and_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))  # which the benchmark sets anew
    model, out = tmp_path / "model.onnx", tmp_path / "out.jsonl"
    export(load_space().sample(random.Random(0)), None, model)
    command = ["sessions", str(model), "--out", str(out), "--seconds", "0.5", "--rounds"]
    for rounds in (2, 3):
        monkeypatch.setattr("sys.argv", [*command, str(rounds)])
        sessions.main()
        assert len(out.read_text().splitlines()) == 2 * rounds
    told = capsys.readouterr().out
    assert "1 models, 3 rounds" in told
    assert "correlation of the two" in told
