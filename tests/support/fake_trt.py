"""The parts of TensorRT's API that differ between versions, as they are in 8.6, 10, 11 and in RTX.

RTX's calls were compared with the real module, names in 11 with its bindings; 8.6 and 10 are as
documented. Nothing is computed: what is asked of a module is noted, and what a version doesn't have
is an AttributeError.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum
from types import SimpleNamespace
from typing import Any

ENGINE = b"engine"


class ILogger:
    Severity = IntEnum("Severity", "INTERNAL_ERROR ERROR WARNING INFO VERBOSE")


class Fake:
    """A module.

    Attributes:
        asked: (what, with what), in order.
        refuses: names of steps that fail.
    """

    def __init__(self, version: str, name: str = "tensorrt"):
        self.__name__ = name
        self.__version__ = version
        major = int(version.split(".")[0])
        rtx = name == "tensorrt_rtx"
        self.asked: list[tuple[str, Any]] = []
        self.refuses: set[str] = set()
        self.ILogger = ILogger
        self.DataType = SimpleNamespace(FLOAT="float32", HALF="float16", INT32="int32")
        self.TensorIOMode = SimpleNamespace(INPUT="in", OUTPUT="out")
        self.MemoryPoolType = SimpleNamespace(WORKSPACE="workspace")
        if rtx:
            flags = {"STRONGLY_TYPED": 1}
        elif major == 8:
            flags = {"EXPLICIT_BATCH": 0, "EXPLICIT_PRECISION": 1}
        elif major == 10:
            flags = {"EXPLICIT_BATCH": 0, "STRONGLY_TYPED": 1}
        else:
            flags = {"STRONGLY_TYPED": 1}
        self.NetworkDefinitionCreationFlag = SimpleNamespace(**flags)
        builder_flags = {"TF32": "TF32"}
        if not rtx and major < 11:
            builder_flags["FP16"] = "FP16"
        if rtx:
            builder_flags["REQUIRE_USER_ALLOCATION"] = "REQUIRE_USER_ALLOCATION"
            self.IRuntimeCache = object
            self.ComputeCapability = SimpleNamespace(SM89="SM89")
        self.BuilderFlag = SimpleNamespace(**builder_flags)
        if rtx or major >= 10:
            strategies = SimpleNamespace(STATIC="static", USER_MANAGED="user")
            self.ExecutionContextAllocationStrategy = strategies
        self._rtx, self._major = rtx, major
        self.runtime_cache = SimpleNamespace(
            deserialize=self._note("deserialize", "deserialize" not in self.refuses),
            serialize=lambda: b"kernels",
        )

    def _note(self, what: str, result: Any = None) -> Callable[..., Any]:
        def step(*arguments: Any) -> Any:
            self.asked.append((what, arguments[0] if len(arguments) == 1 else arguments))
            if what in self.refuses:
                return False
            return result() if callable(result) else result

        return step

    def all_asked(self, what: str) -> list[Any]:
        return [value for name, value in self.asked if name == what]

    def OnnxParser(self, network: Any, logger: Any) -> Any:  # noqa: N802
        error = SimpleNamespace(desc=lambda: "no such op")
        return SimpleNamespace(
            parse=self._note("parse", True), num_errors=1, get_error=lambda _: error
        )

    def Builder(self, logger: Any) -> Any:  # noqa: N802
        self.logger = logger

        def build(network: Any, config: Any) -> Any:
            if "build" in self.refuses:
                logger.log(ILogger.Severity.ERROR, "out of luck")
                return None
            return ENGINE

        return SimpleNamespace(
            create_network=self._note("create_network", object),
            create_builder_config=self._config,
            build_serialized_network=build,
        )

    def _config(self) -> Any:
        config = SimpleNamespace(
            set_memory_pool_limit=self._note("set_memory_pool_limit"),
            set_flag=self._note("set_flag"),
            clear_flag=self._note("clear_flag"),
        )
        if self._rtx:
            config.num_compute_capabilities = 0
            config.set_compute_capability = self._note("set_compute_capability", True)
        else:
            config.create_timing_cache = self._note("create_timing_cache", object)
            config.set_timing_cache = lambda cache, ignore_mismatch: (
                "set_timing_cache" not in self.refuses or self.refuses.discard("set_timing_cache")
            )
            timing = SimpleNamespace(serialize=lambda: b"timings")
            config.get_timing_cache = lambda: timing
        return config

    def Runtime(self, logger: Any) -> Any:  # noqa: N802
        def load(plan: bytes) -> Any:
            assert plan == ENGINE
            return None if "load" in self.refuses else self._engine()

        return SimpleNamespace(deserialize_cuda_engine=load)

    def _engine(self) -> Any:
        engine = SimpleNamespace(
            num_io_tensors=2,
            get_tensor_name=lambda i: ("input", "output")[i],
            get_tensor_mode=lambda name: "in" if name == "input" else "out",
            get_tensor_shape=lambda name: (1, 3, 8, 8) if name == "input" else (1, 10),
            get_tensor_dtype=lambda _: "float32",
        )
        if self._rtx:
            engine.device_memory_size_v2 = 4096
            engine.create_runtime_config = lambda: SimpleNamespace(
                set_execution_context_allocation_strategy=self._note("strategy"),
                create_runtime_cache=lambda: self.runtime_cache,
                set_runtime_cache=self._note("set_runtime_cache", True),
            )
            engine.create_execution_context = lambda runtime_config: self._context()
        elif self._major >= 10:
            engine.device_memory_size_v2 = 4096
            engine.create_execution_context = self._note("strategy", self._context)
        else:
            engine.device_memory_size = 4096
            engine.create_execution_context_without_device_memory = self._context
        return engine

    def _context(self) -> Any:
        context = SimpleNamespace(
            set_tensor_address=self._note("set_tensor_address", True),
            execute_async_v3=self._note("execute_async_v3", True),
        )
        if self._rtx:
            context.is_stream_capturable = self._note("is_stream_capturable", True)
        if self._rtx or self._major >= 10:
            context.set_device_memory = self._note("set_device_memory")
        else:
            context.device_memory = None
        self.context = context
        return context
