"""Which table a search takes: one to complete, or the one that it began with."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

import tfnas.pipeline.device
from profilers.tables.build import ENOUGH_RUNS, is_complete
from profilers.tables.plan import plan
from tests.support.simulated_device import DEVICE, Machine, SimulatedProfiler, plain_ms
from tests.support.spaces import load_space, load_spec
from tfnas.app.schemas import SearchConfig
from tfnas.latency.table import IMPORTED, LatencyTable, Measurement
from tfnas.pipeline.device import find_device, reach


def test_a_begun_search_keeps_the_rows_it_began_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The time to profile may end before all rows have their samples: searches go on, and so
    must the same search when it is taken up again."""
    space = load_space(quantum=DEVICE.quantum)
    rows = {op: Measurement(plain_ms(op), 0.0, ENOUGH_RUNS - 1) for op in plan(space).ops}
    file = tmp_path / "table.json"
    table = LatencyTable(DEVICE, rows, quantum_evidence=((8, 1.0),))
    table.save(file)
    assert not is_complete(table, load_spec())
    profiler = SimulatedProfiler(Machine())
    monkeypatch.setattr(tfnas.pipeline.device, "configured_device", lambda cfg: profiler)
    monkeypatch.setattr(tfnas.pipeline.device, "find_table", lambda device: file)
    cfg = cast(SearchConfig, SimpleNamespace(table=None))
    assert find_device(cfg, load_spec()) == (profiler, None, file)
    found = find_device(cfg, load_spec(), resumes=True)[1]
    assert found is not None
    assert found.rows == table.rows
    LatencyTable(DEVICE, dict(list(rows.items())[1:]), quantum_evidence=((8, 1.0),)).save(file)
    assert find_device(cfg, load_spec(), resumes=True)[1] is None  # a row is gone


def test_an_imported_table_is_no_device_that_failed(caplog: pytest.LogCaptureFixture) -> None:
    table = LatencyTable(replace(DEVICE, kind=IMPORTED, name="Pixel 1"), {})
    with caplog.at_level(logging.INFO):
        assert reach(table, {"kind": "cpu"}) is None
    assert caplog.messages == ["an imported table, of Pixel 1: the net isn't measured here"]
