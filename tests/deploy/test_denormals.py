"""Weights below the normal range become zero in a file, and nothing else changes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from tests.deploy.test_export import metadata_of
from tests.nets.test_weights import TRAINED
from tests.support.entry import run_entry
from tests.support.nets import random_network, tiny_subnet
from tfnas.deploy.denormals import SMALLEST, flush_denormals
from tfnas.deploy.int8 import Quantization
from tfnas.deploy.onnx_file import export_network, fold
from tfnas.deploy.onnx_graph import build_model, random_weights, weights_of
from tfnas.nets.blocks import ConvBN, Network
from tfnas.nets.weights import save_weights
from tfnas.space.ops import OpSpec

OP = OpSpec("conv", 7, 8, 0, 0, 8, 3, 1, "relu")


def decayed() -> Network:
    """A net one of whose channels weight decay has nearly emptied: only batch norm, folded in,
    makes its weights denormal."""
    network = random_network(tiny_subnet())
    stem = network.layers[0]
    assert isinstance(stem, ConvBN)
    with torch.no_grad():
        stem.conv.weight[0] = 1e-30
        stem.bn.weight[0] = 1e-10
    return network


def denormals_in(model: onnx.ModelProto) -> int:
    floats = [w for w in weights_of(model).values() if w.dtype == np.float32]
    return sum(int(((w != 0) & (np.abs(w) < SMALLEST)).sum()) for w in floats)


def test_only_what_is_below_the_normal_range_becomes_zero() -> None:
    weights = random_weights([OP], np.random.default_rng(0))
    weights["0.conv.weight"][0, 0, 0] = [1e-40, -1e-39, SMALLEST]
    weights["0.conv.bias"][3] = -1e-45
    model = build_model([OP], weights)
    assert denormals_in(model) == 3
    assert flush_denormals(model) == 3
    found = weights_of(model)
    assert found["0.conv.weight"][0, 0, 0].tolist() == [0, 0, SMALLEST]
    assert found["0.conv.bias"][3] == 0
    kept = np.abs(weights["0.conv.weight"]) >= SMALLEST
    np.testing.assert_array_equal(found["0.conv.weight"][kept], weights["0.conv.weight"][kept])
    assert flush_denormals(model) == 0


@pytest.mark.parametrize("kind", [None, "uint8", "int8"])
def test_a_file_has_none_and_says_how_many_there_were(tmp_path: Path, kind: str | None) -> None:
    network = decayed()
    small = np.abs(fold(network)["0.conv.weight"][0])
    assert ((small > 0) & (small < SMALLEST)).all()
    how = None if kind is None else Quantization(kind)
    done = export_network(network, TRAINED, tmp_path / "m.onnx", batch=None, quantization=how)
    assert denormals_in(onnx.load(done.path)) == 0
    assert done.flushed >= small.size
    assert metadata_of(done.path)["denormals_flushed"] == str(done.flushed)
    assert done.max_abs_diff is not None
    assert done.output_scale is not None
    if kind is None:  # as `export_network` makes sure of
        assert done.max_abs_diff <= 1e-3 * done.output_scale
    plain = export_network(
        random_network(tiny_subnet()), TRAINED, tmp_path / "p.onnx", quantization=how
    )
    assert plain.flushed == 0
    assert "denormals_flushed" not in metadata_of(plain.path)


@pytest.mark.slow
def test_the_command_tells(tmp_path: Path) -> None:
    network = decayed()
    network.subnet.save(tmp_path / "subnet.json")
    save_weights(network.state_dict(), network.subnet, tmp_path / "weights.safetensors", TRAINED)
    done = run_entry("tfnas.export", f"subnet={tmp_path}/subnet.json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "27 constants below float32's normal range became zero" in done.stdout
