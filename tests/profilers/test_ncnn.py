"""ncnn and pnnx themselves: every kind of op, a whole net, and what can't be converted."""

from __future__ import annotations

import random
import sys
import time
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from profilers.models import op_model
from profilers.onboard.rounds import Rounds, Target, runs_for
from profilers.remote.device import RemoteOptions, RemoteProfiler
from profilers.remote.runners import PythonRunner
from tests.support.local_transport import LocalTransport
from tests.support.spaces import load_spec
from tfnas.space.ops import ACTIVATIONS, OpSpec
from tfnas.space.size import sides

ncnn = pytest.importorskip("ncnn", reason="needs ncnn: pip install ncnn")
pytest.importorskip("pnnx", reason="needs pnnx: pip install pnnx")

from profilers.onboard.ncnn_net import input_shape, ncnn_workload  # noqa: E402
from profilers.remote import convert  # noqa: E402

pytestmark = pytest.mark.slow

TOLERANCE = 1e-4  # of the largest output
OPS = {
    "conv1": ("conv", 0, 0, 1),
    "conv3": ("conv", 0, 0, 3),
    "mbconv3": ("mbconv", 24, 0, 3),
    "mbconv5_se": ("mbconv", 24, 6, 5),
    "mbconv3_se_not_expanding": ("mbconv", 8, 3, 3),
}


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def written(model: bytes, folder: Path) -> tuple[Path, Path]:
    for suffix, content in convert.ncnn_files(model).items():
        (folder / f"net{suffix}").write_bytes(content)
    return folder / "net.param", folder / "net.bin"


def error(ops: list[OpSpec], folder: Path) -> float:
    """The largest difference between both runtimes, as a part of the largest output."""
    model = op_model(ops, 1)
    param, weights = written(model, folder)
    width, height, channels = input_shape(param.read_text())
    assert (channels, height, width) == (ops[0].c_in, *sides(ops[0].size))
    x = np.random.default_rng(1).standard_normal((channels, height, width), dtype=np.float32)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    expected = np.asarray(session.run(None, {"input": x[None]})[0])
    # The workload's own net, with its own options.
    workload = ncnn_workload("net", param, weights, threads=1)
    status, found = workload._run(ncnn.Mat(x).clone())
    assert status == 0
    difference = np.abs(np.array(found).reshape(expected.shape) - expected).max()
    return float(difference / np.abs(expected).max())


@pytest.mark.parametrize("name", OPS)
def test_every_op_equals_onnxruntime(name: str, tmp_path: Path) -> None:
    kind, c_mid, c_se, kernel = OPS[name]
    for act, (stride, c_out) in product(ACTIVATIONS, ((1, 8), (2, 12))):
        if kind == "conv" and act == "none" and stride == 1:
            continue
        op = OpSpec(kind, 14, 8, c_mid, c_se, c_out, kernel, stride, act)
        assert error([op], tmp_path) < TOLERANCE, op


def test_the_classifier_equals_onnxruntime(tmp_path: Path) -> None:
    assert error([OpSpec("classifier", 7, 12, 0, 0, 5, 1, 1, "none")], tmp_path) < TOLERANCE


@pytest.mark.parametrize("resolution", [32, [20, 36]])
def test_whole_nets_equal_onnxruntime(tmp_path: Path, resolution: object) -> None:
    space = replace(load_spec(), resolution=resolution).build(8)
    for seed in range(2):
        net = space.sample(random.Random(seed))
        assert error(list(net.ops), tmp_path) < TOLERANCE


def test_rounds_over_ncnn(tmp_path: Path) -> None:
    small, large = (
        OpSpec("mbconv", 14, 16, mid, 0, 16, 3, 1, "relu") for mid in (32, 192)
    )  # fmt: skip
    loaded = []
    for index, op in enumerate((small, large)):
        folder = tmp_path / str(index)
        folder.mkdir()
        loaded.append(ncnn_workload(str(op), *written(op_model([op], 1), folder), threads=1))
    rounds = Rounds(loaded[0], random.Random(0))
    targets = [Target(workload, 0.5, []) for workload in loaded]
    for _ in range(15):
        rounds.take(targets)
    medians = [float(np.median([sample.ratio for sample in t.out])) for t in targets]
    assert 0.7 < medians[0] < 1.4
    assert medians[1] > 1.5 * medians[0]
    assert runs_for(loaded[0]) >= 1
    loaded[0].close()
    with pytest.raises(RuntimeError, match="closed"):
        loaded[0].burst(1)


def test_ncnn_at_the_other_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = RemoteOptions(cores=None, rest_s=0.0, job_s=1.0, memory_mb=400, activations="auto")
    profiler = RemoteProfiler(
        "ssh", LocalTransport(str(tmp_path)), PythonRunner("ncnn", sys.executable), options,
        threads=1, batch=1, precision="fp32",
    )  # fmt: skip
    assert next(iter(profiler.device.versions)) == profiler.device.backend == "ncnn"
    workloads = [
        profiler.workload([OpSpec("mbconv", 14, 16, mid, 0, 16, 3, 1, "relu")])
        for mid in (32, 192)
    ]  # fmt: skip
    with profiler.exclusive(lambda _: None):
        rounds = profiler.rounds(workloads[0], random.Random(0), time.monotonic)
        targets = [Target(workload, 0.5, []) for workload in workloads]
        assert rounds.take(targets, 10, 0.5) >= 10
    medians = [float(np.median([sample.ratio for sample in t.out])) for t in targets]
    assert medians[1] > 1.5 * medians[0]


def test_a_file_is_converted_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = op_model([OpSpec("conv", 8, 3, 0, 0, 8, 3, 2, "relu")], 1)
    first = convert.ncnn_files(model)

    def refuse(*_: object) -> None:
        raise AssertionError("converted twice")

    monkeypatch.setattr(convert, "ncnn_net", refuse)
    assert convert.ncnn_files(model) == first
    monkeypatch.setattr(convert, "KEPT_BYTES", 0)
    folder = tmp_path / "cache" / "tfnas" / "ncnn"
    assert len(list(folder.iterdir())) == 1
    convert._prune(folder)
    assert not list(folder.iterdir())


def test_what_ncnn_cannot_take_is_refused(tmp_path: Path) -> None:
    op = OpSpec("conv", 8, 3, 0, 0, 8, 3, 2, "relu")
    with pytest.raises(ValueError, match="made for batch=2, asked was batch=1"):
        convert.ncnn_files(op_model([op], 2))
    with pytest.raises(ValueError, match=r"doesn't tell the shape"):
        input_shape("7767517\n1 1\nInput in0 0 1 in0\n")
    with pytest.raises(ValueError, match="the most"):
        input_shape("7767517\n1 1\nInput in0 0 1 in0 0=99999 1=99999 2=3\n")
    model = onnx.load_model_from_string(op_model([op], 1))
    for node in model.graph.node:
        if node.op_type == "Relu":
            node.op_type = "Sinh2"
    with pytest.raises(ValueError, match="can't convert a model"):
        convert.ncnn_files(model.SerializeToString())
    node = onnx.helper.make_node("Det", ["input"], ["output"])
    graph = onnx.helper.make_graph(
        [node], "net", [onnx.helper.make_tensor_value_info("input", 1, [1, 4, 8, 8])],
        [onnx.helper.make_tensor_value_info("output", 1, [1, 4])],
    )  # fmt: skip
    opsets = [onnx.helper.make_opsetid("", 17)]
    model = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=8)
    with pytest.raises(ValueError, match="ncnn has no layer for 'Det'"):
        convert.ncnn_files(model.SerializeToString())
    param, weights = written(op_model([op], 1), tmp_path)
    param.write_text(param.read_text().replace("Convolution ", "Convolutiom "))
    with pytest.raises(ValueError, match="can't load"):
        ncnn_workload("net", param, weights, threads=1)
