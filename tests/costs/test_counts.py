"""Costs against what torch counts and what the exported graph holds."""

from __future__ import annotations

import random
from math import prod

import numpy as np
import pytest

from tests.support.spaces import load_space
from tfnas.costs import LIMITS
from tfnas.costs.counts import Macs, Params, WeightsMb
from tfnas.deploy.onnx_graph import weight_shapes
from tfnas.nets.blocks import Network

SPACES = ("tfnas", "small", "nas_bench_macro", "ofa_mbv3", "proxyless", "fbnet", "mnasnet")


@pytest.mark.parametrize("name", SPACES)
def test_counts_are_those_of_the_net_that_is_built(name: str) -> None:
    space = load_space(name)
    for seed in range(3):
        net = space.sample(random.Random(seed))
        parameters = sum(p.numel() for p in Network(net).parameters())
        assert Params(4).total(net) == net.params == parameters
        values = sum(prod(shape) for shape in weight_shapes(net.ops).values())
        assert WeightsMb(4).total(net) == pytest.approx(4 * values / 1e6)
        assert WeightsMb(2).total(net) == pytest.approx(2 * values / 1e6)
        assert Macs(4).total(net) == net.macs


@pytest.mark.parametrize("name", ["macs", "params", "weights_mb"])
def test_a_total_is_the_sum_of_its_parts(name: str) -> None:
    space, cost = load_space("tiny"), LIMITS[name](4)
    net = space.sample(random.Random(1))
    blocks = 0.0
    for op, row in zip(net.blocks, space.choices_of(net), strict=False):
        assert row
        choice = next(
            c for block in space.blocks for c in block
            if c.op.curve == op.curve and op.c_mid in c.widths
        )  # fmt: skip
        blocks += float(cost.curve(choice)[np.array(choice.widths) == op.c_mid][0])
    assert cost.fixed(net) == cost.fixed(space)
    assert cost.total(net) == pytest.approx(cost.fixed(space) + blocks)
