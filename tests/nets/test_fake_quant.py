"""A fake-quantized net rounds what its int8 export rounds, by the same steps."""

from __future__ import annotations

import random

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from tests.support.nets import random_network, tiny_subnet
from tests.support.spaces import load_space
from tests.test_registries import EVERY, network_of, ops
from tfnas.deploy.int8 import QUANTIZE, Quantization, quantized
from tfnas.deploy.onnx_file import float_model, untrained
from tfnas.deploy.onnx_graph import INPUT, weights_of
from tfnas.nets.blocks import ConvBN, Network
from tfnas.nets.fake_quant import (
    FAKE_ACTIVATIONS,
    GATES,
    FakeQuantized,
    folded,
    round_map,
    round_weights,
)
from tfnas.nets.weights import Ranges
from tfnas.space.ops import ACTIVATIONS


def images_for(network: Network, count: int = 4, seed: int = 0) -> np.ndarray:
    side = network.subnet.resolution if len(network.layers) > 2 else network.subnet.ops[0].size
    shape = (count, network.subnet.in_channels, side, side)
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def int8_of(model: FakeQuantized, x: np.ndarray, kind: str = "uint8") -> onnx.ModelProto:
    """Its export with its ranges."""
    ranges = model.trained_ranges
    how = Quantization(kind, reduce_range=ranges.reduce_range, ranges=ranges.maps)
    return quantized(float_model(model.network, None), [x], how)


def run(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return session.run(None, {INPUT: x})[0]


def test_every_activation_has_its_form() -> None:
    assert set(FAKE_ACTIVATIONS) == set(ACTIVATIONS)
    assert len(set(GATES.values())) == len(GATES) == 2


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "act"), EVERY)
def test_the_maps_are_those_that_the_runtime_quantizes(kind: str, act: str) -> None:
    """And calibration finds the ranges that the runtime's finds."""
    for op in ops(kind, act):
        network = network_of(op)
        assert isinstance(network, Network)
        model, x = FakeQuantized(network), images_for(network)
        model.calibrate([torch.from_numpy(x[:2]), torch.from_numpy(x[2:])])
        exported = quantized(float_model(network, None), [x], Quantization("uint8"))
        nodes = [node for node in exported.graph.node if node.op_type == QUANTIZE]
        assert {n.input[1].removesuffix("_scale") for n in nodes} == set(model.names)
        scales = weights_of(exported)
        for name, (low, high) in model.trained_ranges.maps.items():
            if high > low:  # of a map of zeros the step is 1
                assert scales[f"{name}_scale"] == pytest.approx((high - low) / 255, rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("reduce_range", [False, True])
@pytest.mark.parametrize("kind", ["uint8", "int8"])
@pytest.mark.parametrize("seed", range(4))
def test_it_gives_what_the_exported_net_gives(kind: str, seed: int, reduce_range: bool) -> None:
    """On a processor that doesn't overflow; what is left are ties that round the other way."""
    network = untrained(tiny_subnet(seed), seed)
    x = images_for(network, 16)
    model = FakeQuantized(network, reduce_range).eval()
    model.calibrate([torch.from_numpy(x)])
    exported = int8_of(model, x, kind)
    with torch.inference_mode():
        expected = model(torch.from_numpy(x)).numpy()
        plain = network(torch.from_numpy(x)).numpy()
    step = float(weights_of(exported)["output_scale"])
    apart = np.abs(run(exported, x) - expected) / step
    assert np.abs(plain - expected).max() > step  # it does round
    assert np.median(apart) < 0.5
    assert apart.max() <= 3.5


def test_weights_are_rounded_as_exported() -> None:
    network = random_network(tiny_subnet())
    stem = network.layers[0]
    assert isinstance(stem, ConvBN)
    for reduce_range, most in ((False, 127), (True, 64)):
        model = FakeQuantized(network, reduce_range).eval()
        x = images_for(network)
        model.calibrate([torch.from_numpy(x)])
        found = weights_of(int8_of(model, x))
        scale = found["0.conv.weight_scale"].reshape(-1, 1, 1, 1)
        with torch.no_grad():
            step = torch.tensor(float(found["input_scale"]))
            weight, bias = round_weights(*folded(stem.conv, stem.bn), step, most)
        np.testing.assert_allclose(weight, found["0.conv.weight_quantized"] * scale, rtol=1e-6)
        exported = found["0.conv.bias_quantized"] * found["0.conv.bias_quantized_scale"]
        np.testing.assert_allclose(bias, exported, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(("low", "high"), [(-1.0, 3.0), (0.0, 6.0), (-2.0, 0.0), (0.0, 0.0)])
def test_a_map_has_256_steps_of_which_one_is_0(low: float, high: float) -> None:
    x = torch.linspace(-5, 8, 4001)
    found, step = round_map(x, torch.tensor(low), torch.tensor(high))
    assert len(found.unique()) <= 256
    assert 0 in found.unique()
    if high > low:
        assert step == pytest.approx((high - low) / 255)
        inside = (x > low) & (x < high)
        assert (found - x)[inside].abs().max() <= step  # half of one, and 0 itself is moved
        assert found.min() == pytest.approx(low, abs=float(step))
        assert found.max() == pytest.approx(high, abs=float(step))


def test_gradients_pass_rounding_and_end_where_a_range_ends() -> None:
    x = torch.tensor([-2.0, -0.5, 0.3, 5.0], requires_grad=True)
    round_map(x, torch.tensor(-1.0), torch.tensor(1.0)).values.sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [0, 1, 1, 0]
    model = FakeQuantized(random_network(tiny_subnet()))
    x = torch.from_numpy(images_for(model.network))
    model.calibrate([x])
    model.train()
    model(x).square().sum().backward()
    for name, value in model.named_parameters():
        assert value.grad is not None, name
        assert value.grad.isfinite().all(), name
    learned = [v for n, v in model.named_parameters() if n.endswith(("conv.weight", "bn.weight"))]
    assert learned
    assert all(v.grad is not None and v.grad.any() for v in learned)


def test_ranges_follow_training_slowly_and_nothing_else() -> None:
    network = random_network(tiny_subnet())
    statistics = [m.running_mean for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    before = [value.clone() for value in statistics if value is not None]
    model, x = FakeQuantized(network), torch.from_numpy(images_for(network))
    model.calibrate([x])
    calibrated = model.ranges.clone()
    model.eval()(4 * x)
    assert torch.equal(model.ranges, calibrated)
    model.train()(4 * x)
    row = model.names.index(INPUT)
    torch.testing.assert_close(model.ranges[row], calibrated[row] * (1 + 0.01 * 3))
    assert all(torch.equal(a, b) for a, b in zip(before, statistics, strict=True) if b is not None)


def test_ranges_are_taken_over_or_refused() -> None:
    network = random_network(tiny_subnet())
    model, other, x = FakeQuantized(network), FakeQuantized(network), images_for(network)
    model.calibrate([torch.from_numpy(x)])
    other.take(model.trained_ranges.maps)
    assert torch.equal(other.ranges, model.ranges)
    with pytest.raises(ValueError, match="not those of this net"):
        other.take({"input": (0.0, 1.0)})
    with pytest.raises(ValueError, match=r"the range of 'input' is 1\.0 to 2\.0"):
        Ranges(False, {"input": (1.0, 2.0)})
    how = Quantization("uint8", ranges={"input": (-1.0, 1.0)})
    with pytest.raises(ValueError, match="no ranges for"):
        quantized(float_model(network, None), [x], how)


def test_a_residual_net_with_squeeze_excite_has_all_its_maps() -> None:
    network = untrained(load_space("tfnas").sample(random.Random(0)), 0)
    names = FakeQuantized(network).names
    assert len(names) == len(set(names))
    assert any(name.endswith(".residual") for name in names)
    assert any(name.endswith(".se_sigmoid") for name in names)
    assert (names[0], names[-1]) == ("input", "output")
