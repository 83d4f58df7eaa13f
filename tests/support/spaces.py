"""Spaces and tables for tests."""

from __future__ import annotations

import math

from tfnas.app import values
from tfnas.latency.table import Device, LatencyTable, Measurement
from tfnas.space.search_space import SearchSpace
from tfnas.space.spec import SpaceSpec


def load_spec(name: str = "tiny", classes: int = 10) -> SpaceSpec:
    """conf/space/<name>.yaml."""
    return values.load_space(name, classes)


def load_space(name: str = "tiny", classes: int = 10, quantum: int = 8) -> SearchSpace:
    return load_spec(name, classes).build(quantum)


def macs_table(space: SearchSpace, quantum: int = 8) -> LatencyTable:
    """A made-up table of the whole space: latency grows with multiply-accumulates."""
    device = Device("cpu", "made up", "none", "fp32", 1, 1, "made-up", {}, quantum)
    rows = {op: Measurement(0.002 + op.macs / 5e7, math.nan, 1) for op in space.ops()}
    return LatencyTable(device, rows)
