"""Models in int8: QDQ graphs, as `onnxruntime.quantization` makes them of the float ones.

Weights are signed, with a scale for each output channel. Activations have a scale for each tensor,
and are signed or not: which of both is fast depends on the processor's instructions.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

from tfnas.deploy.onnx_graph import INPUT, OUTPUT, build_model, random_weights
from tfnas.process.checks import check_choice
from tfnas.space.ops import OpSpec
from tfnas.space.size import sides

PRECISION = "int8"
ACTIVATIONS = {"uint8": TensorProto.UINT8, "int8": TensorProto.INT8}
METHODS = ("minmax", "entropy", "percentile")
IMAGE_CHANNELS = 4  # the most that an image has; what has more is a map inside a net
QUANTIZE = "QuantizeLinear"
NOISE = 8  # images that set the ranges where weights are random


@dataclass(frozen=True)
class Quantization:
    """How a net becomes an int8 one.

    Attributes:
        activations: uint8 | int8
        method: minmax | entropy | percentile: how a range follows from what was seen.
        float_ops: numbers of ops that stay as they are.
        reduce_range: 7 bits for weights: x86 processors without VNNI add up pairs of products in
            16 bits, which 8 bits overflow.
        ranges: (lowest, highest) value of each map that is quantized, by its name in the float
            model, as quantization-aware training left them; None: calibration tells.

    Raises:
        ValueError: for another kind of activations or method.
    """

    activations: str
    method: str = "minmax"
    float_ops: tuple[int, ...] = ()
    reduce_range: bool = False
    ranges: Mapping[str, tuple[float, float]] | None = None

    def __post_init__(self) -> None:
        check_choice("activations", self.activations, ACTIVATIONS)
        check_choice("calibration method", self.method, METHODS)


@dataclass(frozen=True)
class Int8Check:
    """Accuracies in float and int8 on the same images.

    Attributes:
        images: how many.
        worst_class: the class that loses most, and how much of its accuracy.
        layers: maps that int8 changes most, with signal over error in dB, the worst first; none
            where top-1 drops by less than a point.
    """

    images: int
    float_top1: float
    int8_top1: float
    worst_class: tuple[str, float]
    layers: tuple[tuple[str, float], ...]

    @property
    def drop(self) -> float:
        return self.float_top1 - self.int8_top1


def quantized(
    model: onnx.ModelProto, images: Iterable[np.ndarray], how: Quantization
) -> onnx.ModelProto:
    """A float32 model of `build_model` as an int8 one, input and outputs still float32.

    Args:
        images: batches (N, C, H, W) that tell the range of each tensor where `how` doesn't.

    Raises:
        ValueError: if `how.ranges` lack a map that is quantized.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # as profilers/onboard/ort.py
    from onnxruntime import quantization as ort

    methods = {
        "minmax": ort.CalibrationMethod.MinMax,
        "entropy": ort.CalibrationMethod.Entropy,
        "percentile": ort.CalibrationMethod.Percentile,
    }
    kinds = {"uint8": ort.QuantType.QUInt8, "int8": ort.QuantType.QInt8}
    source = onnx.ModelProto()
    source.CopyFrom(model)
    # Constants are folded and shapes are known already, so its advice to do so is out of place.
    onnx.helper.set_model_props(source, {"onnx.quant.pre_process": "onnxruntime.quant"})
    with tempfile.TemporaryDirectory(prefix="tfnas-") as folder:
        path = Path(folder) / "int8.onnx"
        ort.quantize_static(
            source,
            path,
            ImageReader(images),
            per_channel=True,
            reduce_range=how.reduce_range,
            activation_type=kinds[how.activations],
            weight_type=ort.QuantType.QInt8,
            nodes_to_exclude=[
                node.name
                for node in source.graph.node
                if int(node.name.partition(".")[0]) in how.float_ops
            ],
            calibrate_method=methods[how.method],
            extra_options={"TensorQuantOverrides": _overrides(source, how.ranges or {})},
        )
        result = onnx.load_model(path)
    if how.ranges is not None:
        _check_ranges(result, how.ranges)
    del result.metadata_props[:]
    result.metadata_props.extend(model.metadata_props)
    result.producer_name = model.producer_name
    return result


def _overrides(
    model: onnx.ModelProto, ranges: Mapping[str, tuple[float, float]]
) -> dict[str, list[dict[str, np.float32]]]:
    """Ranges as the quantizer takes them; it refuses names that the model doesn't have."""
    there = {INPUT, *(name for node in model.graph.node for name in node.output)}
    return {
        name: [{"rmin": np.float32(low), "rmax": np.float32(high)}]
        for name, (low, high) in ranges.items()
        if name in there
    }


def _check_ranges(model: onnx.ModelProto, ranges: Mapping[str, tuple[float, float]]) -> None:
    """Raises ValueError for a map that was quantized by another range than a given one."""
    scale = "_scale"  # what the quantizer calls that of a map, after the map's name
    used = {n.input[1].removesuffix(scale) for n in model.graph.node if n.op_type == QUANTIZE}
    if unknown := sorted(used - ranges.keys()):
        raise ValueError(f"the weights have no ranges for {', '.join(unknown[:4])}")


def int8_row(ops: Sequence[OpSpec], batch: int, activations: str) -> onnx.ModelProto:
    """A row of ops in int8, to be measured, with weights that don't matter.

    Inside a net maps stay int8 from op to op. So a row takes and gives int8, but for an image,
    which comes as float32, and logits, which leave so: rows add up to what a net is.
    """
    rng = np.random.default_rng(0)
    first, last = ops[0], ops[-1]
    model = build_model(ops, random_weights(ops, rng), batch)
    images = -(-NOISE // batch)
    shape = (batch, first.c_in, *sides(first.size))
    noise = (rng.standard_normal(shape, np.float32) for _ in range(images))
    result = quantized(model, noise, Quantization(activations))
    if first.c_in > IMAGE_CHANNELS:
        _take_int8(result, ACTIVATIONS[activations])
    if not last.classifies:
        _give_int8(result, ACTIVATIONS[activations])
    onnx.checker.check_model(result)
    return result


def _take_int8(model: onnx.ModelProto, kind: int) -> None:
    """Leave out the node that quantizes the input; maps come with channels last, as they lie."""
    graph = model.graph
    node = next(n for n in graph.node if n.op_type == QUANTIZE and n.input[0] == INPUT)
    node.CopyFrom(helper.make_node("Transpose", [INPUT], [node.output[0]], perm=[0, 3, 1, 2]))
    n, c, h, w = (dim.dim_value for dim in graph.input[0].type.tensor_type.shape.dim)
    graph.input[0].CopyFrom(helper.make_tensor_value_info(INPUT, kind, [n, h, w, c]))


def _give_int8(model: onnx.ModelProto, kind: int) -> None:
    """Leave out the node that makes floats of the output, likewise."""
    graph = model.graph
    node = next(n for n in graph.node if n.output[0] == OUTPUT)
    if node.op_type != "DequantizeLinear":  # of an op that no runtime has in int8
        return
    node.CopyFrom(helper.make_node("Transpose", [node.input[0]], [OUTPUT], perm=[0, 2, 3, 1]))
    n, c, h, w = (dim.dim_value for dim in graph.output[0].type.tensor_type.shape.dim)
    graph.output[0].CopyFrom(helper.make_tensor_value_info(OUTPUT, kind, [n, h, w, c]))


class ImageReader:
    """A `CalibrationDataReader`: what is protocol there is a base class with a registry."""

    def __init__(self, images: Iterable[np.ndarray]):
        self._batches: Iterator[np.ndarray] = iter(images)

    def get_next(self) -> dict[str, np.ndarray] | None:
        batch = next(self._batches, None)
        return None if batch is None else {INPUT: batch}

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
        return iter(self.get_next, None)
