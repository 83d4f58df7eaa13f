"""Ops as ONNX graphs, built directly: about 1 ms a block, where torch's exporters take 20 and more.

What is measured for the table and what is exported in the end come from this one builder, so both
have the same ops for a runtime to fuse. Batch norm is folded into the convolutions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tfnas.process.checks import lookup
from tfnas.space.ops import MAX_LAYERS, OpSpec
from tfnas.space.size import Size, sides, size_of

OPSET = 17  # the newest that TensorRT 8.6 reads
IR_VERSION = 8  # of opset 17
INPUT, OUTPUT = "input", "output"
Weights = Mapping[str, np.ndarray]  # `<op index>.<layer>.weight|bias` -> folded values


class _Graph:
    """Nodes and initializers in the making."""

    def __init__(self, weights: Weights):
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self.weights = weights

    def node(self, op_type: str, inputs: Sequence[str], name: str, **attributes: Any) -> str:
        """Append a node; its output carries its name, since runtimes drop node names on fusing."""
        self.nodes.append(helper.make_node(op_type, inputs, [name], name=name, **attributes))
        return name

    def constant(self, name: str) -> str:
        value = np.ascontiguousarray(self.weights[name], dtype=np.float32)
        self.initializers.append(numpy_helper.from_array(value, name))
        return name

    def conv(
        self, x: str, name: str, kernel: int, stride: int = 1, group: int = 1, act: str = "none"
    ) -> str:
        inputs = [x, self.constant(f"{name}.weight"), self.constant(f"{name}.bias")]
        pad = kernel // 2
        y = self.node(
            "Conv", inputs, f"{name}.conv", kernel_shape=[kernel, kernel],
            strides=[stride, stride], pads=[pad] * 4, group=group,
        )  # fmt: skip
        return lookup("activation", act, ONNX_ACTIVATIONS)(self, y, name)


def _relu6(graph: _Graph, x: str, name: str) -> str:
    for bound, value in (("low", 0.0), ("high", 6.0)):
        tensor = numpy_helper.from_array(np.array(value, np.float32), f"{name}.{bound}")
        graph.initializers.append(tensor)
    return graph.node("Clip", [x, f"{name}.low", f"{name}.high"], f"{name}.relu6")


def _swish(graph: _Graph, x: str, name: str) -> str:
    gate = graph.node("Sigmoid", [x], f"{name}.sigmoid")
    return graph.node("Mul", [x, gate], f"{name}.swish")


# The nodes of each activation behind a layer, of which the last one is named after it.
ONNX_ACTIVATIONS: Mapping[str, Callable[[_Graph, str, str], str]] = {
    "relu": lambda graph, x, name: graph.node("Relu", [x], f"{name}.relu"),
    "relu6": _relu6,
    "swish": _swish,
    "hard_swish": lambda graph, x, name: graph.node("HardSwish", [x], f"{name}.hard_swish"),
    "none": lambda _graph, x, _name: x,
}


class _Written:
    """Names and shapes in a model, to read its ops off them."""

    def __init__(self, model: onnx.ModelProto):
        self.nodes = {node.name: node for node in model.graph.node}
        self.shapes = {t.name: tuple(t.dims) for t in model.graph.initializer}

    def shape(self, layer: str) -> tuple[int, ...] | None:
        """Of a layer's weight; None where there is no such layer."""
        return self.shapes.get(f"{layer}.weight")

    def act(self, layer: str) -> str:
        return next((act for act in ONNX_ACTIVATIONS if f"{layer}.{act}" in self.nodes), "none")

    def stride(self, layer: str) -> int:
        attributes = {a.name: a for a in self.nodes[f"{layer}.conv"].attribute}
        return attributes["strides"].ints[0]


def _write_conv(graph: _Graph, x: str, op: OpSpec, name: str) -> str:
    return graph.conv(x, f"{name}.conv", op.kernel, op.stride, 1, op.act)


def _read_conv(model: _Written, name: str, size: Size) -> OpSpec | None:
    layer = f"{name}.conv"
    if (shape := model.shape(layer)) is None or f"{name}.pool" in model.nodes:
        return None
    c_out, c_in, kernel, _ = shape
    stride, act = model.stride(layer), model.act(layer)
    return OpSpec("conv", size, c_in, 0, 0, c_out, kernel, stride, act)


def _sigmoid(graph: _Graph, x: str, name: str) -> str:
    return graph.node("Sigmoid", [x], f"{name}.se_sigmoid")


def _hard_sigmoid(graph: _Graph, x: str, name: str) -> str:
    return graph.node("HardSigmoid", [x], f"{name}.se_hard_sigmoid", alpha=1 / 6, beta=0.5)


class Excite(NamedTuple):
    """What a squeeze-excite applies in ONNX; see `tfnas.nets.activations.EXCITES`."""

    act: str | None
    gate: Callable[[_Graph, str, str], str]


ONNX_EXCITES: Mapping[str, Excite] = {
    "mbconv": Excite(None, _sigmoid),
    "mbconv_v3": Excite("relu", _hard_sigmoid),
}


def _write_mbconv(graph: _Graph, x: str, op: OpSpec, name: str) -> str:
    y = graph.conv(x, f"{name}.expand", 1, act=op.act) if op.expands else x
    y = graph.conv(y, f"{name}.depthwise", op.kernel, op.stride, op.c_mid, op.act)
    if op.c_se:
        s = graph.node("GlobalAveragePool", [y], f"{name}.se_pool")
        excite = ONNX_EXCITES[op.kind]
        s = graph.conv(s, f"{name}.se_reduce", 1, act=excite.act or op.act)
        s = graph.conv(s, f"{name}.se_expand", 1)
        s = excite.gate(graph, s, name)
        y = graph.node("Mul", [y, s], f"{name}.se_scale")
    y = graph.conv(y, f"{name}.project", 1)
    return graph.node("Add", [x, y], f"{name}.residual") if op.residual else y


def _read_mbconv(model: _Written, name: str, size: Size) -> OpSpec | None:
    layer = f"{name}.depthwise"
    shape, project = model.shape(layer), model.shape(f"{name}.project")
    if shape is None or project is None:
        return None
    c_mid, _, kernel, _ = shape
    c_in = (model.shape(f"{name}.expand") or (c_mid, c_mid))[1]
    c_se = (model.shape(f"{name}.se_reduce") or (0,))[0]
    kind = "mbconv_v3" if f"{name}.se_hard_sigmoid" in model.nodes else "mbconv"
    stride, act = model.stride(layer), model.act(layer)
    return OpSpec(kind, size, c_in, c_mid, c_se, project[0], kernel, stride, act)


def _write_identity(_graph: _Graph, x: str, _op: OpSpec, _name: str) -> str:
    return x


def _write_pooled_conv(graph: _Graph, x: str, op: OpSpec, name: str) -> str:
    pooled = graph.node("GlobalAveragePool", [x], f"{name}.pool")
    return graph.conv(pooled, f"{name}.conv", 1, act=op.act)


def _read_pooled_conv(model: _Written, name: str, size: Size) -> OpSpec | None:
    layer = f"{name}.conv"
    if (shape := model.shape(layer)) is None or f"{name}.pool" not in model.nodes:
        return None
    return OpSpec("pooled_conv", size, shape[1], 0, 0, shape[0], 1, 1, model.act(layer))


def _write_pooled_linear(graph: _Graph, x: str, op: OpSpec, name: str) -> str:
    pooled = graph.node("GlobalAveragePool", [x], f"{name}.pool")
    return graph.conv(pooled, f"{name}.dense", 1, act=op.act)


def _read_pooled_linear(model: _Written, name: str, size: Size) -> OpSpec | None:
    layer = f"{name}.dense"
    if (shape := model.shape(layer)) is None:
        return None
    return OpSpec("pooled_linear", size, shape[1], 0, 0, shape[0], 1, 1, model.act(layer))


def _write_classifier(graph: _Graph, x: str, op: OpSpec, name: str) -> str:
    pooled = graph.node("GlobalAveragePool", [x], f"{name}.pool")
    flat = graph.node("Flatten", [pooled], f"{name}.flat", axis=1)
    weights = [graph.constant(f"{name}.linear.{what}") for what in ("weight", "bias")]
    return graph.node("Gemm", [flat, *weights], f"{name}.linear", transB=1)


def _read_classifier(model: _Written, name: str, size: Size) -> OpSpec | None:
    if (shape := model.shape(f"{name}.linear")) is None:
        return None
    return OpSpec("classifier", size, shape[1], 0, 0, shape[0], 1, 1, "none")


class OnnxKind(NamedTuple):
    """One kind of op in ONNX.

    Attributes:
        write: appends its nodes behind a value, all named after its index; the output's name.
        read: the op of an index and a size, None where it is of another kind.
    """

    write: Callable[[_Graph, str, OpSpec, str], str]
    read: Callable[[_Written, str, Size], OpSpec | None]


ONNX_KINDS: Mapping[str, OnnxKind] = {
    "conv": OnnxKind(_write_conv, _read_conv),
    "mbconv": OnnxKind(_write_mbconv, _read_mbconv),
    "mbconv_v3": OnnxKind(_write_mbconv, _read_mbconv),
    # It has no node to be read off: an index that no node has is one.
    "identity": OnnxKind(_write_identity, lambda _model, _name, _size: None),
    "pooled_conv": OnnxKind(_write_pooled_conv, _read_pooled_conv),
    "pooled_linear": OnnxKind(_write_pooled_linear, _read_pooled_linear),
    "classifier": OnnxKind(_write_classifier, _read_classifier),
}


def build_model(
    ops: Sequence[OpSpec],
    weights: Weights,
    batch: int | None = 1,
    metadata: Mapping[str, str] | None = None,
    taken: Sequence[int] | None = None,
) -> onnx.ModelProto:
    """A row of ops as one float32 ONNX model, input (batch, c_in, height, width).

    Args:
        ops: each takes what the one before it gives.
        weights: of every op, batch norm folded; see `random_weights` for names and shapes.
        batch: None leaves the batch size open.
        metadata: written into the model's metadata_props.
        taken: numbers of the ops whose outputs are the model's; None: the last one's.
    """
    graph = _Graph(weights)
    x, after = INPUT, []
    for index, op in enumerate(ops):
        x = lookup("op kind", op.kind, ONNX_KINDS).write(graph, x, op, str(index))
        after.append(x)
    first = ops[0]
    n = "batch" if batch is None else batch
    outputs = []
    if taken is None:
        if not graph.nodes:  # of identities alone
            graph.node("Identity", [x], f"{len(ops) - 1}.identity")
        graph.nodes[-1].output[0] = OUTPUT
        taken, names = [len(ops) - 1], [OUTPUT]
    else:
        names = [after[index] for index in taken]
    for index, name in zip(taken, names, strict=True):
        op = ops[index]
        shape = [n, op.c_out, *(() if op.classifies else sides(op.out_size))]
        outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
    proto = helper.make_graph(
        graph.nodes,
        "tfnas",
        [helper.make_tensor_value_info(
            INPUT, TensorProto.FLOAT, [n, first.c_in, *sides(first.size)]
        )],
        outputs,
        graph.initializers,
    )  # fmt: skip
    model = helper.make_model(
        proto,
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="tfnas",
    )
    helper.set_model_props(model, dict(metadata or {}))
    return model


def weight_shapes(ops: Sequence[OpSpec]) -> dict[str, tuple[int, ...]]:
    """Name and shape of every folded weight that `build_model` needs, in order."""
    shapes: dict[str, tuple[int, ...]] = {}
    for index, op in enumerate(ops):
        for layer in op.layers:
            shapes[f"{index}.{layer.name}.weight"] = layer.shape
            shapes[f"{index}.{layer.name}.bias"] = layer.shape[:1]
    return shapes


def random_weights(ops: Sequence[OpSpec], rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Weights for measuring: latency depends on their shapes, not on their values.

    Scaled by fan-in, so that no activation grows into infinities or sinks into denormals, which
    would cost time that no trained net costs.
    """
    weights = {}
    for name, shape in weight_shapes(ops).items():
        fan_in = int(np.prod(shape[1:])) if len(shape) > 1 else 1
        values = rng.standard_normal(shape, dtype=np.float32)
        weights[name] = values * np.float32(0.1 if len(shape) == 1 else (2.0 / fan_in) ** 0.5)
    return weights


def weights_of(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    """The initializers of a model by name."""
    return {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}


def ops_of(model: onnx.ModelProto) -> tuple[OpSpec, ...]:
    """The ops that `build_model` made a model from.

    They are read off names and shapes, then built again and compared: what comes back is the model.

    Raises:
        ValueError: for a model that `build_model` didn't make.
    """
    try:
        ops = _read_ops(model)
        weights = weights_of(model)
        shapes = {name: weights[name].shape for name in weight_shapes(ops)}
        again = build_model(ops, weights, _batch_of(model))
    except (KeyError, IndexError, ValueError, TypeError) as error:
        raise ValueError(f"its layers are none that tfnas.export writes ({error!r:.200})") from None
    same = (
        shapes == weight_shapes(ops)
        and list(again.graph.node) == list(model.graph.node)
        and list(again.graph.input) == list(model.graph.input)
        and list(again.graph.output) == list(model.graph.output)
    )
    if not same:
        raise ValueError("its layers are none that tfnas.export writes (they come out otherwise)")
    return ops


def _batch_of(model: onnx.ModelProto) -> int | None:
    first = model.graph.input[0].type.tensor_type.shape.dim[0]
    return first.dim_value if first.HasField("dim_value") else None


def _read_ops(model: onnx.ModelProto) -> tuple[OpSpec, ...]:
    written = _Written(model)
    c, *maps = (d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim[1:])
    size = size_of(*maps)
    ops: list[OpSpec] = []
    indices = {int(name.partition(".")[0]) for name in written.nodes if ".identity" not in name}
    count = 1 + max(int(name.partition(".")[0]) for name in written.nodes)
    if count > MAX_LAYERS:
        raise ValueError(f"{count} layers, {MAX_LAYERS} are the most")
    for index in range(count):
        if index not in indices:
            ops.append(OpSpec("identity", size, c, 0, 0, c, 1, 1, "none"))
            continue
        found = (kind.read(written, str(index), size) for kind in ONNX_KINDS.values())
        op = next((op for op in found if op is not None), None)
        if op is None:
            raise ValueError(f"layer {index} is of no kind among {', '.join(ONNX_KINDS)}")
        ops.append(op)
        size, c = op.out_size, op.c_out
    return tuple(ops)


def half(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same model in float16, input and output too.

    Strongly typed runtimes take a net's types from the model. Weights beyond float16's range become
    its largest, so that none is infinite.

    Raises:
        ValueError: if the model doesn't fit together in float16, as one that casts to float32.
    """
    result = onnx.ModelProto()
    result.CopyFrom(model)
    graph = result.graph
    tensors = list(graph.initializer)
    for node in graph.node:
        tensors += [a.t for a in node.attribute if a.HasField("t")]
    for tensor in tensors:
        if tensor.data_type == TensorProto.FLOAT:
            most = np.finfo(np.float16).max
            values = numpy_helper.to_array(tensor).clip(-most, most).astype(np.float16)
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    for value in (*graph.input, *graph.output, *graph.value_info):
        if value.type.tensor_type.elem_type == TensorProto.FLOAT:
            value.type.tensor_type.elem_type = TensorProto.FLOAT16
    try:
        onnx.checker.check_model(result, full_check=True)
    except Exception as error:  # the checker's and the inference's share no base class
        raise ValueError(f"it can't be made float16: {str(error)[:300]}") from None
    return result


def with_batch(model: onnx.ModelProto, batch: int) -> onnx.ModelProto:
    """The same model with the batch size set where it was left open, in input and outputs."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    opened = {d.dim_param for i in result.graph.input for d in i.type.tensor_type.shape.dim[:1]}
    for value in (*result.graph.input, *result.graph.output):
        for first in value.type.tensor_type.shape.dim[:1]:
            if not first.HasField("dim_value") and first.dim_param in opened:
                first.dim_value = batch
    if result != model:
        del result.graph.value_info[:]  # what it says of the batch is no longer so
    return result
