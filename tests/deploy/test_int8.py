"""int8 nets: what is measured and what is exported are the same fused ops of integers."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from tests.deploy.test_export import fused_ops, metadata_of
from tests.nets.test_weights import TRAINED
from tests.support.entry import run_entry
from tests.support.nets import few_images, few_root, random_network, tiny_subnet
from tests.support.spaces import load_space
from tfnas.deploy.int8 import Quantization, int8_row, quantized
from tfnas.deploy.onnx_file import export, export_network
from tfnas.deploy.onnx_graph import build_model, random_weights, weights_of
from tfnas.nets.weights import save_weights
from tfnas.space.ops import OpSpec

pytestmark = pytest.mark.slow

BLOCK = OpSpec("mbconv", 14, 32, 96, 32, 32, 3, 1, "relu")
INTEGERS = {
    "QLinearConv", "QLinearAdd", "QLinearMul", "QLinearSigmoid", "QLinearGlobalAveragePool",
    "QGemm", "Flatten", "Transpose", "QuantizeLinear", "DequantizeLinear",
}  # fmt: skip


@pytest.mark.parametrize(
    ("activations", "kind"), [("uint8", TensorProto.UINT8), ("int8", TensorProto.INT8)]
)
def test_a_block_takes_and_gives_integers(activations: str, kind: int) -> None:
    model = int8_row([BLOCK], 2, activations)
    for value in (model.graph.input[0], model.graph.output[0]):
        assert value.type.tensor_type.elem_type == kind


def test_a_block_computes_in_integers(tmp_path: Path) -> None:
    """With unsigned activations; signed ones aren't fused by ONNX Runtime on x86."""
    fused = fused_ops(int8_row([BLOCK], 2, "uint8"), tmp_path / "m.onnx")
    assert set(fused) <= INTEGERS - {"QuantizeLinear", "DequantizeLinear"}
    assert fused["QLinearConv"] == 5


@pytest.mark.parametrize("act", ["relu", "relu6", "swish", "hard_swish"])
def test_every_activation_can_be_quantized(act: str) -> None:
    int8_row([OpSpec("mbconv", 14, 32, 96, 0, 32, 3, 2, act)], 1, "uint8")


@pytest.mark.parametrize("name", ["tiny", "tfnas"])
def test_an_exported_net_has_the_fused_ops_of_its_measured_blocks(
    tmp_path: Path, name: str
) -> None:
    subnet = load_space(name).sample(random.Random(2))
    how = Quantization("uint8")
    exported = onnx.load(export(subnet, None, tmp_path / "n.onnx", quantization=how).path)
    whole = fused_ops(exported, tmp_path / "a.onnx")
    rows: Counter[str] = Counter()
    for index, op in enumerate(subnet.ops):
        rows += fused_ops(int8_row([op], 1, "uint8"), tmp_path / f"{index}.onnx")
    row = fused_ops(int8_row(subnet.ops, 1, "uint8"), tmp_path / "row.onnx")
    for found in (whole, rows, row):
        del found["Transpose"]  # at the edges of rows, and where the layout changes
    assert whole == rows == row
    assert name == "tiny" or set(whole) <= INTEGERS  # hard sigmoids stay float


def test_what_a_file_says_and_computes(tmp_path: Path) -> None:
    network = random_network(tiny_subnet())
    images = [np.random.default_rng(0).standard_normal((4, 3, 32, 32), dtype=np.float32)]
    done = export_network(
        network, TRAINED, tmp_path / "m.onnx", batch=None, quantization=Quantization("uint8"),
        images=images,
    )  # fmt: skip
    about = metadata_of(done.path)
    assert (about["precision"], about["activations"]) == ("int8", "uint8")
    assert about["calibration"] == "minmax"
    assert 0 < done.max_abs_diff < 0.5 * done.output_scale
    floats = export_network(network, TRAINED, tmp_path / "f.onnx", batch=None)
    assert done.path.stat().st_size < floats.path.stat().st_size


def test_ops_that_stay_float_and_weights_of_seven_bits() -> None:
    ops = [BLOCK, BLOCK]
    model = build_model(ops, random_weights(ops, np.random.default_rng(0)))
    noise = [np.random.default_rng(0).standard_normal((1, 32, 14, 14), dtype=np.float32)]
    kept = weights_of(quantized(model, noise, Quantization("uint8", float_ops=(1,))))
    assert kept["1.expand.weight"].dtype == np.float32
    assert kept["0.expand.weight_quantized"].dtype == np.int8
    assert abs(kept["0.expand.weight_quantized"].astype(int)).max() == 127
    seven = weights_of(quantized(model, noise, Quantization("uint8", reduce_range=True)))
    assert abs(seven["0.expand.weight_quantized"].astype(int)).max() == 64


def test_percentiles_leave_out_what_minmax_has_to_hold() -> None:
    model = build_model([BLOCK], random_weights([BLOCK], np.random.default_rng(0)))
    noise = np.random.default_rng(0).standard_normal((32, 1, 32, 14, 14), dtype=np.float32)
    noise[0, 0, 0, 0, 0] = 100.0
    scales = {
        method: weights_of(quantized(model, list(noise), Quantization("uint8", method)))[
            "input_scale"
        ]
        for method in ("minmax", "percentile", "entropy")
    }
    assert scales["percentile"] < 0.2 < scales["minmax"]
    assert scales["entropy"] > 0


def test_unknown_kinds_are_refused() -> None:
    with pytest.raises(ValueError, match="activations"):
        Quantization("int4")
    with pytest.raises(ValueError, match="calibration method"):
        Quantization("uint8", "median")


def test_the_command_calibrates_and_tells_what_is_lost(tmp_path: Path) -> None:
    subnet = tiny_subnet()
    (tmp_path / "subnet.json").write_text(subnet.to_json())
    network = random_network(subnet)
    trained = replace(TRAINED, classes=few_images(20, 10).classes)
    save_weights(network.state_dict(), subnet, tmp_path / "weights.safetensors", trained)
    line = [f"subnet={tmp_path}/subnet.json", "precision=int8", f"data.root={few_root()}"]
    done = run_entry("tfnas.export", *line, "int8.images=64", "batch=null", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    said = done.stdout + done.stderr
    assert "% in float" in said
    assert "100 test images" in said
    wrong = run_entry("tfnas.export", *line, "int8.float_ops=[99]", cwd=tmp_path)
    assert wrong.returncode == 2
    assert "float_ops" in wrong.stderr + wrong.stdout
