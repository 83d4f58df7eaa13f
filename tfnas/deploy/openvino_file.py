"""OpenVINO's intermediate representation, by its own reader of ONNX: layers in an .xml file,
weights in a .bin file beside it, float32."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tfnas.deploy.contract import Format, Run


def _write(onnx: bytes, _shape: Sequence[int], path: Path) -> None:
    import openvino

    # As openvino.convert_model, which tells its maker that it was used.
    model = openvino.Core().read_model(onnx)
    openvino.save_model(model, str(path), compress_to_fp16=False)


def _run(path: Path) -> Run:
    """On one thread of the CPU, in float32 whatever else it has."""
    import openvino

    options = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    compiled = openvino.Core().compile_model(str(path), "CPU", options)

    def run(images: np.ndarray) -> list[np.ndarray]:
        found = compiled(images)
        return [found[output] for output in compiled.outputs]

    return run


OPENVINO = Format("OpenVINO", ".xml", ("openvino",), lambda _batch: True, _write, _run)
