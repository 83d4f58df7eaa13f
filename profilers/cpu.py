"""CPUs through ONNX Runtime; `profilers.onboard.ort` tells how it is run and what the clock is."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from profilers.contract import Profiler, fingerprint
from profilers.onboard.conditions import Conditions
from profilers.onboard.linux import own_conditions, own_cores, own_hardware, readable
from profilers.onboard.ort import ort_workload, runtime
from profilers.onboard.rounds import CpuWorkload
from tfnas.latency.table import Device
from tfnas.process.checks import check_choice

PRECISIONS = ("fp32", "int8")


@dataclass
class Options:
    """conf/device/cpu.yaml"""

    kind: str
    backend: str  # auto | onnxruntime
    activations: str  # auto | uint8 | int8: of int8 models; auto: the faster ones


def open_device(options: Options, *, threads: int, batch: int, precision: str) -> CpuProfiler:
    check_choice("backend", options.backend, ("auto", "onnxruntime"))
    check_choice("precision of device=cpu", precision, PRECISIONS)
    cores = len(own_cores())
    if threads > cores:
        raise ValueError(f"threads={threads}: this process may use {cores} cores")
    return CpuProfiler(threads, batch)


class CpuProfiler(Profiler):
    """See the module's docstring."""

    def __init__(self, threads: int, batch: int):
        self.device = describe(threads, batch, str(runtime().__version__))

    def load(self, name: str, model: bytes) -> CpuWorkload:
        return ort_workload(name, model, threads=self.device.threads, batch=self.device.batch)

    def conditions(self) -> Conditions:
        return own_conditions()


def describe(threads: int, batch: int, runtime: str) -> Device:
    """This machine's CPU."""
    hardware = _hardware()
    context = {"runtime": runtime, "threads": threads, "batch": batch, "precision": "fp32"}
    return Device(
        kind="cpu",
        name=readable(str(hardware["model"])),
        backend="onnxruntime",
        precision="fp32",
        batch=batch,
        threads=threads,
        fingerprint=fingerprint(hardware, context),
        versions={"onnxruntime": runtime},
    )


@cache
def _hardware() -> dict[str, object]:
    return own_hardware()
