"""CPUs through ONNX Runtime: IO binding, sequential execution, a fixed number of threads.

The clock is the thread's CPU time where one thread runs, so that a sample isn't charged for what
the scheduler gives to others; with several threads CPU time is their sum, so it is the wall clock.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import time
from collections.abc import Callable, Sequence
from functools import cache
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from profilers.timing import Burst
from tfnas.config import check_choice
from tfnas.space import OpSpec
from tfnas.table import Device
from tfnas.untrusted import read_bytes, shown

PROVIDER = "CPUExecutionProvider"
MAX_ONNX_BYTES = 1_500_000_000  # what protobuf can hold is 2 GiB
MAX_INPUT = 2**28  # values of a batch: 1 GiB
MEMORY = 0.75  # of this machine's: the most that ONNX Runtime gets
# Instruction sets that ONNX Runtime's kernels choose by; others don't move the figures.
FLAGS = (
    "sse4_1", "avx", "avx2", "fma", "avx_vnni", "avx512f", "avx512bw", "avx512dq", "avx512vl",
    "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_tile", "amx_bf16", "amx_int8",
    "asimd", "asimdhp", "asimddp", "fphp", "sve", "sve2", "i8mm", "bf16",
)  # fmt: skip


def open_device(*, backend: str, threads: int, batch: int, precision: str) -> CpuProfiler:
    check_choice("backend", backend, ("auto", "onnxruntime"))
    check_choice("precision of device=cpu", precision, ("fp32",))
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    if threads > (cores or 1):
        raise ValueError(f"threads={threads}: this process may use {cores} cores")
    return CpuProfiler(threads, batch)


class CpuProfiler:
    """See the module's docstring."""

    def __init__(self, threads: int, batch: int):
        ort = _runtime()
        self.device = describe(threads, batch, str(ort.__version__))

    def workload(self, ops: Sequence[OpSpec]) -> CpuWorkload:
        from tfnas.onnx_graph import build_model, random_weights

        weights = random_weights(ops, np.random.default_rng(0))
        model = build_model(ops, weights, self.device.batch).SerializeToString()
        return CpuWorkload(" | ".join(map(str, ops)), model, self.device)

    def model_workload(self, onnx_path: Path) -> CpuWorkload:
        return CpuWorkload(str(onnx_path), read_model(onnx_path), self.device)


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


class CpuWorkload:
    """One ONNX model, loaded and bound to its input and output.

    Raises:
        ValueError: if it can't be loaded, or isn't a net with one image input.
    """

    def __init__(self, name: str, model: bytes, device: Device):
        ort = _runtime()
        self.name = name
        options = ort.SessionOptions()
        options.intra_op_num_threads = device.threads
        options.inter_op_num_threads = 1
        options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
        options.log_severity_level = 3
        options.add_session_config_entry("session.use_env_allocators", "1")
        try:
            session = ort.InferenceSession(model, options, providers=[PROVIDER])
            binding = self._bind(ort, session, device.batch)
            session.run_with_iobinding(binding)
        except ValueError:
            raise
        except Exception as error:  # ONNX Runtime's own exceptions share no base class
            raise ValueError(f"ONNX Runtime can't run {name}: {str(error)[:500]}") from None
        if session.get_providers() != [PROVIDER]:
            raise ValueError(
                f"{name} runs on {session.get_providers()} instead of {PROVIDER} alone"
            )
        self._run: Callable[[Any], None] = session.run_with_iobinding
        self._binding = binding
        self._clock = time.thread_time_ns if device.threads == 1 else time.perf_counter_ns

    def _bind(self, ort: Any, session: Any, batch: int) -> Any:
        inputs, outputs = session.get_inputs(), session.get_outputs()
        if len(inputs) != 1 or inputs[0].type != "tensor(float)":
            found = ", ".join(f"{i.name} {i.type}" for i in inputs)
            raise ValueError(f"{self.name} has the inputs {found}: expected one of tensor(float)")
        shape = list(inputs[0].shape)
        if not shape or not all(isinstance(d, int) and d > 0 for d in shape[1:]):
            raise ValueError(f"{self.name} takes {shape}: expected sizes, only the batch left open")
        if isinstance(shape[0], int) and shape[0] != batch:
            raise ValueError(f"{self.name} is made for batch={shape[0]}, asked was batch={batch}")
        if batch * prod(shape[1:]) > MAX_INPUT:
            raise ValueError(f"{self.name} takes {[batch, *shape[1:]]}: {MAX_INPUT} are the most")
        x = np.random.default_rng(0).standard_normal([batch, *shape[1:]], dtype=np.float32)
        binding = session.io_binding()
        binding.bind_ortvalue_input(inputs[0].name, ort.OrtValue.ortvalue_from_numpy(x))
        for output in outputs:
            binding.bind_output(output.name)
        return binding

    def burst(self, runs: int) -> Burst:
        run, binding, clock = self._run, self._binding, self._clock
        run(binding)
        wall, start = time.perf_counter_ns(), clock()
        for _ in range(runs):
            run(binding)
        return Burst((clock() - start) / 1e6, (time.perf_counter_ns() - wall) / 1e6)

    def close(self) -> None:
        """Free the session."""
        self._run = _closed
        self._binding = None


def _closed(_: object) -> None:
    raise RuntimeError("this workload was closed")


@cache
def _runtime() -> Any:
    """ONNX Runtime, with one memory arena for all sessions: hundreds of arenas would take GBs."""
    try:
        import onnxruntime as ort
    except ImportError as error:
        raise LookupError(
            f"device=cpu needs onnxruntime: pip install onnxruntime ({error})"
        ) from None
    memory = ort.OrtMemoryInfo(
        "Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT
    )
    most = int(MEMORY * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    ort.create_and_register_allocator(memory, ort.OrtArenaCfg(most, 1, -1, -1))
    return ort


def describe(threads: int, batch: int, runtime: str) -> Device:
    """This machine's CPU, with a fingerprint `hardware-context`."""
    hardware = _hardware()
    context = {
        "hardware": hardware, "runtime": runtime, "threads": threads,
        "batch": batch, "precision": "fp32",
    }  # fmt: skip
    return Device(
        kind="cpu",
        name=_readable(str(hardware["model"])),
        backend="onnxruntime",
        precision="fp32",
        batch=batch,
        threads=threads,
        fingerprint=f"{_digest(hardware)}-{_digest(context)}",
        versions=(("onnxruntime", runtime),),
    )


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:6]


@cache
def _hardware() -> dict[str, object]:
    """What identifies a CPU for its latencies: model, instruction sets, cores of the machine."""
    info: dict[str, str] = {}
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        text = ""
    for line in text.partition("\n\n")[0].splitlines():
        key, _, value = line.partition(":")
        info[key.strip()] = value.strip()
    flags = set((info.get("flags") or info.get("Features") or "").split())
    # Arm has no model name there, but numbers of implementer and part.
    ids = ("vendor_id", "cpu family", "model", "CPU implementer", "CPU part", "CPU variant")
    model = info.get("model name") or platform.processor() or platform.machine()
    return {
        "model": model,
        "ids": [info.get(key, "") for key in ids],
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "flags": [flag for flag in FLAGS if flag in flags],
    }


def _readable(model: str) -> str:
    for noise in ("(R)", "(TM)", "(r)", "(tm)", "CPU", "Processor"):
        model = model.replace(noise, " ")
    return " ".join(model.partition("@")[0].split()) or "cpu"
