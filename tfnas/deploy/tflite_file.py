"""TFLite files of our own ONNX graphs, layer by layer: converters of the whole of ONNX bring 2 GB.

Channels go last, as TFLite has them; an image's too, so inputs and outputs are (N, H, W, C).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from tfnas.deploy.contract import Format, Run
from tfnas.files.bounded import shown
from tfnas.process.checks import lookup

FILE_ID = b"TFL3"
VERSION = 3  # of the schema


def tflite_file(model: bytes) -> bytes:
    """An ONNX file with a fixed batch as a TFLite file, float32.

    Raises:
        ValueError: for a layer that `tfnas.deploy.onnx_graph` doesn't write.
        LookupError: if ai-edge-litert isn't installed, which has the file's schema.
    """
    try:
        import flatbuffers
        from ai_edge_litert import schema_py_generated as schema
    except ImportError as error:
        raise LookupError(
            f"TFLite files need its schema: pip install ai-edge-litert ({error})"
        ) from None
    graph = onnx.shape_inference.infer_shapes(onnx.load_model_from_string(model)).graph
    try:
        writer = _Writer(schema, graph)
        for node in graph.node:
            writer.node(node)
    except LookupError as error:  # of a value that no layer before it gives, or a missing weight
        raise ValueError(f"no TFLite file of a graph without {shown(str(error))}") from None
    builder = flatbuffers.Builder(len(model) + 10_000)
    builder.Finish(writer.model().Pack(builder), FILE_ID)
    return bytes(builder.Output())


def _write(model: bytes, _shape: Sequence[int], path: Path) -> None:
    path.write_bytes(tflite_file(model))


def _run(path: Path) -> Run:
    """On one thread of the CPU."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(path), num_threads=1)
    interpreter.allocate_tensors()
    (given,) = interpreter.get_input_details()

    def run(images: np.ndarray) -> list[np.ndarray]:
        interpreter.set_tensor(given["index"], images.transpose(0, 2, 3, 1))
        interpreter.invoke()
        outputs = [interpreter.get_tensor(o["index"]) for o in interpreter.get_output_details()]
        return [maps.transpose(0, 3, 1, 2) if maps.ndim == 4 else maps for maps in outputs]

    return run


class _Writer:
    """A file in the making; `schema` is TFLite's, generated from its flatbuffers."""

    def __init__(self, schema: Any, graph: onnx.GraphProto):
        self._schema = schema
        self._graph = graph
        self._constants = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
        values = (*graph.input, *graph.value_info, *graph.output)
        self._shapes = {
            v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in values
        }  # as ONNX has them
        self._users: dict[str, list[onnx.NodeProto]] = {}
        for node in graph.node:
            for name in node.input:
                self._users.setdefault(name, []).append(node)
        self._tensors: list[Any] = []
        self._buffers: list[Any] = [schema.BufferT()]  # the first is empty by definition
        self._codes: list[int] = []
        self._operators: list[Any] = []
        self._indices = {name.name: self._activation(name.name) for name in graph.input}

    def node(self, node: onnx.NodeProto) -> None:
        if node.output[0] not in self._indices:  # or else it is done with the layer before it
            lookup("no TFLite layer for", node.op_type, TFLITE_LAYERS)(self, node)

    def model(self) -> Any:
        schema = self._schema
        graph = schema.SubGraphT()
        graph.name = "tfnas"
        graph.tensors, graph.operators = self._tensors, self._operators
        graph.inputs = [self._indices[value.name] for value in self._graph.input]
        graph.outputs = [self._indices[value.name] for value in self._graph.output]
        model = schema.ModelT()
        model.version, model.description = VERSION, "tfnas"
        model.subgraphs, model.buffers = [graph], self._buffers
        model.operatorCodes = []
        for kind in self._codes:
            code = schema.OperatorCodeT()
            code.builtinCode, code.version = kind, 1
            code.deprecatedBuiltinCode = min(kind, 127)  # where old readers look
            model.operatorCodes.append(code)
        return model

    def _tensor(self, name: str, shape: Sequence[int], content: np.ndarray | None = None) -> int:
        tensor = self._schema.TensorT()
        tensor.name, tensor.shape, tensor.buffer = name, list(shape), 0
        is_index = content is not None and content.dtype == np.int32
        tensor.type = self._schema.TensorType.INT32 if is_index else self._schema.TensorType.FLOAT32
        if content is not None:
            buffer = self._schema.BufferT()
            buffer.data = np.frombuffer(np.ascontiguousarray(content).tobytes(), dtype=np.uint8)
            tensor.buffer = len(self._buffers)
            self._buffers.append(buffer)
        self._tensors.append(tensor)
        return len(self._tensors) - 1

    def _constant(self, name: str, content: np.ndarray) -> int:
        return self._tensor(name, content.shape, content)

    def _activation(self, name: str) -> int:
        shape = self._shapes.get(name, [])
        if len(shape) not in (2, 4) or min(shape) < 1:
            raise ValueError(f"{shown(name)} has the shape {shape}: expected sizes of an image")
        if len(shape) == 4:
            shape = [shape[0], shape[2], shape[3], shape[1]]
        return self._tensor(name, shape)

    def _emit(
        self, kind: str, inputs: Sequence[int], output: str, options: str = "", **values: Any
    ) -> None:
        """Append an operator whose output is the value of that name.

        Args:
            kind: of the schema's `BuiltinOperator`.
            options: the schema's name of what `values` are, without its `Options`.
        """
        self._indices[output] = self._activation(output)
        self._operator(kind, inputs, self._indices[output], options, **values)

    def _operator(
        self, kind: str, inputs: Sequence[int], output: int, options: str = "", **values: Any
    ) -> None:
        operator, code = self._schema.OperatorT(), getattr(self._schema.BuiltinOperator, kind)
        if code not in self._codes:
            self._codes.append(code)
        operator.opcodeIndex = self._codes.index(code)
        operator.inputs, operator.outputs = list(inputs), [output]
        if options:
            operator.builtinOptions = getattr(self._schema, f"{options}OptionsT")()
            vars(operator.builtinOptions).update(values)
            types = self._schema.BuiltinOptions
            operator.builtinOptionsType = getattr(types, f"{options}Options")
        self._operators.append(operator)

    def _fused(self, node: onnx.NodeProto) -> tuple[int, str]:
        """The activation that follows alone, which TFLite's layers have built in, and the output
        behind it."""
        users = self._users.get(node.output[0], [])
        kinds = self._schema.ActivationFunctionType
        if len(users) == 1 and users[0].op_type in ("Relu", "Clip"):
            kind = kinds.RELU if users[0].op_type == "Relu" else kinds.RELU6
            if users[0].op_type == "Relu" or self._is_relu6(users[0]):
                return kind, users[0].output[0]
        return kinds.NONE, node.output[0]

    def _is_relu6(self, node: onnx.NodeProto) -> bool:
        bounds = [self._constants.get(name) for name in node.input[1:]]
        return [b is not None and float(b) for b in bounds] == [0.0, 6.0]

    def _conv(self, node: onnx.NodeProto) -> None:
        given = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        weight, bias = self._constants[node.input[1]], self._constants[node.input[2]]
        x, channels = self._indices[node.input[0]], self._shapes[node.input[0]][1]
        size = self._shapes[node.input[0]][2:]
        strides = given.get("strides", [1, 1])
        top, left, bottom, right = given.get("pads", [0] * 4)
        group = given.get("group", 1)
        if group not in (1, channels) or any(d != 1 for d in given.get("dilations", [1])):
            raise ValueError(f"no TFLite layer for {group} groups of {channels} channels")
        if given.get("auto_pad", b"NOTSET") != b"NOTSET" or weight.ndim != 4:
            raise ValueError("no TFLite layer for a Conv but in two dimensions, with its pads told")
        same = [_same_padding(*row) for row in zip(size, weight.shape[2:], strides, strict=True)]
        padding = self._schema.Padding.VALID
        if any((top, left, bottom, right)):
            if same == [(top, bottom), (left, right)]:
                padding = self._schema.Padding.SAME
            else:  # TFLite's has more zeros at the end than at the beginning
                name = f"{node.output[0]}.pad"
                pads = np.array([[0, 0], [top, bottom], [left, right], [0, 0]], np.int32)
                batch = self._shapes[node.input[0]][0]
                padded = [batch, size[0] + top + bottom, size[1] + left + right, channels]
                output = self._tensor(name, padded)
                self._operator("PAD", [x, self._constant(f"{name}s", pads)], output, "Pad")
                x = output
        is_depthwise = group == channels and group > 1
        # (C, 1, H, W) -> (1, H, W, C), (O, I, H, W) -> (O, H, W, I)
        weight = weight.transpose((1, 2, 3, 0) if is_depthwise else (0, 2, 3, 1))
        activation, behind = self._fused(node)
        options = {
            "padding": padding, "strideH": strides[0], "strideW": strides[1],
            "dilationHFactor": 1, "dilationWFactor": 1, "fusedActivationFunction": activation,
        }  # fmt: skip
        inputs = [x, self._constant(node.input[1], weight), self._constant(node.input[2], bias)]
        if is_depthwise:
            options["depthMultiplier"] = weight.shape[3] // channels
            self._emit("DEPTHWISE_CONV_2D", inputs, behind, "DepthwiseConv2D", **options)
        else:
            self._emit("CONV_2D", inputs, behind, "Conv2D", **options)

    def _plain(self, node: onnx.NodeProto, kind: str) -> None:
        self._emit(kind, [self._indices[node.input[0]]], node.output[0])

    def _clip(self, node: onnx.NodeProto) -> None:
        if not self._is_relu6(node):
            raise ValueError("no TFLite layer for Clip but from 0 to 6")
        self._plain(node, "RELU6")

    def _hard_sigmoid(self, node: onnx.NodeProto) -> None:
        """Clipped to 0..6 after adding 3, then divided by 6: TFLite has no layer of its own."""
        given = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        alpha, beta = given.get("alpha", 0.2), given.get("beta", 0.5)
        if abs(alpha - 1 / 6) > 1e-6 or beta != 0.5:
            raise ValueError("no TFLite layer for HardSigmoid but of slope 1/6")
        kinds, name = self._schema.ActivationFunctionType, node.output[0]
        shape = self._shapes[name]
        three, sixth = (
            self._constant(f"{name}.{what}", np.array([value], np.float32))
            for what, value in (("shift", 3), ("scale", 1 / 6))
        )
        inner = self._tensor(f"{name}.clipped", [shape[0], *shape[2:], shape[1]])
        x = self._indices[node.input[0]]
        self._operator("ADD", [x, three], inner, "Add", fusedActivationFunction=kinds.RELU6)
        self._emit("MUL", [inner, sixth], name, "Mul", fusedActivationFunction=kinds.NONE)

    def _identity(self, node: onnx.NodeProto) -> None:
        shape = self._shapes[node.output[0]]
        shape = [shape[0], *shape[2:], shape[1]]
        new = self._constant(f"{node.output[0]}.shape", np.array(shape, np.int32))
        inputs = [self._indices[node.input[0]], new]
        self._emit("RESHAPE", inputs, node.output[0], "Reshape", newShape=shape)

    def _binary(self, node: onnx.NodeProto) -> None:
        if len({len(self._shapes[value]) for value in node.input}) != 1:
            raise ValueError(f"no TFLite layer for {node.op_type} of unlike shapes")
        inputs = [self._indices[value] for value in node.input]
        none = self._schema.ActivationFunctionType.NONE
        self._emit(
            node.op_type.upper(), inputs, node.output[0], node.op_type, fusedActivationFunction=none
        )

    def _pool(self, node: onnx.NodeProto) -> None:
        axes = self._constant(f"{node.output[0]}.axes", np.array([1, 2], np.int32))
        inputs = [self._indices[node.input[0]], axes]
        self._emit("MEAN", inputs, node.output[0], "Reducer", keepDims=True)

    def _flatten(self, node: onnx.NodeProto) -> None:
        shape = self._shapes[node.input[0]]
        if shape[2:] != [1, 1]:
            raise ValueError(f"no TFLite layer for Flatten of {shape}: expected one pixel")
        new = self._constant(f"{node.output[0]}.shape", np.array(shape[:2], np.int32))
        inputs = [self._indices[node.input[0]], new]
        self._emit("RESHAPE", inputs, node.output[0], "Reshape", newShape=shape[:2])

    def _gemm(self, node: onnx.NodeProto) -> None:
        given = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        usual = {"transA": 0, "transB": 0, "alpha": 1.0, "beta": 1.0}
        if {**usual, **given} != {**usual, "transB": 1} or len(node.input) != 3:
            raise ValueError("no TFLite layer for this Gemm: expected x·Bᵀ + c")
        activation, behind = self._fused(node)
        inputs = [self._indices[node.input[0]]]
        inputs += [self._constant(name, self._constants[name]) for name in node.input[1:]]
        options = {"fusedActivationFunction": activation}
        self._emit("FULLY_CONNECTED", inputs, behind, "FullyConnected", **options)


# By ONNX's name of the layer.
TFLITE_LAYERS: Mapping[str, Callable[[_Writer, onnx.NodeProto], None]] = {
    "Conv": _Writer._conv,
    "Relu": lambda writer, node: writer._plain(node, "RELU"),
    "Clip": _Writer._clip,
    "HardSwish": lambda writer, node: writer._plain(node, "HARD_SWISH"),
    "Sigmoid": lambda writer, node: writer._plain(node, "LOGISTIC"),
    "HardSigmoid": _Writer._hard_sigmoid,
    "Identity": _Writer._identity,
    "Mul": _Writer._binary,
    "Add": _Writer._binary,
    "GlobalAveragePool": _Writer._pool,
    "Flatten": _Writer._flatten,
    "Gemm": _Writer._gemm,
}


def _same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """What TFLite's SAME pads before and behind."""
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


TFLITE = Format(
    "LiteRT", ".tflite", ("ai-edge-litert",), lambda batch: batch is not None, _write, _run
)
