"""Core ML packages, read again from the disk and computed layer by layer in torch: what Core ML
itself makes of them only Apple's systems can tell."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.support.nets import random_network, tiny_subnet
from tests.support.spaces import load_space
from tfnas.deploy.coreml_file import COREML_LAYERS
from tfnas.deploy.onnx_file import export_network
from tfnas.nets.backbone import Backbone
from tfnas.nets.blocks import Network

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # of the packages

coremltools = pytest.importorskip("coremltools", reason="needs coremltools")


def computed(package: Path, x: Tensor) -> list[Tensor]:
    """The outputs of the program in a package; operations as Apple documents them."""
    from coremltools.converters.mil.frontend.milproto.load import load

    spec = coremltools.utils.load_spec(str(package))
    program = load(
        spec, spec.specificationVersion,
        file_weights_dir=str(package / "Data" / "com.apple.CoreML" / "weights"),
    )  # fmt: skip
    (main,) = program.functions.values()
    (given,) = main.inputs.values()
    values: dict[str, Any] = {given.name: x}

    def value(variable: Any) -> Any:
        if variable.val is None:
            return values[variable.name]
        val = np.asarray(variable.val)
        return torch.from_numpy(val.copy()) if val.dtype == np.float32 else val.tolist()

    for op in main.operations:
        if op.op_type == "const":
            continue
        i = {name: value(v) for name, v in op.inputs.items() if v is not None}
        values[op.outputs[0].name] = compute(op.op_type, i)
    return [values[output.name] for output in main.outputs]


def compute(kind: str, i: dict[str, Any]) -> Tensor:
    if kind == "conv":
        top, bottom, left, right = i["pad"]
        padded = F.pad(i["x"], (left, right, top, bottom))
        assert i["pad_type"] == "custom"
        return F.conv2d(padded, i["weight"], i["bias"], i["strides"], groups=i["groups"])
    if kind == "linear":
        return F.linear(i["x"], i["weight"], i["bias"])
    if kind == "reduce_mean":
        return i["x"].mean(i["axes"], keepdim=i["keep_dims"])
    if kind == "clip":
        return i["x"].clamp(i["alpha"], i["beta"])
    if kind == "sigmoid_hard":
        return (i["alpha"] * i["x"] + i["beta"]).clamp(0, 1)
    if kind in ("reshape", "squeeze"):
        return i["x"].reshape(i["shape"]) if kind == "reshape" else i["x"].squeeze(i["axes"])
    plain = {
        "relu": torch.relu, "relu6": F.relu6, "sigmoid": torch.sigmoid, "silu": F.silu,
        "identity": torch.Tensor.clone,
    }  # fmt: skip
    if kind in plain:
        return plain[kind](i["x"])
    return {"mul": torch.mul, "add": torch.add}[kind](i["x"], i["y"])


def compare(network: Network | Backbone, package: Path, batch: int = 1) -> None:
    done = export_network(network, None, package, batch=batch, format="coreml")
    assert done.max_abs_diff is None
    size = network.subnet.resolution
    x = torch.randn(batch, 3, size, size)
    with torch.inference_mode():
        wanted = network(x)
        expected = wanted if isinstance(wanted, list) else [wanted]
        found = computed(package, x)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4 * float(other.abs().max()))


@pytest.mark.parametrize("name", ["tiny", "tfnas", "ofa_mbv3", "mnasnet"])
def test_the_program_is_the_net(tmp_path: Path, name: str) -> None:
    subnet = load_space(name).sample(random.Random(1))
    compare(random_network(subnet), tmp_path / "net.mlpackage", batch=2 if name == "tiny" else 1)


def test_a_backbone_and_a_package_that_is_there(tmp_path: Path) -> None:
    package = tmp_path / "net.mlpackage"
    for seed in (0, 1):
        compare(Backbone(random_network(tiny_subnet(seed), seed)), package)
    assert list(tmp_path.iterdir()) == [package]


def test_every_layer_is_known() -> None:
    from tfnas.deploy.tflite_file import TFLITE_LAYERS

    assert set(COREML_LAYERS) == set(TFLITE_LAYERS)
