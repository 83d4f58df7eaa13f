"""Core ML packages of our own ONNX graphs, layer by layer by the builder of Apple's coremltools:
ML programs for iOS 15, macOS 12 and newer, float32. They run on Apple's systems alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from tfnas.deploy.contract import Format
from tfnas.process.checks import lookup

Attributes = Mapping[str, Any]


def _write(model: bytes, shape: Sequence[int], path: Path) -> None:
    """Raises ValueError for a layer that `tfnas.deploy.onnx_graph` doesn't write."""
    import coremltools
    from coremltools.converters.mil import Builder

    graph = onnx.load_model_from_string(model).graph
    target = coremltools.target.iOS15
    spec = Builder.TensorSpec(shape=tuple(shape))

    def program(image: Any) -> tuple[Any, ...]:
        values = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
        values[graph.input[0].name] = image
        for node in graph.node:
            given = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
            layer = lookup("no Core ML layer for", node.op_type, COREML_LAYERS)
            inputs = [values[name] for name in node.input]
            values[node.output[0]] = layer(Builder, inputs, given)
        return tuple(
            Builder.identity(x=values[value.name], name=_name(value.name)) for value in graph.output
        )

    made = Builder.program(input_specs=[spec], opset_version=target)(program)
    coremltools.convert(
        made, convert_to="mlprogram", compute_precision=coremltools.precision.FLOAT32,
        minimum_deployment_target=target,
    ).save(str(path))  # fmt: skip


def _name(text: str) -> str:
    """As Core ML takes one."""
    return f"map_{text.replace('.', '_')}" if text[:1].isdigit() else text


def _conv(builder: Any, inputs: Sequence[Any], given: Attributes) -> Any:
    x, weight, bias = inputs
    top, left, bottom, right = given["pads"]
    return builder.conv(
        x=x, weight=weight, bias=bias, strides=given["strides"], pad_type="custom",
        pad=[top, bottom, left, right], groups=given["group"],
    )  # fmt: skip


def _hard_sigmoid(builder: Any, inputs: Sequence[Any], given: Attributes) -> Any:
    return builder.sigmoid_hard(x=inputs[0], alpha=given["alpha"], beta=given["beta"])


def _hard_swish(builder: Any, inputs: Sequence[Any], _given: Attributes) -> Any:
    gate = builder.sigmoid_hard(x=inputs[0], alpha=1 / 6, beta=0.5)
    return builder.mul(x=inputs[0], y=gate)


def _clip(builder: Any, inputs: Sequence[Any], _given: Attributes) -> Any:
    x, low, high = inputs
    return builder.clip(x=x, alpha=np.float32(low), beta=np.float32(high))


def _flatten(builder: Any, inputs: Sequence[Any], _given: Attributes) -> Any:
    return builder.reshape(x=inputs[0], shape=inputs[0].shape[:2])  # of one pixel


# By ONNX's name of the layer.
COREML_LAYERS: Mapping[str, Callable[[Any, Sequence[Any], Attributes], Any]] = {
    "Conv": _conv,
    "Relu": lambda builder, inputs, _: builder.relu(x=inputs[0]),
    "Clip": _clip,
    "HardSwish": _hard_swish,
    "Sigmoid": lambda builder, inputs, _: builder.sigmoid(x=inputs[0]),
    "HardSigmoid": _hard_sigmoid,
    "Identity": lambda builder, inputs, _: builder.identity(x=inputs[0]),
    "Mul": lambda builder, inputs, _: builder.mul(x=inputs[0], y=inputs[1]),
    "Add": lambda builder, inputs, _: builder.add(x=inputs[0], y=inputs[1]),
    "GlobalAveragePool": lambda builder, inputs, _: builder.reduce_mean(
        x=inputs[0], axes=[2, 3], keep_dims=True
    ),
    "Flatten": _flatten,
    "Gemm": lambda builder, inputs, _: builder.linear(
        x=inputs[0], weight=inputs[1], bias=inputs[2]
    ),
}

COREML = Format(
    "Core ML", ".mlpackage", ("coremltools",), lambda batch: batch is not None, _write, None
)
