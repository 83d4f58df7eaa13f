"""The verdict on a model: its arithmetic, and the command in fresh processes."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from profilers.devices import open_profiler
from profilers.measure.timing import Measured
from profilers.measure.verification import SingleRuns, beside, judge
from profilers.verify import as_keys
from tests.support.entry import run_entry
from tests.support.spaces import load_space
from tfnas.deploy.onnx_graph import build_model, random_weights
from tfnas.process.exits import FAILED

pytestmark = pytest.mark.slow

RUNS = SingleRuns(1.0, 2.0, 3.0, 300)
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


def test_models_are_timed_side_by_side(model: Path, tmp_path: Path) -> None:
    (tmp_path / "epoch=9").mkdir()
    twin = Path(shutil.copy(model, tmp_path / "epoch=9" / "twin.onnx"))
    ops = load_space("small").sample(random.Random(0)).ops
    larger = tmp_path / "it's larger.onnx"
    onnx.save(build_model(ops, random_weights(ops, np.random.default_rng(0))), larger)
    run = run_verify(str(model), str(twin), f"./{larger.name}", "json=-", cwd=tmp_path)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "met" not in run.stderr
    assert "inputs a second" in run.stderr
    found = json.loads(run.stdout)
    assert found["target_ms"] is found["within"] is None
    assert found["per_second"] == pytest.approx(1000 / found["measured_ms"])
    for one in (found, *found["against"]):
        runs = one["single_runs"]
        assert 0 < runs["p50"] <= runs["p90"] <= runs["p99"]
        assert runs["runs"] >= 20
    same, more = found["against"]
    assert (same["onnx"], more["onnx"]) == (str(twin), f"./{larger.name}"[2:])
    for rival in (same, more):
        low, high = rival["ratio_ci"]
        assert low < rival["ratio"] < high
        assert rival["ratio"] == pytest.approx(rival["measured_ms"] / found["measured_ms"])
    assert same["ratio"] == pytest.approx(1, rel=0.5)
    assert more["ratio"] > 1.5


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["a.onnx"], ["onnx=a.onnx"]),
        (["onnx=a.onnx", "b.onnx"], ["onnx=a.onnx", "against=[b.onnx]"]),
        (["./x=1/a.onnx", "threads=2"], ["threads=2", "onnx='./x=1/a.onnx'"]),
        (["--cfg", "job", "onnx=a.onnx"], ["--cfg", "job", "onnx=a.onnx"]),
    ],
)
def test_files_by_themselves_stand_for_keys(given: list[str], expected: list[str]) -> None:
    assert as_keys(given) == expected


def test_files_in_two_ways_are_refused() -> None:
    with pytest.raises(ValueError, match=r"b\.onnx beside against="):
        as_keys(["a.onnx", "b.onnx", "against=[c.onnx]"])


def test_no_model_is_overwritten_and_nothing_measured_in_vain(model: Path, tmp_path: Path) -> None:
    before = model.read_bytes()
    for answer in (model, tmp_path):
        run = run_verify(str(model), f"json='{answer}'", cwd=tmp_path)
        assert run.returncode == 2, run.stdout + run.stderr
        assert "expected a file for the result" in run.stdout
        assert "measuring" not in run.stdout
    assert model.read_bytes() == before
    run = run_verify("nowhere.onnx", "json=-", cwd=tmp_path)
    assert (run.returncode, run.stdout) == (2, "")
    assert "no such file" in run.stderr


def test_a_ratio_has_no_part_of_the_scale() -> None:
    first = Measured(10.0, (8.0, 12.0), 0.3, 9.7, 12.0, 500, None)
    rival = beside("b.onnx", first, replace(first, median_ms=20.0, spread_ms=0.8), RUNS)
    assert rival.ratio == 2
    assert rival.ratio_ci == pytest.approx((2 / 1.05, 2.1))
    assert "takes     2 times the first one's time, 95 % interval 1.905 to 2.1" in str(rival)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["target_ms=5"], "onnx"),
        (["model.onnx", "junk.onnx"], "junk.onnx"),
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
    for inputs in (
        [image],
        [image, info("z", TensorProto.FLOAT, [1]), info("s", TensorProto.BOOL, [])],
        [info("x", TensorProto.INT64, [1, 3])],
        [info("x", TensorProto.FLOAT16, ["n", 3])],
    ):
        workload = profiler.model_workload(save(*inputs))
        assert workload.burst(2).wall_ms > 0
        workload.close()
    for inputs, message in (
        ([info("x", TensorProto.STRING, [1, 3])], "string"),
        ([info("x", TensorProto.FLOAT, [])], "only the batch"),
        ([info("x", TensorProto.FLOAT, [1, 3, "h", "w"])], "only the batch"),
        ([image, info("z", TensorProto.FLOAT, [1, "m"])], "only the batch"),
    ):
        with pytest.raises(ValueError, match=message):
            profiler.model_workload(save(*inputs))
