"""Denormal numbers among a model's weights: too small to matter, and slow.

Below 1.2e-38 float32 loses digits, and processors compute with what is left by microcode, many
times slower. Weight decay makes such weights of channels that are of no use
(github.com/microsoft/onnxruntime/issues/5472).
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

SMALLEST = np.finfo(np.float32).tiny  # of the normal range


def flush_denormals(model: onnx.ModelProto) -> int:
    """Set the float32 constants of a model that are below the normal range to zero; how many."""
    count = 0
    for tensor in model.graph.initializer:
        if tensor.data_type != TensorProto.FLOAT:
            continue
        values = numpy_helper.to_array(tensor)
        small = (values != 0) & (np.abs(values) < SMALLEST)
        if small.any():
            count += int(small.sum())
            flushed = np.where(small, np.float32(0), values)
            tensor.CopyFrom(numpy_helper.from_array(flushed, tensor.name))
    return count
