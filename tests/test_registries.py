"""What a kind and an activation are stands in one registry a layer: all have the same names, and
torch, the shared form, ONNX and TFLite agree on every entry."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from itertools import product
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

from tests.support.nets import random_network
from tfnas.deploy.onnx_file import fold
from tfnas.deploy.onnx_graph import (
    INPUT,
    ONNX_ACTIVATIONS,
    ONNX_EXCITES,
    ONNX_KINDS,
    build_model,
    ops_of,
    weight_shapes,
)
from tfnas.deploy.tflite_file import TFLITE_LAYERS, tflite_file
from tfnas.nets.activations import EXCITES, TORCH_ACTIVATIONS, activate
from tfnas.nets.blocks import TORCH_KINDS, build
from tfnas.nets.supernet import SHARED_KINDS
from tfnas.space.ops import ACTIVATIONS, KINDS, MAX_OP_LAYERS, OpSpec
from tfnas.space.subnet import Subnet

FIELDS: dict[str, tuple[Any, ...]] = {
    "c_mid": (8, 24), "c_se": (0, 6), "c_out": (8, 12), "kernel": (3, 5), "stride": (1, 2),
}  # fmt: skip
EVERY = [(kind, act) for kind in KINDS for act in ACTIVATIONS if "act" not in KINDS[kind].lacks]
EVERY += [(kind, "none") for kind in KINDS if "act" in KINDS[kind].lacks]


def ops(kind: str, act: str) -> Iterator[OpSpec]:
    """Of every form that the kind has."""
    lacks = KINDS[kind].lacks
    open_fields = {name: values for name, values in FIELDS.items() if name not in lacks}
    for values in product(*open_fields.values()):
        given = dict(zip(open_fields, values, strict=True))
        fields = {"kind": kind, "size": 7, "c_in": 8, "act": act, **lacks, **given}
        if not KINDS[kind].faults(SimpleNamespace(**fields)):  # type: ignore[arg-type]
            yield OpSpec(**fields)


def network_of(op: OpSpec) -> nn.Module:
    """With random weights and norms, in eval mode; the op is its first layer."""
    if op.classifies:
        return random_network(Subnet("x", (), (), (op,)))
    head = OpSpec("classifier", op.out_size, op.c_out, 0, 0, 2, 1, 1, "none")
    return random_network(Subnet("x", (op,), (), (head,)))


def close(found: np.ndarray, expected: np.ndarray) -> None:
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


def test_every_registry_has_the_same_names() -> None:
    for registry in (TORCH_KINDS, SHARED_KINDS, ONNX_KINDS):
        assert set(registry) == set(KINDS)
    for activations in (TORCH_ACTIVATIONS, ONNX_ACTIVATIONS):
        assert set(activations) == set(ACTIVATIONS)
    with_squeeze = {name for name, kind in KINDS.items() if "c_se" not in kind.lacks}
    assert set(EXCITES) == set(ONNX_EXCITES) == with_squeeze


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "act"), EVERY)
def test_onnx_equals_torch_and_is_read_back(kind: str, act: str) -> None:
    for op in ops(kind, act):
        network = network_of(op)
        x = np.random.default_rng(0).standard_normal((2, op.c_in, 7, 7), dtype=np.float32)
        with torch.inference_mode():
            expected = network.layers[0](torch.from_numpy(x)).numpy()
        model = build_model([op], fold(network), 2)
        session = onnxruntime.InferenceSession(
            model.SerializeToString(), providers=["CPUExecutionProvider"]
        )
        close(session.run(None, {INPUT: x})[0], expected)
        assert ops_of(model) == (op,)
        assert {node.op_type for node in model.graph.node} <= set(TFLITE_LAYERS)


@pytest.mark.parametrize(("kind", "act"), EVERY)
def test_tflite_equals_torch(kind: str, act: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        litert = pytest.importorskip(
            "ai_edge_litert.interpreter", reason="needs LiteRT: pip install ai-edge-litert"
        )
    for op in ops(kind, act):
        network = network_of(op)
        x = np.random.default_rng(0).standard_normal((1, op.c_in, 7, 7), dtype=np.float32)
        with torch.inference_mode():
            expected = network.layers[0](torch.from_numpy(x)).numpy()
        content = tflite_file(build_model([op], fold(network), 1).SerializeToString())
        own = litert.Interpreter(model_content=content, num_threads=1)
        own.allocate_tensors()
        own.set_tensor(own.get_input_details()[0]["index"], x.transpose(0, 2, 3, 1))
        own.invoke()
        found = own.get_tensor(own.get_output_details()[0]["index"])
        close(found.transpose(0, 3, 1, 2) if found.ndim == 4 else found, expected)


@pytest.mark.parametrize(("kind", "act"), EVERY)
def test_the_shared_form_equals_torch(kind: str, act: str) -> None:
    """On batch statistics, at a width below the largest where there is one."""
    for op in ops(kind, act):
        widest = op.c_mid + 8 if op.expands else op.c_mid
        shared = SHARED_KINDS[kind](op, op.c_in, widest, op.c_se, op.c_out).double()
        module = build(op).double().train()
        width = (op.c_mid,) if op.has_width else ()
        missing, unexpected = module.load_state_dict(shared.weights(*width), strict=False)
        assert not unexpected
        assert all("bn." in name for name in missing)
        x = torch.randn(3, op.c_in, 7, 7, dtype=torch.float64)
        torch.testing.assert_close(shared(x, *width), module(x), rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize(("kind", "act"), EVERY)
def test_what_the_space_says_of_an_op_is_so(kind: str, act: str) -> None:
    for op in ops(kind, act):
        module = build(op).eval()
        layers = [m for m in module.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
        assert sum(layer.weight.numel() for layer in layers) == op.weights
        assert [tuple(m.weight.shape) for m in layers] == [layer.shape for layer in op.layers]
        assert len(op.layers) <= MAX_OP_LAYERS
        assert len(weight_shapes([op])) == 2 * len(layers)
        counted: list[int] = []

        def count(layer: nn.Module, _x: object, y: torch.Tensor, to: list[int] = counted) -> None:
            to.append(layer.weight.numel() * y[0, 0].numel())

        for layer in layers:
            layer.register_forward_hook(count)
        out = module(torch.zeros(1, op.c_in, op.size, op.size))
        assert sum(counted) == op.macs
        assert op.free == (not layers)
        size = () if op.classifies else (op.out_size, op.out_size)
        assert out.shape == (1, op.c_out, *size)


def test_unknown_ones_are_refused_everywhere() -> None:
    op = OpSpec("conv", 7, 8, 0, 0, 8, 3, 1, "relu")
    weights = fold(network_of(op))
    for name, value, message in (
        ("kind", "pool", "op kind 'pool': expected one of conv, mbconv"),
        ("act", "gelu", "activation 'gelu': expected one of relu"),
    ):
        with pytest.raises(ValueError, match=message):
            OpSpec(**{**{f: getattr(op, f) for f in OpSpec.__slots__}, name: value})
        strange = OpSpec(**{f: getattr(op, f) for f in OpSpec.__slots__})
        object.__setattr__(strange, name, value)
        with pytest.raises(ValueError, match=message):
            build(strange)(torch.zeros(1, 8, 7, 7))
        with pytest.raises(ValueError, match=message):
            build_model([strange], weights)
    with pytest.raises(ValueError, match="activation 'gelu'"):
        activate(torch.zeros(1), "gelu")
