"""ONNX models to measure: of rows of ops, and from files."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from profilers.onboard.rounds import MAX_INPUT
from tfnas.files.bounded import read_bytes, shown
from tfnas.space.ops import OpSpec

if TYPE_CHECKING:
    import onnx

MAX_ONNX_BYTES = 1_500_000_000  # what protobuf can hold is 2 GiB


def op_model(ops: Sequence[OpSpec], batch: int, activations: str | None = None) -> bytes:
    """An ONNX file of a row of ops, with weights that don't matter.

    Args:
        activations: uint8 | int8: an int8 one with these; None: float32.
    """
    from tfnas.deploy.onnx_graph import build_model, random_weights

    if activations is not None:
        from tfnas.deploy.int8 import int8_row

        return int8_row(ops, batch, activations).SerializeToString()
    weights = random_weights(ops, np.random.default_rng(0))
    return build_model(ops, weights, batch).SerializeToString()


def read_model(path: Path) -> bytes:
    """An ONNX file that is complete in itself and ends.

    Raises:
        ValueError: if it can't be read, points to other files or branches or loops.
    """
    import onnx

    try:
        content = read_bytes(path, MAX_ONNX_BYTES)
    except FileNotFoundError:
        raise ValueError(f"onnx={path}: no such file") from None
    except (OSError, ValueError) as error:
        raise ValueError(f"onnx={path}: {error}") from None
    try:
        model = onnx.load_model_from_string(content)
    except Exception as error:  # protobuf's own
        raise ValueError(f"ONNX Runtime can't run {path}: it is no ONNX model ({error})") from None
    tensors = list(model.graph.initializer)
    for sparse in model.graph.sparse_initializer:
        tensors += [sparse.values, sparse.indices]
    for node in [*model.graph.node, *(node for f in model.functions for node in f.node)]:
        for attribute in node.attribute:
            if attribute.HasField("g") or attribute.graphs:
                raise ValueError(
                    f"onnx={path}: {shown(node.op_type)} branches or loops; expected layers only"
                )
            tensors += [attribute.t, *attribute.tensors]
            for sparse in (attribute.sparse_tensor, *attribute.sparse_tensors):
                tensors += [sparse.values, sparse.indices]
    if any(t.external_data or t.data_location == onnx.TensorProto.EXTERNAL for t in tensors):
        raise ValueError(
            f"onnx={path} keeps weights in other files: expected one file; save it with "
            "onnx.save_model(model, FILE, save_as_external_data=False)"
        )
    return content


def onnx_model(content: bytes) -> onnx.ModelProto:
    import onnx

    return onnx.load_model_from_string(content)


def image_shape(model: onnx.ModelProto) -> list[int]:
    """The shape of the only input, 0 where a size is left open.

    Raises:
        ValueError: if there isn't one input, of float32.
    """
    import onnx

    initialized = {t.name for t in model.graph.initializer}
    inputs = [i for i in model.graph.input if i.name not in initialized]
    if len(inputs) != 1 or inputs[0].type.tensor_type.elem_type != onnx.TensorProto.FLOAT:
        found = ", ".join(i.name for i in inputs)
        raise ValueError(f"has the inputs {found}: expected one of float32")
    return [dim.dim_value for dim in inputs[0].type.tensor_type.shape.dim]


def image_model(model: onnx.ModelProto, name: str, batch: int) -> onnx.ModelProto:
    """A net with one float32 input, its batch size fixed.

    Raises:
        ValueError: if it isn't such a net, or is made for another batch.
    """
    from tfnas.deploy.onnx_graph import with_batch

    try:
        shape = image_shape(model)
    except ValueError as error:
        raise ValueError(f"{name} {error}") from None
    if not shape or not all(size > 0 for size in shape[1:]):
        raise ValueError(f"{name} takes {shape}: expected sizes, only the batch left open")
    if shape[0] and shape[0] != batch:
        raise ValueError(f"{name} is made for batch={shape[0]}, asked was batch={batch}")
    if batch * prod(shape[1:]) > MAX_INPUT:
        raise ValueError(f"{name} takes {[batch, *shape[1:]]}: {MAX_INPUT} values are the most")
    try:
        return with_batch(model, batch)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
