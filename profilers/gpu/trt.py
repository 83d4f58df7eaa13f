"""TensorRT and TensorRT-RTX: two modules with one API, from 8.6 to 11 and from 1.2 to 1.7.

All that differs between them is here. Engines are built from the same ONNX as everywhere. Networks
are strongly typed (their types are the model's) but for 8.6, which only knows weak typing. What a
build learns is kept on disk: TensorRT's timing cache, and TensorRT-RTX's runtime cache, since there
kernels are compiled when an engine is loaded and a timing cache does nothing but ask for a GPU.
"""

from __future__ import annotations

import importlib
import logging
import time
from collections import deque
from typing import Any

from profilers.cache import CacheFile
from profilers.gpu.nvml import GpuReader
from profilers.gpu.stream import GpuProfiler, Session, StreamWorkload
from profilers.models import image_model, onnx_model
from tfnas.latency.table import Device

log = logging.getLogger(__name__)

MODULES = ("tensorrt", "tensorrt_rtx")  # named as their backends
WORKSPACE_BYTES = 1 << 30  # that a kernel may take beyond activations, on GPUs of any size
SAVE_SECONDS = 30.0  # at most so much of what builds learned is lost by a kill
ERRORS_KEPT = 3
TURING = (7, 5)
# What TensorRT was compiled for: (from version, lowest, highest compute capability or None for all
# later ones).
COMPILED_FOR: tuple[tuple[tuple[int, int], tuple[int, int], tuple[int, int] | None], ...] = (
    ((8, 0), (5, 0), (9, 0)),
    ((10, 0), (7, 0), (9, 0)),
    ((10, 5), (7, 5), (9, 0)),
    ((10, 8), (7, 5), None),
)


def load(backend: str) -> Any:
    """The module of a backend; None where it isn't installed, or its libraries aren't."""
    try:
        return importlib.import_module(backend)
    except (ImportError, OSError) as error:
        log.debug("%s can't be loaded: %s", backend, error)
        return None


def supports(trt: Any, capability: tuple[int, int], precision: str) -> bool:
    """Whether this version of the runtime was made for GPUs of a compute capability."""
    if hasattr(trt, "ComputeCapability"):  # TensorRT-RTX, which tells by itself
        # On Turing it has no float32 matrix product, so no classifier could be built.
        fits = capability != TURING or precision == "fp16"
        return fits and hasattr(trt.ComputeCapability, _sm(capability))
    version = _version(trt)
    fitting = [row for row in COMPILED_FOR if row[0] <= version]
    if not fitting:
        return False
    _, low, high = fitting[-1]
    return low <= capability and (high is None or capability <= high)


def _sm(capability: tuple[int, int]) -> str:
    return f"SM{capability[0]}{capability[1]}"


def _version(trt: Any) -> tuple[int, int]:
    major, minor = str(trt.__version__).split(".")[:2]
    return int(major), int(minor)


class EngineBuilder:
    """Builds engines. Needs no GPU with TensorRT-RTX.

    Args:
        trt: the module.
        capability: of the GPU to build for; None leaves it to the module.
        graph: runs will be captured into CUDA graphs.
        timing_cache: of earlier builds on the same GPU by the same version.

    Attributes:
        timing_cache: with what was learned since; empty where the module has a runtime cache.
    """

    def __init__(
        self,
        trt: Any,
        *,
        precision: str,
        capability: tuple[int, int] | None = None,
        graph: bool = False,
        timing_cache: bytes = b"",
    ):
        self.trt = trt
        self.precision = precision
        self.capability = capability
        self.graph = graph
        self.timing_cache = timing_cache
        self.logger, self._errors = _logger(trt)
        self._builder: Any = None

    def build(self, model: bytes, name: str = "the model") -> bytes:
        """An engine, serialized.

        Raises:
            ValueError: if the model can't be parsed or no engine be built, with the reasons.
        """
        trt = self.trt
        self._errors.clear()
        if self._builder is None:  # loads all kernels of TensorRT: seconds, and once
            self._builder = trt.Builder(self.logger)
        network = self._builder.create_network(_creation_flags(trt))
        parser = trt.OnnxParser(network, self.logger)
        if not parser.parse(model):
            errors = "; ".join(_line(parser.get_error(i)) for i in range(parser.num_errors))
            raise ValueError(f"{trt.__name__} can't read {name}: {errors[:500] or self.why()}")
        config = self._config()
        cache = self._timing_cache(config)
        engine = self._builder.build_serialized_network(network, config)
        if engine is None:
            raise ValueError(f"{trt.__name__} {trt.__version__} can't build {name}: {self.why()}")
        if cache is not None:
            self.timing_cache = bytes(config.get_timing_cache().serialize())
        return bytes(engine)

    def why(self) -> str:
        """The last errors that the runtime logged."""
        return " ".join("; ".join(self._errors).split())[:500] or "it gave no reason"

    def _config(self) -> Any:
        trt = self.trt
        config = self._builder.create_builder_config()
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, WORKSPACE_BYTES)
        # On by default, so that fp32 must ask for the full 24 bits.
        if self.precision == "tf32":
            config.set_flag(trt.BuilderFlag.TF32)
        else:
            config.clear_flag(trt.BuilderFlag.TF32)
        if self.precision == "fp16" and _is_weakly_typed(trt):
            config.set_flag(trt.BuilderFlag.FP16)
        if self.capability is not None and hasattr(trt, "ComputeCapability"):
            config.num_compute_capabilities = 1
            config.set_compute_capability(
                getattr(trt.ComputeCapability, _sm(self.capability)), 0
            )  # else it builds for several GPUs at once, Turing not among them
        if self.graph and hasattr(trt.BuilderFlag, "REQUIRE_USER_ALLOCATION"):
            config.set_flag(trt.BuilderFlag.REQUIRE_USER_ALLOCATION)
        return config

    def _timing_cache(self, config: Any) -> Any:
        if has_runtime_cache(self.trt):
            return None
        cache = config.create_timing_cache(self.timing_cache)
        if cache is None or not config.set_timing_cache(cache, False):
            if self.timing_cache:
                log.warning("warning: %s refuses the timing cache; a new one is begun",
                            self.trt.__name__)  # fmt: skip
            cache = config.create_timing_cache(b"")
            config.set_timing_cache(cache, False)
        return cache


def _line(error: Any) -> str:
    """A parser's error in a line; from 10 on it knows where it stands."""
    where = f"{error.node_operator()} {error.node_name()}: " if hasattr(error, "node_name") else ""
    return " ".join((where + error.desc()).split())


def has_runtime_cache(trt: Any) -> bool:
    return hasattr(trt, "IRuntimeCache")


def _is_weakly_typed(trt: Any) -> bool:
    return not has_runtime_cache(trt) and _version(trt) < (10, 0)


def _creation_flags(trt: Any) -> int:
    """How a network is created: 8.6 must be told that the batch is one of its dimensions, and knows
    no strong types; 10 and RTX must be told to be strict; 11 always is, and deprecates the flag."""
    flag = trt.NetworkDefinitionCreationFlag
    if _is_weakly_typed(trt):
        return 1 << int(flag.EXPLICIT_BATCH)
    if has_runtime_cache(trt) or _version(trt) < (11, 0):
        return 1 << int(flag.STRONGLY_TYPED)
    return 0


def _logger(trt: Any) -> tuple[Any, deque[str]]:
    """One that passes messages on to `logging`, and the last errors."""
    errors: deque[str] = deque(maxlen=ERRORS_KEPT)
    faults = (trt.ILogger.Severity.INTERNAL_ERROR, trt.ILogger.Severity.ERROR)

    class Logger(trt.ILogger):
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            if severity in faults:
                errors.append(message)
            log.debug("%s: %s", trt.__name__, message)

    return Logger(), errors


def fitted(model: Any, name: str, batch: int, precision: str) -> Any:
    """An ONNX model for one batch size and precision.

    Raises:
        ValueError: if it isn't a net with one float32 input, or is made for another batch.
    """
    from tfnas.deploy.onnx_graph import half

    fixed = image_model(model, name, batch)
    try:
        return half(fixed) if precision == "fp16" else fixed
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None


class TrtProfiler(GpuProfiler):
    """One GPU through TensorRT or TensorRT-RTX.

    Args:
        graph: launch runs as CUDA graphs.
    """

    def __init__(
        self,
        trt: Any,
        device: Device,
        session: Session,
        reader: GpuReader,
        *,
        capability: tuple[int, int],
        graph: bool,
    ):
        super().__init__(device, session, reader, graph=graph)
        self._trt = trt
        self._file = CacheFile.of(device)
        self._kept = self._file.load()
        self._saved_s = time.monotonic()
        self._builder = EngineBuilder(
            trt,
            precision=device.precision,
            capability=capability,
            graph=graph,
            timing_cache=b"" if has_runtime_cache(trt) else self._kept,
        )
        self._runtime: Any = None
        self._runtime_cache: Any = None
        self._dirty = False

    def load(self, name: str, model: bytes) -> StreamWorkload:
        """The model as an engine. Raises ValueError if it can't be built here."""
        context = (self.device.batch, self.device.precision)
        content = fitted(onnx_model(model), name, *context).SerializeToString()
        with self._session.on():
            plan = self._builder.build(content, name)
            workload = self._loaded(plan, name)
        self._dirty = True
        if time.monotonic() - self._saved_s > SAVE_SECONDS:
            self.save()
        return workload

    def _loaded(self, plan: bytes, name: str) -> StreamWorkload:
        trt, session = self._trt, self._session
        if self._runtime is None:
            self._runtime = trt.Runtime(self._builder.logger)
        engine = self._runtime.deserialize_cuda_engine(plan)
        if engine is None:
            raise ValueError(f"{trt.__name__} can't load {name}: {self._builder.why()}")
        context, scratch = self._context(engine, name)
        if self._graph and not _is_capturable(context, session.stream.cuda_stream):
            raise ValueError(f"{name} can't be captured into a CUDA graph; give device.graph=false")
        inputs: list[Any] = []
        outputs: list[Any] = []
        for index in range(engine.num_io_tensors):
            tensor = engine.get_tensor_name(index)
            is_input = engine.get_tensor_mode(tensor) == trt.TensorIOMode.INPUT
            # Outputs get memory of their own name: a foreign net may have several.
            memory = session.tensor(
                "input" if is_input else f"output {tensor}",
                tuple(engine.get_tensor_shape(tensor)),
                _torch_dtype(session.torch, trt, engine.get_tensor_dtype(tensor)),
            )
            context.set_tensor_address(tensor, memory.data_ptr())
            (inputs if is_input else outputs).append(memory)
        execute, stream = context.execute_async_v3, session.stream.cuda_stream

        def launch() -> Any:
            if not execute(stream):
                raise RuntimeError(f"{trt.__name__} failed to run {name}: {self._builder.why()}")
            return outputs[0]

        # The engine and its memory must outlive the context.
        held = (context, engine, scratch, inputs, outputs)
        return StreamWorkload(
            name, session, launch, x=inputs[0], graph=self._graph, held=held, done=self.save
        )

    def _context(self, engine: Any, name: str) -> tuple[Any, Any]:
        """An execution context, and the session's memory that its activations live in."""
        trt, session = self._trt, self._session
        strategy = getattr(trt, "ExecutionContextAllocationStrategy", None)
        if has_runtime_cache(trt):
            config = engine.create_runtime_config()
            config.set_execution_context_allocation_strategy(strategy.USER_MANAGED)  # type: ignore[union-attr]
            config.set_runtime_cache(self._jit_cache(config))
            context = engine.create_execution_context(config)
        elif strategy is not None:
            context = engine.create_execution_context(strategy.USER_MANAGED)
        else:  # before 10
            context = engine.create_execution_context_without_device_memory()
        if context is None:
            raise ValueError(f"{trt.__name__} can't run {name}: {self._builder.why()}")
        v2 = hasattr(engine, "device_memory_size_v2")  # from 10.1 on
        nbytes = max(1, engine.device_memory_size_v2 if v2 else engine.device_memory_size)
        scratch = session.memory("scratch", nbytes)
        if v2:
            context.set_device_memory(scratch.data_ptr(), nbytes)
        else:
            context.device_memory = scratch.data_ptr()
        return context, scratch

    def _jit_cache(self, config: Any) -> Any:
        """TensorRT-RTX's compiled kernels, one cache for all engines."""
        if self._runtime_cache is None:
            self._runtime_cache = config.create_runtime_cache()
            if self._kept and not self._runtime_cache.deserialize(self._kept):
                log.warning("warning: TensorRT-RTX refuses %s; a new one is begun", self._file.path)
        return self._runtime_cache

    def save(self) -> None:
        """Write what builds have taught, if it is new."""
        if not self._dirty:
            return
        self._dirty, self._saved_s = False, time.monotonic()
        if self._runtime_cache is not None:
            content = bytes(self._runtime_cache.serialize())
        else:
            content = self._builder.timing_cache
        if content and content != self._kept:
            self._kept = content
            self._file.save(content)


def _is_capturable(context: Any, stream: int) -> bool:
    """Whether runs can be captured; only TensorRT-RTX has nets that can't, and tells."""
    is_capturable = getattr(context, "is_stream_capturable", None)
    return is_capturable is None or bool(is_capturable(stream))


def _torch_dtype(torch: Any, trt: Any, dtype: Any) -> Any:
    """Raises ValueError for outputs other than numbers that these nets have."""
    if dtype == trt.DataType.FLOAT:
        return torch.float32
    if dtype == trt.DataType.HALF:
        return torch.float16
    raise ValueError(f"an output of type {dtype}: expected float32 or float16")
