"""ONNX Runtime on a CPU: IO binding, sequential execution, a fixed number of threads.

Needs numpy and onnxruntime alone: the same file runs on this machine and on boards.
"""

from __future__ import annotations

import os
from functools import cache
from math import prod
from typing import Any

import numpy as np

from profilers.onboard.rounds import MAX_INPUT, CpuWorkload

PROVIDER = "CPUExecutionProvider"
TYPES = {
    "tensor(float)": "float32", "tensor(float16)": "float16", "tensor(double)": "float64",
    "tensor(int64)": "int64", "tensor(int32)": "int32", "tensor(int8)": "int8",
    "tensor(uint8)": "uint8", "tensor(bool)": "bool",
}  # fmt: skip
MEMORY = 0.75  # of this machine's: the most that ONNX Runtime gets


def ort_workload(name: str, model: bytes, *, threads: int, batch: int) -> CpuWorkload:
    """One ONNX model, loaded and bound to its input and output.

    Args:
        name: for messages.
        model: the content of an ONNX file.

    Raises:
        ValueError: if it can't be loaded, or its inputs have other sizes left open than the batch.
        LookupError: if onnxruntime isn't installed.
    """
    ort = runtime()
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = 3
    options.add_session_config_entry("session.use_env_allocators", "1")
    try:
        session = ort.InferenceSession(model, options, providers=[PROVIDER])
        binding = _bound(ort, session, name, batch)
        session.run_with_iobinding(binding)
    except ValueError:
        raise
    except Exception as error:  # ONNX Runtime's own exceptions share no base class
        raise ValueError(f"ONNX Runtime can't run {name}: {str(error)[:500]}") from None
    if session.get_providers() != [PROVIDER]:
        raise ValueError(f"{name} runs on {session.get_providers()} instead of {PROVIDER} alone")
    return CpuWorkload(name, session.run_with_iobinding, binding, threads=threads)


def _bound(ort: Any, session: Any, name: str, batch: int) -> Any:
    """A binding of a session to its inputs' values and to memory for its outputs."""
    binding = session.io_binding()
    rng = np.random.default_rng(0)
    for index, wanted in enumerate(session.get_inputs()):
        shape = list(wanted.shape)
        sizes = [batch if i == 0 and not isinstance(d, int) else d for i, d in enumerate(shape)]
        if not all(isinstance(d, int) and d > 0 for d in sizes) or not (shape or index):
            raise ValueError(f"{name} takes {shape}: expected sizes, only the batch left open")
        if index == 0 and sizes[0] != batch:
            raise ValueError(f"{name} is made for batch={sizes[0]}, asked was batch={batch}")
        if prod(sizes) > MAX_INPUT:
            raise ValueError(f"{name} takes {sizes}: {MAX_INPUT} are the most")
        if wanted.type not in TYPES:
            raise ValueError(
                f"{name} has the input {wanted.name} of {wanted.type}: expected one of "
                f"{', '.join(TYPES)}"
            )
        kind = np.dtype(TYPES[wanted.type])
        # Noise where numbers are real; zeros elsewhere, as any token or index that there may be.
        x = rng.standard_normal(sizes, np.float32) if kind.kind == "f" else np.zeros(sizes)
        binding.bind_ortvalue_input(
            wanted.name, ort.OrtValue.ortvalue_from_numpy(np.asarray(x, kind))
        )
    for output in session.get_outputs():
        binding.bind_output(output.name)
    return binding


@cache
def runtime() -> Any:
    """ONNX Runtime, with one memory arena for all sessions: hundreds of arenas would take GBs.

    Raises:
        LookupError: if it isn't installed.
    """
    # Before it is loaded, or it notes an id of the machine in the user's cache and reports.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    try:
        import onnxruntime as ort
    except ImportError as error:
        raise LookupError(f"onnxruntime is needed: pip install onnxruntime ({error})") from None
    memory = ort.OrtMemoryInfo(
        "Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT
    )
    most = int(MEMORY * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    ort.create_and_register_allocator(memory, ort.OrtArenaCfg(most, 1, -1, -1))
    return ort
