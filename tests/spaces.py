"""Spaces and tables for tests, composed from conf/ the way the entry points do."""

from __future__ import annotations

import math

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from tfnas.config import conf_path
from tfnas.space import SearchSpace, SpaceSpec
from tfnas.table import Device, LatencyTable, Measurement


def load_spec(name: str = "tiny", classes: int = 10) -> SpaceSpec:
    """conf/space/<name>.yaml."""
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(conf_path()), version_base="1.3"):
        composed = compose(overrides=[f"+space={name}", f"space.classes={classes}"])
    spec = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(SpaceSpec), composed.space))
    assert isinstance(spec, SpaceSpec)
    return spec


def load_space(name: str = "tiny", classes: int = 10, quantum: int = 8) -> SearchSpace:
    return load_spec(name, classes).build(quantum)


def macs_table(space: SearchSpace, quantum: int = 8) -> LatencyTable:
    """A made-up table of the whole space: latency grows with multiply-accumulates."""
    device = Device("cpu", "made up", "none", "fp32", 1, 1, "made-up", (), quantum)
    rows = {op: Measurement(0.002 + op.macs / 5e7, math.nan, 1) for op in space.ops()}
    return LatencyTable(device, rows)
