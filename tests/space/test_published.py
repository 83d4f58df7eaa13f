"""Spaces as published: parameters and multiply-adds of their nets against published figures.

The figures' folder is read from TFNAS_REFERENCE.
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from tests.support.spaces import load_space
from tfnas.space.ops import Layer, OpSpec
from tfnas.space.search_space import SearchSpace
from tfnas.space.subnet import Subnet

REFERENCE = os.environ.get("TFNAS_REFERENCE")
TRUTH = Path(REFERENCE or "") / "truth"
pytestmark = pytest.mark.skipif(
    not REFERENCE, reason="TFNAS_REFERENCE doesn't name the reference data"
)


def net_of(space: SearchSpace, depths: Sequence[int], picks: Sequence[int]) -> Subnet:
    widths = [block[pick].op.c_mid for block, pick in zip(space.blocks, picks, strict=True)]
    return space.subnet(depths, picks, widths)


def has_norm(op: OpSpec, layer: Layer) -> bool:
    return op.kind != "pooled_conv" and layer.name in ("conv", "expand", "depthwise", "project")


def parameters(net: Subnet) -> int:
    """Weights, weight and bias of batch norm, biases of squeeze-excite and classifier."""
    total = 0
    for op in net.ops:
        for layer in op.layers:
            norm, biased = has_norm(op, layer), layer.name.startswith(("se_", "linear"))
            total += layer.shape[0] * (2 * norm + biased)
    return total + sum(op.weights for op in net.ops)


def rows(name: str) -> Iterator[Mapping[str, str]]:
    with (TRUTH / name).open(newline="") as file:
        yield from csv.DictReader(file)


def test_nas_bench_macro() -> None:
    space = load_space("nas_bench_macro")
    truth = json.loads((TRUTH / "nas-bench-macro_cifar10.json").read_text())
    assert len(truth) == 3**8
    for key, row in list(truth.items())[::20]:
        net = net_of(space, (2, 3, 3), [int(digit) for digit in key])
        assert (parameters(net), net.macs) == (row["params"], row["flops"]), key


def test_once_for_all() -> None:
    space = load_space("ofa_mbv3", classes=1000)
    for row in list(rows("ofa_mbv3_measured.csv"))[::10]:
        assert int(row["r"]) == space.resolution
        genes = zip(row["ks"], row["e"], strict=True)
        picks = ["357".index(kernel) * 3 + "346".index(e) for kernel, e in genes]
        net = net_of(space, [int(depth) for depth in row["d"]], picks)
        assert (parameters(net), net.macs) == (int(row["params"]), int(row["macs"]))


def test_mnasnet() -> None:
    """Its multiply-adds count batch norm, four a value, and pooling, one a value in and out."""
    space = load_space("mnasnet", classes=1000)
    for row in list(rows("accel_nasbench.csv"))[::20]:
        depths, picks = [], []
        for index, stage in enumerate(space.stages):
            e, kernel, depth, se = (
                int(row[f"block{index}_{name}"]) for name in ["e", "k", "l", "se"]
            )
            depths.append(depth)
            pick = 6 * se + 3 * (3, 5).index(kernel) + (1, 4, 6).index(e)
            picks += [pick] * len(stage.blocks)
        net = net_of(space, depths, picks)
        assert parameters(net) == round(float(row["params_m"]) * 1e6)
        values = sum(
            layer.shape[0] * layer.pixels
            for op in net.ops
            for layer in op.layers
            if has_norm(op, layer)
        )
        pooled = sum(op.c_mid * (op.out_size**2 + 1) for op in net.ops if op.c_se)
        pooled += net.ops[-1].c_in * (net.ops[-1].size ** 2 + 1)
        assert net.macs + 4 * values + pooled == round(float(row["macs_m"]) * 1e6)
