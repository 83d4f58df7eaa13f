"""ncnn on a CPU: the input bound once, the output taken in every run, float32 throughout.

The clock is the thread's CPU time where one thread runs, as in `profilers.onboard.ort`.

Needs numpy and ncnn alone: it runs on boards.
"""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

import numpy as np

from profilers.onboard.rounds import Burst

INPUT, OUTPUT = "in0", "out0"  # the blobs' names as pnnx gives them
MAX_INPUT = 2**28  # values: 1 GiB
# On by default, and on Arm they turn a float32 net into a float16 one.
REDUCED = (
    "use_fp16_packed", "use_fp16_storage", "use_fp16_arithmetic",
    "use_bf16_packed", "use_bf16_storage",
)  # fmt: skip


class NcnnWorkload:
    """One net, loaded, and an image for it.

    Args:
        name: for messages.
        param, weights: files as `profilers.remote.convert` writes them.

    Raises:
        ValueError: if it can't be loaded or run.
        LookupError: if ncnn isn't installed.
    """

    def __init__(self, name: str, param: Path, weights: Path, *, threads: int):
        try:
            import ncnn
        except ImportError as error:
            raise LookupError(f"ncnn is needed: pip install ncnn ({error})") from None
        self.name = name
        width, height, channels = input_shape(param.read_text())
        net = ncnn.Net()
        net.opt.num_threads = threads
        net.opt.use_vulkan_compute = False
        for option in REDUCED:
            if hasattr(net.opt, option):  # older releases have fewer
                setattr(net.opt, option, False)
        if net.load_param(str(param)) or net.load_model(str(weights)):
            raise ValueError(f"ncnn can't load {name}")
        values = np.random.default_rng(0).standard_normal(
            (channels, height, width), dtype=np.float32
        )
        self._input = ncnn.Mat(values).clone()  # its own, aligned copy
        self._net: Any = net
        self._clock = time.thread_time_ns if threads == 1 else time.perf_counter_ns
        status, _ = self._run(net, self._input)
        if status:
            raise ValueError(f"ncnn can't run {name} (status {status})")

    @staticmethod
    def _run(net: Any, image: Any) -> Any:
        extractor = net.create_extractor()
        extractor.input(INPUT, image)
        return extractor.extract(OUTPUT)

    def burst(self, runs: int) -> Burst:
        if self._net is None:
            raise RuntimeError("this workload was closed")
        run, net, image, clock = self._run, self._net, self._input, self._clock
        run(net, image)
        wall, start = time.perf_counter_ns(), clock()
        for _ in range(runs):
            run(net, image)
        return Burst((clock() - start) / 1e6, (time.perf_counter_ns() - wall) / 1e6)

    def close(self) -> None:
        """Free the net."""
        self._net = self._input = None


def input_shape(param: str) -> tuple[int, int, int]:
    """Width, height and channels that a .param file of `profilers.remote.convert` tells.

    Raises:
        ValueError: for any other.
    """
    pattern = rf"Input +{INPUT} +0 1 {INPUT} 0=([0-9]{{1,6}}) 1=([0-9]{{1,6}}) 2=([0-9]{{1,6}})"
    found = re.search(rf"^{pattern}$", param, re.MULTILINE)
    if found is None:
        raise ValueError(f"a .param file that doesn't tell the shape of {INPUT}")
    width, height, channels = (int(size) for size in found.groups())
    if not 0 < width * height * channels <= MAX_INPUT:
        raise ValueError(f"an input of {width}x{height}x{channels}: {MAX_INPUT} are the most")
    return width, height, channels
