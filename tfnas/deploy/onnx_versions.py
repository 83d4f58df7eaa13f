"""Opset and IR version of an ONNX file, and the oldest ONNX Runtime that reads it."""

from __future__ import annotations

from dataclasses import dataclass

from tfnas.deploy.onnx_graph import OPSET

# The releases of ONNX Runtime that read a newer opset or IR version than the one before, with
# both (onnxruntime.ai/docs/reference/compatibility.html), from the first that has HardSwish.
RUNTIMES = (
    ("1.8", 14, 7), ("1.9", 15, 8), ("1.11", 16, 8), ("1.12", 17, 8), ("1.14", 18, 8),
    ("1.15", 19, 8), ("1.16", 19, 9), ("1.17", 20, 9), ("1.18", 21, 10),
)  # fmt: skip


@dataclass(frozen=True)
class OnnxVersions:
    opset: int
    ir: int

    @property
    def runtime(self) -> str:
        """The oldest ONNX Runtime that reads such a file."""
        return next(name for name, opset, ir in RUNTIMES if opset >= self.opset and ir >= self.ir)


def onnx_versions(opset: int | None, ir_version: int | None) -> OnnxVersions:
    """What is asked for.

    Args:
        opset: None: that of what is measured.
        ir_version: None: that of the oldest runtime which has the opset.

    Raises:
        ValueError: for what isn't in the table.
    """
    (_, oldest, oldest_ir), (_, newest, newest_ir) = RUNTIMES[0], RUNTIMES[-1]
    opset = OPSET if opset is None else opset
    if not oldest <= opset <= newest:
        raise ValueError(f"opset={opset}: expected {oldest} to {newest}")
    if ir_version is None:
        ir_version = next(ir for _, known, ir in RUNTIMES if known >= opset)
    if not oldest_ir <= ir_version <= newest_ir:
        raise ValueError(f"ir_version={ir_version}: expected {oldest_ir} to {newest_ir}")
    return OnnxVersions(opset, ir_version)
