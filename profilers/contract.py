"""What every backend on every device offers."""

from __future__ import annotations

import hashlib
import json
import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from profilers.models import op_model, read_model
from profilers.onboard.conditions import Conditions, Watch
from profilers.onboard.lock import machine_lock
from profilers.onboard.rounds import Rounds, Sampler, Workload
from tfnas.latency.table import Device
from tfnas.space.ops import OpSpec


class LinkError(OSError):
    """The link broke, or the device isn't there (any more); trying again later may help."""


class DeviceError(OSError):
    """The device can't do what it is asked, or its answer makes no sense."""


class Profiler(ABC):
    """One backend on one device.

    Attributes:
        device: the context of every figure it gives; its `quantum` is 1 until a table tells it.
        evidence: what `device.activations` were chosen by.
        options: that `open_profiler` opened it with, `kind` among them.
    """

    device: Device
    evidence: str = ""
    options: Mapping[str, Any] = MappingProxyType({})

    @abstractmethod
    def load(self, name: str, model: bytes) -> Workload:
        """An ONNX model, ready to run. Raises ValueError if it can't be run here.

        Args:
            name: for messages.
        """

    def workload(self, ops: Sequence[OpSpec]) -> Workload:
        """A model made of these ops, with weights that don't matter, ready to run."""
        model = op_model(ops, self.device.batch, self.device.activations)
        return self.load(" | ".join(map(str, ops)), model)

    def model_workload(self, onnx_path: Path) -> Workload:
        """The model of an ONNX file. Raises ValueError if it can't be read or run here."""
        return self.load(str(onnx_path), read_model(onnx_path))

    def conditions(self) -> Conditions:
        """What the device is doing now, where that can be read. Nothing on it is changed."""
        return Conditions()

    def exclusive(self, progress: Callable[[str], None]) -> AbstractContextManager[None]:
        """Holds what must be alone while it is measured: this machine, unless overridden."""
        return machine_lock(progress)

    def rounds(self, reference: Workload, rng: random.Random, now: Callable[[], float]) -> Sampler:
        """What takes samples beside this reference, which it then owns."""
        return Rounds(reference, rng, now, Watch(self.conditions))


def fingerprint(hardware: Mapping[str, object], context: Mapping[str, object]) -> str:
    """`hardware-context`, six digits each; the second tells contexts of one machine apart."""
    return f"{_digest(hardware)}-{_digest({'hardware': hardware, **context})}"


def int8_device(device: Device, activations: str) -> Device:
    """The same device where int8 models with these activations are measured."""
    hardware, _, context = device.fingerprint.partition("-")
    return replace(
        device,
        precision="int8",
        activations=activations,
        fingerprint=f"{hardware}-{_digest({'context': context, 'activations': activations})}",
    )


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:6]
