"""CPUs through ONNX Runtime; `profilers.onboard.ort` tells how it is run and what the clock is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from profilers.contract import Profiler, fingerprint
from profilers.onboard.conditions import Conditions
from profilers.onboard.linux import own_conditions, own_cores, own_hardware, readable
from profilers.onboard.ort import OrtWorkload, runtime
from tfnas.files.bounded import read_bytes, shown
from tfnas.latency.table import Device
from tfnas.process.checks import check_choice
from tfnas.space.ops import OpSpec

MAX_ONNX_BYTES = 1_500_000_000  # what protobuf can hold is 2 GiB


@dataclass
class Options:
    """conf/device/cpu.yaml"""

    kind: str
    backend: str  # auto | onnxruntime


def open_device(options: Options, *, threads: int, batch: int, precision: str) -> CpuProfiler:
    check_choice("backend", options.backend, ("auto", "onnxruntime"))
    check_choice("precision of device=cpu", precision, ("fp32",))
    cores = len(own_cores())
    if threads > cores:
        raise ValueError(f"threads={threads}: this process may use {cores} cores")
    return CpuProfiler(threads, batch)


class CpuProfiler(Profiler):
    """See the module's docstring."""

    def __init__(self, threads: int, batch: int):
        self.device = describe(threads, batch, str(runtime().__version__))

    def workload(self, ops: Sequence[OpSpec]) -> OrtWorkload:
        model = op_model(ops, self.device.batch)
        return self._load(" | ".join(map(str, ops)), model)

    def model_workload(self, onnx_path: Path) -> OrtWorkload:
        return self._load(str(onnx_path), read_model(onnx_path))

    def conditions(self) -> Conditions:
        return own_conditions()

    def _load(self, name: str, model: bytes) -> OrtWorkload:
        return OrtWorkload(name, model, threads=self.device.threads, batch=self.device.batch)


def op_model(ops: Sequence[OpSpec], batch: int) -> bytes:
    """An ONNX file of a row of ops, with weights that don't matter."""
    from tfnas.deploy.onnx_graph import build_model, random_weights

    weights = random_weights(ops, np.random.default_rng(0))
    return build_model(ops, weights, batch).SerializeToString()


def read_model(path: Path) -> bytes:
    """An ONNX file that is complete in itself and ends.

    Raises:
        ValueError: if it can't be read, points to other files or branches or loops.
    """
    import onnx

    try:
        content = read_bytes(path, MAX_ONNX_BYTES)
    except FileNotFoundError:
        raise ValueError(f"onnx={path}: no such file") from None
    except (OSError, ValueError) as error:
        raise ValueError(f"onnx={path}: {error}") from None
    try:
        model = onnx.load_model_from_string(content)
    except Exception as error:  # protobuf's own
        raise ValueError(f"ONNX Runtime can't run {path}: it is no ONNX model ({error})") from None
    tensors = list(model.graph.initializer)
    for sparse in model.graph.sparse_initializer:
        tensors += [sparse.values, sparse.indices]
    for node in [*model.graph.node, *(node for f in model.functions for node in f.node)]:
        for attribute in node.attribute:
            if attribute.HasField("g") or attribute.graphs:
                raise ValueError(
                    f"onnx={path}: {shown(node.op_type)} branches or loops; expected layers only"
                )
            tensors += [attribute.t, *attribute.tensors]
            for sparse in (attribute.sparse_tensor, *attribute.sparse_tensors):
                tensors += [sparse.values, sparse.indices]
    if any(t.external_data or t.data_location == onnx.TensorProto.EXTERNAL for t in tensors):
        raise ValueError(
            f"onnx={path} keeps weights in other files: expected one file; save it with "
            "onnx.save_model(model, FILE, save_as_external_data=False)"
        )
    return content


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
