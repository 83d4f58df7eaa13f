"""A session without a GPU: memory and torch on the CPU, the wall clock. It proves the path to the
runtime and, with torch, the numbers; never a timing."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from types import SimpleNamespace
from typing import Any

import torch

from profilers.gpu.stream import Session
from profilers.onboard.conditions import Conditions
from profilers.onboard.rounds import Burst


class HostSession(Session):
    def __init__(self) -> None:
        self.torch = torch
        self.device = torch.device("cpu")
        self.stream = SimpleNamespace(cuda_stream=77, synchronize=lambda: None)
        self._pools = {}

    def on(self) -> AbstractContextManager[None]:
        return nullcontext()

    @property
    def holds_context(self) -> bool:
        return True

    def time(self, launch: Callable[[], Any], runs: int) -> Burst:
        launch()
        start = time.perf_counter()
        for _ in range(runs):
            launch()
        ms = 1e3 * (time.perf_counter() - start)
        return Burst(ms, ms)


class Quiet:
    """Stands for `nvml.GpuReader`."""

    def conditions(self, holds_context: bool) -> Conditions:
        return Conditions((("holds_context", float(holds_context)),))
