"""Everything that reads a clock or talks to a device.

A `Profiler` is one backend on one device. To add one: a file here with `Options` and `open_device`,
a YAML in conf/device/, a line in `BACKENDS`. It owns its clock and synchronizes by itself, so that
no caller can forget to; how samples become a latency is `profilers.timing`'s, one for all devices.

- what measuring means: `rounds` (samples beside a reference), `timing` (from samples to a latency),
  `usual`, `bench` (a device set up for measuring), `conditions`, `lock`
- what is measured: `plan`, `quantum`, `build` (the table), `card`, `closed_loop`, `verify`,
  `stages`
- devices here: `cpu` (`ort`, `linux`); `gpu` (`trt`, `cuda`, `stream`, `nvml`, `cache`)
- devices elsewhere: `remote` and `remote_rounds` over a `transport` (`ssh`, `adb`, `process`); what
  runs there: `runner` with `job`, `ort`, `ncnn_net`, or `measure.sh` with a program (`runners`,
  `programs`; models by `convert` and `tflite_file`)
"""

from __future__ import annotations

import hashlib
import importlib
import json
import logging
import random
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from types import MappingProxyType
from typing import Any

from omegaconf import OmegaConf

from profilers.conditions import Conditions, Watch
from profilers.lock import machine_lock
from profilers.rounds import Rounds, Sampler, Workload
from tfnas.config import (
    DeviceContext,
    check_choice,
    conf_path,
    shipped_tables_path,
    user_tables_path,
)
from tfnas.space import OpSpec
from tfnas.table import Device, LatencyTable
from tfnas.untrusted import shown

log = logging.getLogger(__name__)

# device kind -> module with `Options`, a dataclass of what conf/device/KIND.yaml holds, and
# `open_device(options, threads, batch, precision) -> Profiler`
BACKENDS = {
    "cpu": "profilers.cpu", "gpu": "profilers.gpu", "ssh": "profilers.ssh", "adb": "profilers.adb",
}  # fmt: skip


class Profiler(ABC):
    """One backend on one device.

    Attributes:
        device: the context of every figure it gives; its `quantum` is 1 until a table tells it.
        options: that `open_profiler` opened it with, `kind` among them.
    """

    device: Device
    options: Mapping[str, Any] = MappingProxyType({})

    @abstractmethod
    def workload(self, ops: Sequence[OpSpec]) -> Workload:
        """A model made of these ops, with weights that don't matter, ready to run."""

    @abstractmethod
    def model_workload(self, onnx_path: Path) -> Workload:
        """The model of an ONNX file. Raises ValueError if it can't be read or run here."""

    def conditions(self) -> Conditions:
        """What the device is doing now, where that can be read. Nothing on it is changed."""
        return Conditions()

    def exclusive(self, progress: Callable[[str], None]) -> AbstractContextManager[None]:
        """Holds what must be alone while it is measured: this machine, unless overridden."""
        return machine_lock(progress)

    def rounds(self, reference: Workload, rng: random.Random, now: Callable[[], float]) -> Sampler:
        """What takes samples beside this reference, which it then owns."""
        return Rounds(reference, rng, now, Watch(self.conditions))


def open_profiler(
    kind: str, *, threads: int = 1, batch: int = 1, precision: str = "fp32", **options: Any
) -> Profiler:
    """The profiler of a device, cheaply: nothing is measured yet.

    Args:
        options: on top of those of conf/device/`kind`.yaml.

    Raises:
        ValueError, LookupError: for a device, option or precision that can't be had from here.
        OSError: for one that can't be reached.
    """
    check_choice("device", kind, BACKENDS)
    for name, value in (("threads", threads), ("batch", batch)):
        if not 1 <= value <= 4096:
            raise ValueError(f"{name}={value}: expected a number from 1 to 4096")
    module = importlib.import_module(BACKENDS[kind])
    values = {**usual_options(kind), "kind": kind, **options}
    given = OmegaConf.merge(OmegaConf.structured(module.Options), values)
    profiler: Profiler = module.open_device(
        OmegaConf.to_object(given), threads=threads, batch=batch, precision=precision
    )
    profiler.options = values
    return profiler


def open_configured(config: DeviceContext) -> Profiler:
    """The profiler that an entry point's configuration tells of; see `open_profiler`."""
    options = {str(key): value for key, value in config.device.items()}
    kind = options.pop("kind", None)
    if not isinstance(kind, str) or options.keys() & {"threads", "batch", "precision"}:
        raise ValueError(
            f"device={shown(config.device)}: expected options of one of {', '.join(BACKENDS)}; "
            "threads, batch and precision stand beside it"
        )
    return open_profiler(
        kind, threads=config.threads, batch=config.batch, precision=config.precision, **options
    )


def usual_options(kind: str) -> Mapping[str, Any]:
    """Those of conf/device/`kind`.yaml."""
    values = OmegaConf.to_container(OmegaConf.load(conf_path() / "device" / f"{kind}.yaml"))
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}


def fingerprint(hardware: Mapping[str, object], context: Mapping[str, object]) -> str:
    """`hardware-context`, six digits each; the second tells contexts of one machine apart."""
    return f"{_digest(hardware)}-{_digest({'hardware': hardware, **context})}"


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:6]


def table_path(device: Device) -> Path:
    """The file of this device's own table; its name carries device, context and fingerprint."""
    return user_tables_path() / table_name(device)


def table_name(device: Device) -> str:
    name = re.sub(r"[^a-z0-9]+", "-", device.name.lower()).strip("-")
    return (
        f"{device.kind}-{name}-t{device.threads}-b{device.batch}-{device.precision}-"
        f"{device.fingerprint}.json"
    )


def find_table(device: Device) -> Path | None:
    """This device's own table: the user's, else a shipped one, else None.

    Raises:
        ValueError: if the file is unusable, or its name claims another fingerprint than its text.
    """
    folders = dict.fromkeys((user_tables_path(), shipped_tables_path()))
    for folder in folders:
        path = folder / table_name(device)
        if path.exists():
            check_own(LatencyTable.load(path).device, device, path)
            return path
    for path in (p for f in folders for p in f.glob(f"*-{hardware_of(device)}-*.json")):
        log.info("%s is this machine's in another context (runtime, threads): not used", path)
    return None


def same_machine(a: Device, b: Device) -> bool:
    """Whether both are one machine, whatever the runtime, threads, batch or precision."""
    return a.kind == b.kind and hardware_of(a) == hardware_of(b)


def hardware_of(device: Device) -> str:
    """The part of a fingerprint (`hardware-context`) that identifies the hardware."""
    return device.fingerprint.partition("-")[0]


def check_own(table: Device, device: Device, path: Path) -> None:
    """Refuse a table that is used as this device's own and isn't.

    Raises:
        ValueError: names what differs and the command that mends it.
    """
    if table.fingerprint == device.fingerprint:
        return
    pairs = [
        (name, getattr(table, name), getattr(device, name))
        for name in ("name", "backend", "precision", "batch", "threads", "versions")
    ]
    if hardware_of(table) != hardware_of(device):
        pairs.append(("hardware", hardware_of(table), hardware_of(device)))
    changed = "; ".join(f"{n}: {_plain(a)} there, {_plain(b)} here" for n, a, b in pairs if a != b)
    raise ValueError(
        f"table {path} carries the fingerprint {table.fingerprint} of another context, this "
        f"device has {device.fingerprint} ({changed or 'the context itself is the same'}); move "
        f"it away and measure anew with `python -m profilers device={device.kind} "
        f"threads={device.threads} batch={device.batch}` and the same options"
    )


def _plain(value: object) -> str:
    if isinstance(value, tuple):
        return ", ".join(" ".join(str(part) for part in pair) for pair in value)
    return str(value)
