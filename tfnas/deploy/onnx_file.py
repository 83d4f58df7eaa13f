"""Subnets as ONNX files: batch norm folded in, built by the same builder as what the profilers
measure, checked by onnx; and as what other runtimes' converters make of these. All are run in their
runtime and compared with torch before they are kept.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import nn

from tfnas.deploy.contract import Format, Run
from tfnas.deploy.denormals import flush_denormals
from tfnas.deploy.formats import ONNX, run_onnx, usable_format
from tfnas.deploy.int8 import NOISE, PRECISION, Int8Check, Quantization, quantized
from tfnas.deploy.onnx_graph import build_model, weight_shapes, with_batch
from tfnas.deploy.onnx_versions import OnnxVersions, onnx_versions
from tfnas.files.atomic import take_place
from tfnas.nets.backbone import Backbone
from tfnas.nets.blocks import ConvBN, Network
from tfnas.nets.fake_quant import FakeQuantized
from tfnas.nets.weights import Trained, fingerprint, load_weights
from tfnas.process.versions import versions
from tfnas.space.ops import OpSpec
from tfnas.space.size import area, sides
from tfnas.space.subnet import Subnet

TOLERANCE = 1e-3  # largest difference between torch and a runtime, fraction of the largest output
DYNAMIC_BATCHES = (1, 3)  # what an open batch size is tried with
CALIBRATION_PIXELS = 16 * 64**2  # of a batch that sets batch norm, of two images or more


@dataclass(frozen=True)
class Target:
    """What the net was searched for, as far as it is known; it goes into the file's metadata."""

    target_ms: float | None = None
    table_ms: float | None = None
    table: str | None = None  # name or fingerprint of the latency table


@dataclass(frozen=True)
class Exported:
    """A written file and how well it agrees with torch."""

    path: Path
    versions: OnnxVersions  # of the ONNX file, or of that which it was made of
    batch: int | None  # None: any
    # Between torch and the runtime on the same seeded inputs; None: it can't run here.
    max_abs_diff: float | None
    output_scale: float | None  # largest absolute output
    trained: Trained | None
    metadata: Mapping[str, str] = field(repr=False)
    quantization: Quantization | None = None  # None: float32
    flushed: int = 0  # constants below float32's normal range, which became zero
    check: Int8Check | None = None  # of an int8 net that was run on test images


def export(
    subnet: Subnet,
    weights: Path | None,
    path: Path,
    *,
    batch: int | None = 1,
    seed: int = 0,
    target_ms: float | None = None,
    table_ms: float | None = None,
    table: str | None = None,
    format: str = "onnx",
    quantization: Quantization | None = None,
) -> Exported:
    """Write a subnet, input float32 (batch, in_channels, H, W), output (batch, classes).

    Args:
        weights: those that `tfnas.train` wrote; None for seeded random ones, marked as such in the
            metadata: latency depends on shapes only.
        batch: None leaves it open.
        seed: of random weights, and of the inputs of the comparison.
        target_ms, table_ms, table: as in `Target`.
        format: of `tfnas.deploy.formats.FORMATS`; files of TFLite have channels last.
        quantization: as in `export_network`.

    Raises:
        ValueError: if the weights don't fit or are incomplete, the batch is no size, or there is no
            such format.
        LookupError: if a package of the format isn't installed.
        RuntimeError: if the runtime's output differs from torch's.
    """
    network, trained = network_with(subnet, weights, seed)
    target = Target(target_ms, table_ms, table)
    return export_network(
        network, trained, path, batch=batch, target=target, seed=seed, format=format,
        quantization=quantization,
    )  # fmt: skip


def network_with(subnet: Subnet, weights: Path | None, seed: int) -> tuple[Network, Trained | None]:
    """The subnet in eval mode with its weights, or with seeded random ones."""
    if weights is None:
        return untrained(subnet, seed), None
    network = Network(subnet)
    trained = load_weights(network, weights, complete=True).trained
    if trained is None:
        raise ValueError(f"{weights} doesn't tell what it was trained on: expected a file that "
                         "tfnas.train wrote")  # fmt: skip
    return network.eval(), trained


def export_network(
    network: Network | Backbone,
    trained: Trained | None,
    path: Path,
    *,
    batch: int | None = 1,
    target: Target | None = None,
    seed: int = 0,
    format: str = "onnx",
    opset: int | None = None,
    ir_version: int | None = None,
    quantization: Quantization | None = None,
    images: Iterable[np.ndarray] | None = None,
) -> Exported:
    """As `export`, for a network on the CPU; `trained` is None for weights that are random.

    A backbone's outputs are its maps, in order.

    Args:
        opset: None: that of what is measured.
        ir_version: None: as old as the opset can have it.
        quantization: None for float32. The float model is compared with torch in any case;
            `max_abs_diff` is then that of the int8 one, which nothing bounds. With trained ranges
            torch rounds likewise.
        images: batches (N, C, H, W) that calibrate an int8 net; None for noise, which does for
            measuring latency only.
    """
    if batch is not None and batch < 1:
        raise ValueError(f"batch={batch}: expected 1 or more, or null for any")
    form = usable_format(format, batch)
    asked = onnx_versions(opset, ir_version)
    if quantization is not None and form is not ONNX:
        raise ValueError(f"format={format} in int8: expected format=onnx")
    if path.is_dir() and not path.name.endswith(form.suffix):
        raise IsADirectoryError(f"{path} is a folder; expected a file to write")
    metadata = _metadata(network.subnet, trained, target or Target(), seed)
    if isinstance(network, Backbone):
        metadata["reductions"] = json.dumps(network.feature_info.reduction())
    model = float_model(network, batch, metadata, asked)
    flushed = flush_denormals(model)
    onnx.helper.set_model_props(model, metadata | _told_flushed(flushed))
    onnx.checker.check_model(model, full_check=True)
    batches = DYNAMIC_BATCHES if batch is None else (batch,)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
        draft = Path(folder) / path.name
        form.write(model.SerializeToString(), _shape(network.subnet, batches[0]), draft)
        difference, scale = _checked(network, form, draft, batches, seed)
        if quantization is not None:
            metadata |= {"precision": PRECISION, **_told(quantization, images is not None)}
            model = float_model(network, None, None, asked)
            flush_denormals(model)
            model = quantized(model, images or _noise(network, seed), quantization)
            flushed += flush_denormals(model)  # scales of biases
            onnx.helper.set_model_props(model, metadata | _told_flushed(flushed))
            onnx.save_model(model if batch is None else with_batch(model, batch), draft)
            like = _as_exported(network, quantization)
            difference, scale = _compare(like, run_onnx(draft), batches, seed)
        for file in sorted(Path(folder).iterdir()):
            take_place(file, path.parent / file.name)
    metadata |= _told_flushed(flushed)
    return Exported(path, asked, batch, difference, scale, trained, metadata, quantization, flushed)


def _as_exported(
    network: Network | Backbone, how: Quantization
) -> Network | Backbone | FakeQuantized:
    """What torch computes to compare with an int8 file: as it was trained, where that is known."""
    if how.ranges is None or how.float_ops or isinstance(network, Backbone):
        return network
    model = FakeQuantized(network, how.reduce_range)
    model.take(how.ranges)
    return model.eval()


def float_model(
    network: Network | Backbone,
    batch: int | None,
    metadata: Mapping[str, str] | None = None,
    versions: OnnxVersions | None = None,
) -> onnx.ModelProto:
    """A network in eval mode as a float32 model; see `build_model`."""
    taken = network.taken if isinstance(network, Backbone) else None
    model = build_model(_ops(network), fold(network), batch, metadata, taken)
    if versions is not None:
        model.opset_import[0].version, model.ir_version = versions.opset, versions.ir
    return model


def _told_flushed(flushed: int) -> dict[str, str]:
    return {"denormals_flushed": str(flushed)} if flushed else {}


def _told(quantization: Quantization, calibrated: bool) -> dict[str, str]:
    """What the file says of how it was made."""
    method = quantization.method if calibrated else "noise"
    return {
        "activations": quantization.activations,
        "calibration": "trained" if quantization.ranges is not None else method,
        "float_ops": json.dumps(quantization.float_ops),
        **({"reduce_range": "true"} if quantization.reduce_range else {}),
    }


def _noise(network: Network | Backbone, seed: int) -> Iterator[np.ndarray]:
    rng = np.random.default_rng(seed)
    yield rng.standard_normal(_shape(network.subnet, NOISE), dtype=np.float32)


def _ops(network: Network | Backbone) -> tuple[OpSpec, ...]:
    return network.subnet.ops[: len(network.layers)]


def fold(network: Network | Backbone) -> dict[str, np.ndarray]:
    """Weights as `tfnas.deploy.onnx_graph` names them, float32, batch norm folded in (in float64).

    With running mean m and variance v, batch norm after a convolution without bias is a
    convolution with weight w·γ/√(v + ε) and bias β − m·γ/√(v + ε).
    """
    folded: dict[str, np.ndarray] = {}
    for name in weight_shapes(_ops(network)):
        if not name.endswith(".weight"):
            continue
        index, layer = name.split(".")[:2]
        module: nn.Module = network.layers[int(index)]
        module = module if isinstance(module, ConvBN) else module.get_submodule(layer)
        weight, bias = _folded(module)
        folded[name] = weight.astype(np.float32)
        folded[f"{index}.{layer}.bias"] = bias.astype(np.float32)
    return folded


def _folded(module: nn.Module) -> tuple[np.ndarray, np.ndarray]:
    if isinstance(module, ConvBN):
        bn = module.bn
        assert bn.running_mean is not None
        assert bn.running_var is not None
        scale = _float64(bn.weight) / np.sqrt(_float64(bn.running_var) + bn.eps)
        weight = _float64(module.conv.weight) * scale[:, None, None, None]
        return weight, _float64(bn.bias) - _float64(bn.running_mean) * scale
    assert isinstance(module, nn.Conv2d | nn.Linear)
    bias = np.zeros(len(module.weight)) if module.bias is None else _float64(module.bias)
    return _float64(module.weight), bias


def _float64(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().cpu().double().numpy()


def untrained(subnet: Subnet, seed: int) -> Network:
    """Random weights, with batch norm set by one batch of noise.

    With the statistics left at 0 and 1 the signal would shrink from block to block into denormal
    numbers, which take time that no trained net takes. The noise has the net's resolution: in
    smaller images padding makes up more of the last maps, and at full size the signal would grow
    thousandfold, and with it what float32 rounds.
    """
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        network = Network(subnet)
        norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
        for norm in norms:
            norm.momentum = 1.0
        images = max(2, CALIBRATION_PIXELS // area(subnet.resolution))
        network(torch.randn(images, subnet.in_channels, *sides(subnet.resolution)))
        for norm in norms:
            norm.momentum = 0.1
    return network.eval()


def _shape(subnet: Subnet, batch: int) -> tuple[int, int, int, int]:
    return batch, subnet.in_channels, *sides(subnet.resolution)


def _checked(
    network: Network | Backbone, form: Format, draft: Path, batches: tuple[int, ...], seed: int
) -> tuple[float | None, float | None]:
    """As `_compare`, where the runtime can run here. Raises RuntimeError for another output."""
    if form.run is None:
        return None, None
    difference, scale = _compare(network, form.run(draft), batches, seed)
    if not difference <= TOLERANCE * scale:
        raise RuntimeError(
            f"{form.runtime}'s output differs from torch's by {difference:.3g}, more than "
            f"{TOLERANCE:g} of the largest output {scale:.3g}; nothing was written"
        )
    return difference, scale


def _compare(
    network: Network | Backbone | FakeQuantized, run: Run, batches: tuple[int, ...], seed: int
) -> tuple[float, float]:
    """Largest absolute difference of torch and a runtime, and largest absolute output."""
    rng = np.random.default_rng(seed)
    subnet = network.network.subnet if isinstance(network, FakeQuantized) else network.subnet
    difference = scale = 0.0
    for batch in batches:
        images = rng.standard_normal(_shape(subnet, batch), dtype=np.float32)
        with torch.inference_mode():
            given = network(torch.from_numpy(images))
        expected = given if isinstance(given, list) else [given]
        for wanted, found in zip(expected, run(images), strict=True):
            apart = np.abs(found - wanted.numpy()).max()
            difference = float(np.maximum(difference, apart))  # nan stays
            scale = max(scale, float(wanted.abs().max()))
    return difference, scale


def _metadata(subnet: Subnet, trained: Trained | None, target: Target, seed: int) -> dict[str, str]:
    metadata = {
        **versions(),
        "space": subnet.space,
        "subnet": fingerprint(subnet),
        "resolution": str(subnet.resolution),
        "channels": _channels(subnet),
        "layout": "NCHW",
        "macs": str(subnet.macs),
    }
    for name, value in vars(target).items():
        if value is not None:
            metadata[name] = str(value)
    if trained is None:
        return metadata | {"weights": "untrained", "seed": str(seed)}
    values = {
        name: json.dumps(value)
        for name, value in trained.values.items()
        if name != "quantized"  # which the scales of an int8 file tell
    }
    return metadata | {
        "weights": "trained",
        "preprocessing": f"({_channels(subnet)} / 255 - mean) / std",
        "top1_resolution": values.pop("resolution"),
        **values,
    }


def _channels(subnet: Subnet) -> str:
    return {1: "gray", 3: "RGB"}.get(subnet.in_channels, f"{subnet.in_channels} channels")
