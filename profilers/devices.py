"""Devices by name: the backends, and how one is opened."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from omegaconf import OmegaConf

from profilers.contract import Profiler
from profilers.measure.activations import AUTO, INT8, check_activations, choose_activations
from profilers.onboard.lock import check_lockable
from tfnas.app.values import conf_path
from tfnas.process.checks import check_choice

# device kind -> module with `Options`, a dataclass of what conf/device/KIND.yaml holds, and
# `open_device(options, threads, batch, precision) -> Profiler`
BACKENDS = {
    "cpu": "profilers.cpu", "gpu": "profilers.gpu.device", "ssh": "profilers.remote.ssh", "adb":
    "profilers.remote.adb",
}  # fmt: skip


def open_profiler(
    kind: str, *, threads: int = 1, batch: int = 1, precision: str = "fp32", **options: Any
) -> Profiler:
    """The profiler of a device, cheaply: nothing is measured yet, but which activations are faster
    where int8 is asked for.

    Args:
        options: on top of those of conf/device/`kind`.yaml.

    Raises:
        ValueError, LookupError: for a device, option or precision that can't be had from here.
        OSError: for one that can't be reached, and on a system that can't measure.
    """
    check_choice("device", kind, BACKENDS)
    check_lockable()
    for name, value in (("threads", threads), ("batch", batch)):
        if not 1 <= value <= 4096:
            raise ValueError(f"{name}={value}: expected a number from 1 to 4096")
    module = importlib.import_module(BACKENDS[kind])
    values = {**usual_options(kind), "kind": kind, **options}
    given = OmegaConf.merge(OmegaConf.structured(module.Options), values)
    activations = str(values.get("activations", AUTO))
    check_activations(activations, precision)
    profiler: Profiler = module.open_device(
        OmegaConf.to_object(given), threads=threads, batch=batch, precision=precision
    )
    profiler.options = values
    if precision == INT8:
        choose_activations(profiler, activations)
        # What was chosen stands for `auto`: whoever opens it likewise gets the same device.
        profiler.options = {**values, "activations": profiler.device.activations}
    return profiler


def usual_options(kind: str) -> Mapping[str, Any]:
    """Those of conf/device/`kind`.yaml."""
    values = OmegaConf.to_container(OmegaConf.load(conf_path() / "device" / f"{kind}.yaml"))
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}
