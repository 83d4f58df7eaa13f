"""ncnn on a CPU: the input bound once, the output taken in every run, float32 throughout.

Needs numpy and ncnn alone: it runs on boards.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np

from profilers.onboard.rounds import MAX_INPUT, CpuWorkload

INPUT, OUTPUT = "in0", "out0"  # the blobs' names as pnnx gives them
# On by default, and on Arm they turn a float32 net into a float16 one.
REDUCED = (
    "use_fp16_packed", "use_fp16_storage", "use_fp16_arithmetic",
    "use_bf16_packed", "use_bf16_storage",
)  # fmt: skip


def ncnn_workload(name: str, param: Path, weights: Path, *, threads: int) -> CpuWorkload:
    """One net, loaded, and an image for it.

    Args:
        name: for messages.
        param, weights: files as `profilers.remote.convert` writes them.

    Raises:
        ValueError: if it can't be loaded or run.
        LookupError: if ncnn isn't installed.
    """
    try:
        import ncnn
    except ImportError as error:
        raise LookupError(f"ncnn is needed: pip install ncnn ({error})") from None
    width, height, channels = input_shape(param.read_text(encoding="utf-8"))
    net = ncnn.Net()
    net.opt.num_threads = threads
    net.opt.use_vulkan_compute = False
    for option in REDUCED:
        if hasattr(net.opt, option):  # older releases have fewer
            setattr(net.opt, option, False)
    if net.load_param(str(param)) or net.load_model(str(weights)):
        raise ValueError(f"ncnn can't load {name}")
    values = np.random.default_rng(0).standard_normal((channels, height, width), dtype=np.float32)
    image = ncnn.Mat(values).clone()  # its own, aligned copy

    def run(image: Any) -> Any:
        extractor = net.create_extractor()
        extractor.input(INPUT, image)
        return extractor.extract(OUTPUT)

    status, _ = run(image)
    if status:
        raise ValueError(f"ncnn can't run {name} (status {status})")
    return CpuWorkload(name, run, image, threads=threads)


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
