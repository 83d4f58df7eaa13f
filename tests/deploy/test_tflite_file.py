"""TFLite files against ONNX Runtime: every kind of op and whole nets."""

from __future__ import annotations

import random
import warnings
from itertools import product

import numpy as np
import onnx
import onnxruntime
import pytest

from profilers.models import op_model
from tests.support.spaces import load_space
from tfnas.space.ops import ACTIVATIONS, OpSpec
from tfnas.space.size import Oblong, Size

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    litert = pytest.importorskip(
        "ai_edge_litert.interpreter", reason="needs LiteRT: pip install ai-edge-litert"
    )

from tfnas.deploy.tflite_file import tflite_file

pytestmark = pytest.mark.slow

TOLERANCE = 1e-4  # of the largest output
OPS = {
    "conv1": ("conv", 0, 0, 1),
    "conv3": ("conv", 0, 0, 3),
    "mbconv3": ("mbconv", 24, 0, 3),
    "mbconv5_se": ("mbconv", 24, 6, 5),
    "mbconv3_se_not_expanding": ("mbconv", 8, 3, 3),
}


def error(ops: list[OpSpec], batch: int = 1) -> float:
    """The largest difference between both runtimes, as a part of the largest output."""
    model = op_model(ops, batch)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    shape = session.get_inputs()[0].shape
    x = np.random.default_rng(1).standard_normal(shape, dtype=np.float32)
    expected = np.asarray(session.run(None, {"input": x})[0])
    own = litert.Interpreter(model_content=tflite_file(model), num_threads=1)
    own.allocate_tensors()
    own.set_tensor(own.get_input_details()[0]["index"], x.transpose(0, 2, 3, 1))
    own.invoke()
    found = own.get_tensor(own.get_output_details()[0]["index"])
    if found.ndim == 4:
        found = found.transpose(0, 3, 1, 2)
    assert found.shape == expected.shape
    return float(np.abs(found - expected).max() / np.abs(expected).max())


@pytest.mark.parametrize("size", [1, 7, 14, Oblong(7, 12)])
@pytest.mark.parametrize("name", OPS)
def test_every_op_equals_onnxruntime(name: str, size: Size) -> None:
    kind, c_mid, c_se, kernel = OPS[name]
    for act, stride, c_out in product(ACTIVATIONS, (1, 2), (8, 12)):
        op = OpSpec(kind, size, 8, c_mid, c_se, c_out, kernel, stride, act)
        assert error([op], batch=2) < TOLERANCE, op


def test_the_classifier_equals_onnxruntime() -> None:
    assert error([OpSpec("classifier", 7, 12, 0, 0, 5, 1, 1, "none")]) < TOLERANCE


def test_whole_nets_equal_onnxruntime() -> None:
    space = load_space()
    for seed in range(4):
        assert error(list(space.sample(random.Random(seed)).ops)) < TOLERANCE


def test_other_layers_are_refused() -> None:
    op = OpSpec("mbconv", 8, 8, 16, 0, 8, 3, 1, "swish")
    for old, new in (("Sigmoid", "Tanh"), ("Sigmoid", "Clip")):
        model = onnx.load_model_from_string(op_model([op], 1))
        for node in model.graph.node:
            if node.op_type == old:
                node.op_type = new
        with pytest.raises(ValueError, match="no TFLite layer for"):
            tflite_file(model.SerializeToString())
    classifier = OpSpec("classifier", 7, 12, 0, 0, 5, 1, 1, "none")
    for ops, op_type, attribute in (
        ([op], "Conv", onnx.helper.make_attribute("auto_pad", "SAME_UPPER")),
        ([op], "Conv", onnx.helper.make_attribute("dilations", [2, 2])),
        ([classifier], "Gemm", onnx.helper.make_attribute("alpha", 2.0)),
    ):
        model = onnx.load_model_from_string(op_model(ops, 1))
        for node in model.graph.node:
            if node.op_type == op_type:
                node.attribute.append(attribute)
        with pytest.raises(ValueError, match="no TFLite layer for"):
            tflite_file(model.SerializeToString())
    model = onnx.load_model_from_string(op_model([op], 1))
    del model.graph.node[0].input[2]
    with pytest.raises(ValueError, match="no TFLite file of a graph without"):
        tflite_file(model.SerializeToString())
