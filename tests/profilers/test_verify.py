"""The verdict on a model: its arithmetic, and the command in fresh processes."""

from __future__ import annotations

import json
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from profilers.devices import open_profiler
from profilers.measure.timing import Measured
from profilers.measure.verification import judge
from tests.support.entry import run_entry
from tests.support.spaces import load_space
from tfnas.deploy.onnx_graph import build_model, random_weights
from tfnas.process.exits import FAILED

pytestmark = pytest.mark.slow

TRIES = 3  # of a measurement, on a machine that runs other tests beside


def run_verify(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """The command; again, as its message asks, while other work spoils the measurement."""
    for _ in range(TRIES):
        run = run_entry("profilers.verify", *arguments, "verify=test", cwd=cwd)
        if run.returncode != FAILED or "quieter machine" not in run.stdout:
            break
        assert not any(verdict in run.stdout for verdict in ("MISSED", "met:"))
    return run


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A net of the tiny space."""
    import random

    ops = load_space().sample(random.Random(0)).ops
    path = tmp_path / "model.onnx"
    onnx.save(build_model(ops, random_weights(ops, np.random.default_rng(0))), path)
    return path


def test_the_estimate_decides_and_the_interval_is_told() -> None:
    measured = Measured(10.05, (9.8, 10.3), 0.1, 9.7, 12.0, 500, "noisy")
    verdict = judge("a device", measured, 10.0, 0.01)
    assert verdict.within
    assert not judge("a device", measured, 10.0, 0.004).within
    assert not judge("a device", measured, 10.5, 0.01).within
    for part in ("9.8 to 10.3", "minimum 9.7", "wall median 12", "noisy", "met"):
        assert part in str(verdict)
    below = "below every sample"
    assert below not in str(verdict)
    assert below in str(judge("a device", replace(measured, raw_min_ms=10.06), 10.0, 0.01))


def test_the_usual_speed_is_told_beside_the_sessions() -> None:
    measured = Measured(
        10.05, (9.8, 10.3), 0.1, 9.7, 12.0, 500, None, factor=1.005, sessions=12
    )  # fmt: skip
    verdict = judge("a device", measured, 10.0, 0.01)
    assert (verdict.session_ms, verdict.usual_sessions) == (pytest.approx(10.0), 12)
    assert "session   10 ms as this session runs, × 1.0050 to the usual" in str(verdict)
    alone = judge("a device", replace(measured, factor=1.0, sessions=0), 10.0, 0.01)
    assert "session " not in str(alone)


def test_no_verdict_by_an_interval_as_wide_as_the_estimate() -> None:
    verdict = judge("a device", Measured(10, (4, 15), 0.1, 9.7, 12.0, 6, "noisy"), 1000, 0.01)
    assert not verdict.usable
    assert "noisy" in str(verdict)
    assert "MISSED" not in str(verdict)


def test_status_and_json(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    run = run_verify(f"onnx='{model}'", "target_ms=1000", f"json='{out}'", cwd=tmp_path)
    assert run.returncode == 1, run.stdout + run.stderr
    assert "MISSED" in run.stdout
    result = json.loads(out.read_text())
    low, high = result["measured_ci_ms"]
    assert low <= result["measured_ms"] <= high
    assert 0 < result["measured_raw_ms"]["min"] <= result["measured_raw_ms"]["median"]
    assert result["within"] is False
    run = run_verify(
        f"onnx='{model}'", f"target_ms={result['measured_ms']}", "tolerance=0.9", cwd=tmp_path
    )
    assert run.returncode == 0, run.stdout + run.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["target_ms=5"], "onnx"),
        (["onnx=nowhere.onnx", "target_ms=5"], "no such file"),
        (["onnx=junk.onnx", "target_ms=5"], "can't run"),
        (["onnx=model.onnx", "target_ms=-1"], "target_ms=-1"),
        (["onnx=model.onnx", "target_ms=5", "batch=3"], "batch=3"),
    ],
)
def test_bad_input_exits_2(model: Path, tmp_path: Path, arguments: list[str], message: str) -> None:
    (tmp_path / "junk.onnx").write_bytes(b"no model")
    run = run_verify(*arguments, cwd=tmp_path)
    assert run.returncode == 2, run.stdout + run.stderr
    assert message in run.stdout + run.stderr


def test_models_that_are_no_image_nets(tmp_path: Path) -> None:
    def save(*inputs: onnx.ValueInfoProto) -> Path:
        graph = helper.make_graph(
            [helper.make_node("Identity", [inputs[0].name], ["y"])], "g", list(inputs),
            [helper.make_tensor_value_info("y", inputs[0].type.tensor_type.elem_type, None)],
        )  # fmt: skip
        path = tmp_path / "m.onnx"
        opset = [helper.make_opsetid("", 17)]
        onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), path)
        return path

    info = helper.make_tensor_value_info
    profiler = open_profiler("cpu")
    image = info("x", TensorProto.FLOAT, ["n", 3, 8, 8])
    profiler.model_workload(save(image)).close()
    for inputs, message in (
        ([image, info("z", TensorProto.FLOAT, [1])], "expected one"),
        ([info("x", TensorProto.INT64, [1, 3])], "int64"),
        ([info("x", TensorProto.FLOAT, [1, 3, "h", "w"])], "only the batch"),
    ):
        with pytest.raises(ValueError, match=message):
            profiler.model_workload(save(*inputs))
