"""NVIDIA GPUs: by TensorRT, TensorRT-RTX or torch, whichever is installed and knows the GPU.

Latency is that of the net alone on a CUDA stream, by the device's events: copies from and to the
host are excluded. Nothing on the GPU is set: clocks, power limit and MIG are recorded as they are.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from profilers.contract import fingerprint
from profilers.gpu import trt
from profilers.gpu.nvml import Gpu, GpuReader, open_nvml
from profilers.gpu.stream import GpuProfiler, Session
from tfnas.latency.table import Device
from tfnas.process.checks import check_choice

log = logging.getLogger(__name__)

BACKENDS = ("tensorrt", "tensorrt_rtx", "cuda")  # in the order that `auto` tries them
PRECISIONS = ("fp32", "tf32", "fp16")
TF32_FROM = (8, 0)  # compute capability
INSTALL = {
    "tensorrt": "pip install 'tfnas[tensorrt]'",
    "tensorrt_rtx": "pip install 'tfnas[tensorrt-rtx]'",
}


@dataclass
class Options:
    """device=gpu (conf/device/gpu.yaml)"""

    kind: str
    backend: str  # auto | tensorrt | tensorrt_rtx | cuda
    index: int  # which GPU, as CUDA counts them
    graph: bool  # launch nets as CUDA graphs
    compile: bool  # backend=cuda: by torch.compile, which takes long


def open_device(options: Options, *, threads: int, batch: int, precision: str) -> GpuProfiler:
    """The profiler of a GPU: nothing is built or measured yet.

    Raises:
        ValueError: for options that don't fit together or this GPU.
        LookupError: without a driver, a GPU or a package that was asked for.
    """
    check_options(options, threads, precision)
    nvml = open_nvml()
    import torch

    if not torch.cuda.is_available():
        raise LookupError(
            f"device=gpu: torch {torch.__version__} finds no GPU, expected a build with CUDA that "
            "fits the driver: install torch with CUDA, or give device=cpu"
        )
    if options.index >= torch.cuda.device_count():
        raise LookupError(
            f"device.index={options.index}: torch finds {torch.cuda.device_count()} GPUs, counted "
            "from 0"
        )
    properties = torch.cuda.get_device_properties(options.index)
    capability = (properties.major, properties.minor)
    reader = GpuReader(nvml, str(properties.uuid))
    if precision == "tf32" and capability < TF32_FROM:
        raise ValueError(
            f"precision=tf32: {reader.gpu.name} has compute capability {_dotted(capability)}, TF32 "
            f"comes with {_dotted(TF32_FROM)}; give precision=fp32 or fp16"
        )
    backend, module = choose(options.backend, capability, precision, reader.gpu.name)
    check_compile(options, backend)
    version = str(torch.__version__ if module is None else module.__version__)
    device = describe(
        options, reader.gpu, capability, backend, version, str(torch.version.cuda),
        batch=batch, precision=precision,
    )  # fmt: skip
    session = Session(torch, options.index)
    if module is not None:
        return trt.TrtProfiler(
            module, device, session, reader, capability=capability, graph=options.graph
        )
    from profilers.gpu import cuda

    return cuda.CudaProfiler(device, session, reader, graph=options.graph, compile=options.compile)


def check_options(options: Options, threads: int, precision: str) -> None:
    """What can be known without a GPU. Raises ValueError."""
    check_choice("device.backend", options.backend, ("auto", *BACKENDS))
    check_choice("precision of device=gpu", precision, PRECISIONS)
    if threads != 1:
        raise ValueError(
            f"threads={threads}: a GPU's threads aren't chosen, expected threads=1 with device=gpu"
        )
    if options.index < 0:
        raise ValueError(f"device.index={options.index}: expected 0 or more")
    if options.backend != "auto":
        check_compile(options, options.backend)


def check_compile(options: Options, backend: str) -> None:
    if options.compile and backend != "cuda":
        raise ValueError(
            f"device.compile=true is torch.compile, and the backend is {backend}: give "
            "device.backend=cuda as well, or device.compile=false"
        )


def choose(
    backend: str,
    capability: tuple[int, int],
    precision: str,
    gpu: str,
    load: Callable[[str], Any] = trt.load,
) -> tuple[str, Any]:
    """The backend that was asked for, or with `auto` the first that is installed and fits the GPU;
    and its module, None for torch.

    Args:
        gpu: its name, for messages.
        load: gives a backend's module or None.

    Raises:
        LookupError: if the one that was asked for isn't installed.
        ValueError: if it isn't made for the GPU.
    """
    if backend == "cuda":
        return "cuda", None
    if backend != "auto":
        module = load(backend)
        if module is None:
            raise LookupError(
                f"device.backend={backend}: it isn't installed here, or can't be loaded; "
                f"{INSTALL[backend]}, or give device.backend=cuda"
            )
        if not trt.supports(module, capability, precision):
            raise ValueError(
                f"device.backend={backend}: version {module.__version__} isn't made for {gpu} "
                f"(compute capability {_dotted(capability)}) and precision={precision}; give "
                "device.backend=auto or cuda"
            )
        return backend, module
    for name in trt.MODULES:
        module = load(name)
        if module is not None and trt.supports(module, capability, precision):
            return name, module
        log.debug("%s is %s", name, "not installed" if module is None else f"not for {gpu}")
    return "cuda", None


def describe(
    options: Options,
    gpu: Gpu,
    capability: tuple[int, int],
    backend: str,
    version: str,
    cuda: str,
    *,
    batch: int,
    precision: str,
) -> Device:
    """A GPU as a device, with a fingerprint `hardware-context`. Two GPUs of one make are one.

    Args:
        version: of the backend's runtime.
        cuda: version that torch was built for.
    """
    hardware = {
        "name": gpu.name, "capability": _dotted(capability), "memory_mib": gpu.memory_mib,
        "mig": gpu.mig, "power_limit_w": gpu.power_limit_w,
    }  # fmt: skip
    runtime = "torch" if backend == "cuda" else backend
    versions = ((runtime, version), ("cuda", cuda), ("driver", gpu.driver))
    context = {
        "versions": versions, "batch": batch, "precision": precision,
        "graph": options.graph, "compile": options.compile,
    }  # fmt: skip
    ways = [name for name in ("compile", "graph") if asdict(options)[name]]
    return Device(
        kind="gpu",
        name=" ".join(gpu.name.split()),
        backend="+".join([backend, *ways]),
        precision=precision,
        batch=batch,
        threads=1,
        fingerprint=fingerprint(hardware, context),
        versions=dict(versions),
    )


def _dotted(capability: tuple[int, int]) -> str:
    return f"{capability[0]}.{capability[1]}"
