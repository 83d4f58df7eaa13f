"""The whole path on an NVIDIA GPU, with every backend that is installed for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import profilers.measure.bench
import profilers.tables.build
from profilers.gpu.device import BACKENDS, Options, open_device
from profilers.gpu.trt import MODULES
from profilers.tables.build import build_table, is_complete
from profilers.tables.plan import extremes
from tests.support.spaces import load_space, load_spec
from tfnas.deploy.onnx_file import export
from tfnas.space.ops import OpSpec

pytestmark = pytest.mark.gpu
BLOCK = OpSpec("mbconv", 28, 32, 128, 32, 32, 5, 1, "swish")
CLOSE = {"fp32": 1e-4, "tf32": 1e-2, "fp16": 3e-2}  # to float32, fraction of the largest output


@pytest.fixture(autouse=True)
def gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs an NVIDIA GPU")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def opened(backend: str, precision: str = "fp32", batch: int = 1, **options: bool) -> Any:
    given = Options("gpu", backend, 0, **{"graph": False, "compile": False, **options})
    try:
        return open_device(given, threads=1, batch=batch, precision=precision)
    except (LookupError, ValueError) as error:
        if backend not in MODULES:
            raise
        pytest.skip(str(error))


@pytest.mark.parametrize("graph", [False, True])
@pytest.mark.parametrize("precision", ["fp32", "tf32", "fp16"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_outputs_are_those_of_onnxruntime(
    tmp_path: Path, backend: str, precision: str, graph: bool
) -> None:
    import onnxruntime

    profiler = opened(backend, precision, batch=2, graph=graph)
    path = tmp_path / "model.onnx"
    export(extremes(load_space())[1], None, path, batch=2)
    workload = profiler.model_workload(path)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    x = workload.x.float().cpu().contiguous().numpy()
    (expected,) = session.run(None, {"input": x})
    for _ in range(2):
        found = workload.output().numpy()
        assert np.abs(found - expected).max() <= CLOSE[precision] * np.abs(expected).max()
        workload.burst(3)
    workload.close()


@pytest.mark.parametrize("backend", BACKENDS)
def test_bursts_are_timed_by_the_device(backend: str) -> None:
    profiler = opened(backend)
    small = profiler.workload((BLOCK,))
    large = profiler.workload((BLOCK,) * 8)  # shares its memory, and outgrows it
    one, ten = (min(small.burst(runs).ms for _ in range(5)) for runs in (20, 200))
    assert 5 < ten / one < 20
    assert large.burst(20).ms > small.burst(20).ms
    burst = small.burst(100)
    assert 0 < 0.5 * burst.ms < burst.wall_ms
    small.close()
    large.close()
    with pytest.raises(RuntimeError, match="closed"):
        small.burst(1)


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_timing_cache_makes_the_next_engine_alike(backend: str) -> None:
    first = opened(backend)
    first.workload((BLOCK,)).close()
    second = opened(backend).workload((BLOCK,))
    assert second.burst(10).ms > 0
    second.close()


def test_compiled_nets_run() -> None:
    workload = opened("cuda", compile=True, graph=True).workload((BLOCK, BLOCK))
    assert workload.burst(10).ms > 0
    assert torch.isfinite(workload.output()).all()
    workload.close()


def test_conditions_are_read() -> None:
    profiler = opened("auto")
    workload = profiler.workload((BLOCK,))
    workload.burst(10)
    readings = dict(profiler.conditions().readings)
    assert readings["gpu"] == torch.cuda.get_device_name(0)
    assert readings["sm_clock_mhz"] > 0
    workload.close()


def test_the_tiny_space_is_profiled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small, large = extremes(load_space())
    monkeypatch.setattr(profilers.measure.bench, "ANCHORS", (small.ops, large.ops))
    monkeypatch.setattr(profilers.tables.build, "PROBE_SECONDS", 0.5)
    profiler = opened("auto", "fp16", batch=8)
    table = build_table(
        profiler, load_spec("tiny"), tmp_path / "table.json",
        max_minutes=2, precision=0.05, anchor_nets=4, seed=0, progress=lambda _: None,
    )  # fmt: skip
    assert is_complete(table, load_spec("tiny"))
    assert table.device.kind == "gpu"
    assert all(row.median_ms > 0 for row in table.rows.values())
