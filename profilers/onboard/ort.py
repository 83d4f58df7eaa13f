"""ONNX Runtime on a CPU: IO binding, sequential execution, a fixed number of threads.

The clock is the thread's CPU time where one thread runs, so that a sample isn't charged for what
the scheduler gives to others; with several threads CPU time is their sum, so it is the wall clock.

Needs numpy and onnxruntime alone: the same file runs on this machine and on boards.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from functools import cache
from math import prod
from typing import Any

import numpy as np

from profilers.onboard.rounds import Burst

PROVIDER = "CPUExecutionProvider"
MAX_INPUT = 2**28  # values of a batch: 1 GiB
MEMORY = 0.75  # of this machine's: the most that ONNX Runtime gets


class OrtWorkload:
    """One ONNX model, loaded and bound to its input and output.

    Args:
        name: for messages.
        model: the content of an ONNX file.

    Raises:
        ValueError: if it can't be loaded, or isn't a net with one image input.
        LookupError: if onnxruntime isn't installed.
    """

    def __init__(self, name: str, model: bytes, *, threads: int, batch: int):
        ort = runtime()
        self.name = name
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
        options.log_severity_level = 3
        options.add_session_config_entry("session.use_env_allocators", "1")
        try:
            session = ort.InferenceSession(model, options, providers=[PROVIDER])
            binding = self._bind(ort, session, batch)
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
        self._clock = time.thread_time_ns if threads == 1 else time.perf_counter_ns

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
