"""What a net is exported as: ONNX, or what a runtime's own converter makes of that."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from importlib import util
from pathlib import Path

from tfnas.deploy.contract import Format, Run
from tfnas.deploy.coreml_file import COREML
from tfnas.deploy.ncnn_file import NCNN
from tfnas.deploy.openvino_file import OPENVINO
from tfnas.deploy.tflite_file import TFLITE
from tfnas.process.checks import lookup


def _write_onnx(onnx: bytes, _shape: Sequence[int], path: Path) -> None:
    path.write_bytes(onnx)


def run_onnx(path: Path) -> Run:
    """On one thread of the CPU."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # as profilers/onboard/ort.py
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    (given,) = session.get_inputs()
    return lambda images: session.run(None, {given.name: images})


ONNX = Format(
    "onnxruntime", ".onnx", ("onnx", "onnxruntime"), lambda _batch: True, _write_onnx, run_onnx
)
FORMATS: Mapping[str, Format] = {
    "onnx": ONNX, "openvino": OPENVINO, "tflite": TFLITE, "ncnn": NCNN, "coreml": COREML,
}  # fmt: skip


def usable_format(name: str, batch: int | None) -> Format:
    """A format by its name.

    Raises:
        ValueError: if there is none, or it can't have such a batch.
        LookupError: if a package isn't installed.
    """
    found = lookup("format", name, FORMATS)
    if not found.takes(batch):
        some = "a number" if found.takes(2) else "1"
        given = "null" if batch is None else batch
        raise ValueError(f"format={name} with batch={given}: expected batch={some}")
    missing = [p for p in found.packages if util.find_spec(p.replace("-", "_")) is None]
    if missing:
        raise LookupError(f"format={name} needs packages: pip install {' '.join(missing)}")
    return found
