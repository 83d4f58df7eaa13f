"""Blocks compute what their definitions say, from plain tensor operations."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from tests.support.nets import random_network, tiny_subnet
from tests.support.spaces import load_space
from tfnas.nets.blocks import MBConv, Network, build, drop_path
from tfnas.space.ops import ACTIVATIONS, OpSpec
from tfnas.space.subnet import Subnet

PLAIN = OpSpec("mbconv", 8, 16, 48, 0, 16, 3, 1, "relu")


@pytest.mark.parametrize("size", [1, 2, 7, 8, 33])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("kernel", [1, 3, 5])
def test_output_has_the_size_that_the_op_says(size: int, stride: int, kernel: int) -> None:
    for op in (
        OpSpec("conv", size, 3, 0, 0, 4, kernel, stride, "relu"),
        OpSpec("mbconv", size, 4, 8, 2, 6, kernel, stride, "swish"),
    ):
        y = build(op).eval()(torch.zeros(2, op.c_in, size, size))
        assert y.shape == (2, op.c_out, op.out_size, op.out_size)


@pytest.mark.parametrize("act", ACTIVATIONS)
def test_every_activation_is_what_its_name_says(act: str) -> None:
    layer = build(OpSpec("conv", 4, 2, 0, 0, 2, 1, 1, act)).eval()
    x = torch.linspace(-8, 8, 32).reshape(1, 2, 4, 4)
    z = layer.get_submodule("bn")(layer.get_submodule("conv")(x))
    expected = {
        "relu": z.clamp(min=0),
        "relu6": z.clamp(0, 6),
        "swish": z * torch.sigmoid(z),
        "hard_swish": z * (z + 3).clamp(0, 6) / 6,
        "none": z,
    }[act]
    torch.testing.assert_close(layer(x), expected)


def test_layers_exist_only_where_the_op_has_them() -> None:
    def names(op: OpSpec) -> set[str]:
        return {name for name, _ in build(op).named_children()}

    assert names(PLAIN) == {"expand", "depthwise", "project"}
    assert names(replace(PLAIN, c_se=4)) == {
        "expand", "depthwise", "se_reduce", "se_expand", "project"
    }  # fmt: skip
    assert names(replace(PLAIN, c_mid=16)) == {"depthwise", "project"}


@pytest.mark.parametrize(
    ("changes", "added"), [({}, True), ({"stride": 2}, False), ({"c_out": 24}, False)]
)
def test_the_input_is_added_only_where_shapes_agree(changes: dict[str, Any], added: bool) -> None:
    op = replace(PLAIN, **changes)
    block = build(op).eval()
    assert op.residual == added
    with torch.no_grad():
        for parameter in block.get_submodule("project").parameters():
            parameter.zero_()
    x = torch.randn(1, 16, 8, 8)
    assert block(x).abs().max() == (x.abs().max() if added else 0)


@pytest.mark.parametrize("name", ["tiny", "tfnas"])
def test_multiply_adds_are_those_of_the_layers(name: str) -> None:
    space = load_space(name)
    subnet = space.subnet(
        [len(stage.blocks) for stage in space.stages],
        [len(block) - 1 for block in space.blocks],
        [block[-1].op.c_mid for block in space.blocks],
    )
    counted = 0

    def count(module: torch.nn.Module, _inputs: object, output: torch.Tensor) -> None:
        nonlocal counted
        weight = module.weight
        assert isinstance(weight, torch.Tensor)
        counted += weight[0].numel() * output.numel()

    network = Network(subnet).eval()
    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d | torch.nn.Linear):
            module.register_forward_hook(count)
    with torch.inference_mode():
        network(torch.zeros(1, 3, subnet.resolution, subnet.resolution))
    assert counted == subnet.macs


def test_a_network_takes_any_resolution() -> None:
    network = random_network(tiny_subnet())
    for size in (8, 32, 33, 64):
        assert network(torch.zeros(2, 3, size, size)).shape == (2, 10)


def test_drop_connect_grows_linearly_with_depth() -> None:
    network = Network(tiny_subnet(), dropout=0.3, drop_connect=0.2)
    rates = [m.drop_connect for m in network.modules() if isinstance(m, MBConv)]
    assert rates[0] == 0
    assert rates == pytest.approx([0.2 * i / len(rates) for i in range(len(rates))])


def test_nothing_is_dropped_in_eval_mode() -> None:
    torch.manual_seed(0)
    network = Network(tiny_subnet(), dropout=0.5, drop_connect=0.5)
    x = torch.randn(4, 3, 32, 32)
    network.eval()
    assert torch.equal(network(x), network(x))
    network.train()
    assert not torch.equal(network(x), network(x))


def test_drop_path_drops_whole_samples_and_keeps_the_mean() -> None:
    torch.manual_seed(0)
    y = drop_path(torch.ones(4000, 2, 3, 3), 0.25)
    kept = y.flatten(1)
    assert kept.unique().tolist() == pytest.approx([0, 4 / 3])
    assert (kept == kept[:, :1]).all()
    assert float(y.mean()) == pytest.approx(1, abs=0.05)
    assert torch.equal(drop_path(y, 0.0), y)


def test_a_permutation_of_mid_channels_changes_no_output() -> None:
    op = replace(PLAIN, c_se=8, act="swish")
    network = random_network(
        Subnet("x", (op,), (), (OpSpec("classifier", 8, 16, 0, 0, 3, 1, 1, "none"),))
    )
    block = network.layers[0]
    x = torch.randn(2, 16, 8, 8)
    before = block(x)
    order = torch.randperm(48)
    with torch.no_grad():
        for name, tensor in block.state_dict().items():
            dim = 1 if name in ("project.conv.weight", "se_reduce.weight") else 0
            if tensor.ndim > dim and tensor.shape[dim] == 48:
                tensor.copy_(tensor.index_select(dim, order))
    torch.testing.assert_close(block(x), before, rtol=1e-4, atol=1e-5)
