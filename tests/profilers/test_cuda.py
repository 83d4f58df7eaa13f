"""torch as a runtime: what it runs is what the file holds. Here on the CPU, in `HostSession`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

import profilers.measure.bench
import profilers.measure.timing
import profilers.tables.build
from profilers.gpu.cuda import CudaProfiler, compiled, folded_module, numerics
from profilers.tables.build import build_table
from profilers.tables.plan import extremes, plan
from tests.support.host_session import HostSession, Quiet
from tests.support.simulated_device import DEVICE
from tests.support.spaces import load_space, load_spec
from tfnas.deploy.onnx_file import export
from tfnas.deploy.onnx_graph import build_model, ops_of, random_weights
from tfnas.space.ops import ACTIVATIONS, OpSpec

pytestmark = pytest.mark.slow

BLOCKS = [
    OpSpec("mbconv", 14, 16, 32, 8, 16, 3, 1, act) for act in ACTIVATIONS if act != "none"
] + [
    OpSpec("mbconv", 14, 16, 16, 0, 24, 5, 2, "relu"),
    OpSpec("conv", 14, 3, 0, 0, 8, 3, 2, "hard_swish"),
    OpSpec("conv", 7, 8, 0, 0, 16, 1, 1, "none"),
    OpSpec("classifier", 7, 16, 0, 0, 10, 1, 1, "none"),
]


def profiler(**changes: Any) -> CudaProfiler:
    return CudaProfiler(
        DEVICE,
        HostSession(),
        Quiet(),
        **{"graph": False, "compile": False, **changes},  # type: ignore[arg-type]
    )


def by_onnxruntime(model: bytes, x: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    result: np.ndarray = session.run(None, {session.get_inputs()[0].name: x})[0]
    return result


@pytest.mark.parametrize("op", BLOCKS, ids=str)
def test_ops_are_read_off_a_file_and_run_alike(op: OpSpec) -> None:
    weights = random_weights((op,), np.random.default_rng(1))
    model = build_model((op,), weights, 2)
    assert ops_of(onnx.load_model_from_string(model.SerializeToString())) == (op,)
    x = np.random.default_rng(2).standard_normal((2, op.c_in, op.size, op.size), dtype=np.float32)
    with numerics("fp32"):
        found = folded_module((op,), weights)(torch.from_numpy(x)).numpy()
    expected = by_onnxruntime(model.SerializeToString(), x)
    np.testing.assert_allclose(found, expected, atol=1e-5 * abs(expected).max())


@pytest.mark.parametrize(("batch", "resolution"), [(1, 32), (None, 32), (1, [20, 36])])
def test_an_exported_file_is_run_with_its_weights(
    tmp_path: Path, batch: int | None, resolution: object
) -> None:
    path = tmp_path / "model.onnx"
    space = replace(load_spec(), resolution=resolution).build(8)
    export(extremes(space)[1], None, path, batch=batch)
    workload = profiler().model_workload(path)
    x = workload.x
    assert x.is_contiguous(memory_format=torch.channels_last)
    expected = by_onnxruntime(path.read_bytes(), x.contiguous().numpy())
    np.testing.assert_allclose(workload.output().numpy(), expected, atol=1e-4 * abs(expected).max())
    assert workload.burst(2).ms > 0
    workload.close()
    with pytest.raises(RuntimeError, match="closed"):
        workload.burst(1)


def test_other_files_are_refused(tmp_path: Path) -> None:
    op = BLOCKS[0]
    model = build_model((op,), random_weights((op,), np.random.default_rng(0)), 1)
    path = tmp_path / "model.onnx"
    next(n for n in model.graph.node if n.op_type == "Relu").op_type = "Elu"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ValueError, match=r"torch can't read.*tfnas\.export.*tensorrt") as caught:
        profiler().model_workload(path)
    assert "\n" not in str(caught.value)
    small, _ = extremes(load_space())
    export(small, None, path, batch=3)
    with pytest.raises(ValueError, match=r"made for batch=3, asked was batch=1"):
        profiler().model_workload(path)
    path.write_bytes(b"no model")
    with pytest.raises(ValueError, match="no ONNX model"):
        profiler().model_workload(path)


def test_numerics_are_as_before_afterwards() -> None:
    def now() -> tuple[bool, bool, bool]:
        cudnn = torch.backends.cudnn
        return torch.backends.cuda.matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark

    before = now()
    with numerics("tf32"):
        assert now() == (True, True, True)
        assert torch.is_inference_mode_enabled()
    with numerics("fp32"):
        assert now() == (False, False, True)
    assert now() == before


def test_many_compiled_ops_stay_compiled() -> None:
    """Beyond torch's limit of versions of one function, each in code of its own."""
    for width in range(16, 16 + 8 * 12, 8):
        op = OpSpec("mbconv", 7, 16, width, 0, 16, 3, 1, "relu")
        module = folded_module((op,), random_weights((op,), np.random.default_rng(0)))
        x = torch.randn(1, 16, 7, 7)
        with numerics("fp32"):
            assert torch.equal(compiled(module, "eager")(x), module(x))


def test_workloads_share_their_memory() -> None:
    session = HostSession()
    first = session.memory("input", 100)
    assert session.memory("input", 60) is first
    assert session.memory("output", 60) is not first
    assert session.memory("input", 101).numel() == 200
    assert first.numel() == 100  # is kept by who got it


def test_the_tiny_space_is_profiled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bench, probe, rows and nets through a profiler of a stream."""
    small, large = extremes(load_space())
    monkeypatch.setattr(profilers.measure.bench, "ANCHORS", (small.ops, large.ops))
    monkeypatch.setattr(profilers.measure.timing, "NET_BURST_MS", 0.5)
    monkeypatch.setattr(profilers.tables.build, "PROBE_SECONDS", 0.5)
    table = build_table(
        profiler(), load_spec("tiny"), tmp_path / "table.json",
        max_minutes=0.2, precision=0.5, anchor_nets=2, seed=0, progress=lambda _: None,
    )  # fmt: skip
    measured = set(plan(load_space(quantum=table.device.quantum)).ops)
    assert measured <= set(table.rows)
    assert all(row.median_ms > 0 for row in table.rows.values())
