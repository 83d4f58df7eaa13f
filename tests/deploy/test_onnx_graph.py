"""The graph that is written has the nodes that a runtime fuses, and nothing else."""

from __future__ import annotations

from itertools import product

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from tests.support.nets import random_network
from tfnas.deploy.onnx_file import fold
from tfnas.deploy.onnx_graph import INPUT, OPSET, OUTPUT, build_model, random_weights, weight_shapes
from tfnas.space.ops import ACTIVATIONS, OpSpec
from tfnas.space.size import Oblong, Size, sides
from tfnas.space.subnet import Subnet

OPS = {
    "conv1": ("conv", 0, 0, 1),
    "conv3": ("conv", 0, 0, 3),
    "mbconv3": ("mbconv", 24, 0, 3),
    "mbconv5_se": ("mbconv", 24, 6, 5),
    "mbconv3_se_not_expanding": ("mbconv", 8, 3, 3),
}


def run(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    onnx.checker.check_model(model, full_check=True)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    found = session.run([OUTPUT], {INPUT: x})[0]
    assert isinstance(found, np.ndarray)
    return found


def close_to_torch(op: OpSpec, batch: int | None, images: int) -> None:
    """Op by op, since a classifier behind it would average faults away."""
    head = OpSpec("classifier", op.out_size, op.c_out, 0, 0, 2, 1, 1, "none")
    network = random_network(Subnet("x", (op,), (), (head,)))
    x = np.random.default_rng(0).standard_normal(
        (images, op.c_in, *sides(op.size)), dtype=np.float32
    )
    with torch.inference_mode():
        expected = network.layers[0](torch.from_numpy(x)).numpy()
    found = run(build_model([op], fold(network), batch), x)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("size", [1, 7, 33, Oblong(5, 12)])
@pytest.mark.parametrize("name", OPS)
def test_every_op_equals_torch(name: str, size: Size) -> None:
    kind, c_mid, c_se, kernel = OPS[name]
    for act, stride, c_out in product(ACTIVATIONS, (1, 2, 3), (8, 12)):
        close_to_torch(OpSpec(kind, size, 8, c_mid, c_se, c_out, kernel, stride, act), 2, 2)


@pytest.mark.parametrize("name", OPS)
def test_at_224_px_with_an_open_batch(name: str) -> None:
    kind, c_mid, c_se, kernel = OPS[name]
    for stride in (1, 2):
        op = OpSpec(kind, 224, 8, c_mid, c_se, 8, kernel, stride, "hard_swish")
        close_to_torch(op, None, 3)


@pytest.mark.parametrize("size", [1, 7])
def test_the_classifier_equals_torch(size: int) -> None:
    op = OpSpec("classifier", size, 12, 0, 0, 5, 1, 1, "none")
    network = random_network(Subnet("x", (), (), (op,)))
    x = np.random.default_rng(0).standard_normal((3, 12, size, size), dtype=np.float32)
    with torch.inference_mode():
        expected = network(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(run(build_model([op], fold(network), 3), x), expected, atol=1e-6)


def test_what_the_file_says_about_itself() -> None:
    op = OpSpec("conv", 8, 3, 0, 0, 4, 3, 2, "relu")
    weights = random_weights([op], np.random.default_rng(0))
    model = build_model([op], weights, None, {"key": "value"})
    assert model.opset_import[0].version == OPSET
    assert {p.key: p.value for p in model.metadata_props} == {"key": "value"}
    (x,), (y,) = model.graph.input, model.graph.output
    assert (x.name, y.name) == (INPUT, OUTPUT)
    assert [d.dim_param or d.dim_value for d in x.type.tensor_type.shape.dim] == ["batch", 3, 8, 8]
    assert [d.dim_param or d.dim_value for d in y.type.tensor_type.shape.dim] == ["batch", 4, 4, 4]


def test_tensors_are_named_after_their_op_and_layer() -> None:
    ops = [
        OpSpec("conv", 8, 3, 0, 0, 4, 3, 2, "relu"),
        OpSpec("mbconv", 4, 4, 12, 2, 4, 3, 1, "swish"),
    ]
    model = build_model(ops, random_weights(ops, np.random.default_rng(0)))
    names = [node.name for node in model.graph.node]
    assert len(set(names)) == len(names)
    assert all(name.split(".")[0] in ("0", "1") for name in names)
    assert all(node.output[0] in (node.name, OUTPUT) for node in model.graph.node)
    assert {t.name for t in model.graph.initializer} == set(weight_shapes(ops))


def test_random_weights_are_seeded_and_keep_the_scale() -> None:
    ops = [OpSpec("mbconv", 8, 16, 96, 8, 16, 3, 1, "swish")] * 12
    one, same, other = (random_weights(ops, np.random.default_rng(s)) for s in (0, 0, 1))
    assert {n: w.shape for n, w in one.items()} == weight_shapes(ops)
    assert all(np.array_equal(one[n], same[n]) for n in one)
    assert any(not np.array_equal(one[n], other[n]) for n in one)
    y = run(build_model(ops, one), np.ones((1, 16, 8, 8), np.float32))
    assert 1e-6 < np.abs(y).max() < 1e6
