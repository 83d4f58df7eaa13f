"""The memory that a net's activations take at once.

Of the graph as it is deployed: batch norm is folded, ReLU is a part of its convolution, other
activations and the scaling by squeeze-excite write a tensor of their own, as in ONNX Runtime. A
tensor lives until its last use; weights don't count, see `tfnas.costs.counts.WeightsMb`.
`python -m benchmarks.latency.memory` compares it with what ONNX Runtime allocates.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from tfnas.space.ops import OpSpec
from tfnas.space.search_space import Choice, SearchSpace
from tfnas.space.subnet import Subnet

BLOCK = 16  # channels that convolutions have side by side, where a CPU has AVX-512
FUSED = ("relu", "none")  # activations that are done where they stand


@dataclass(frozen=True)
class MemoryMb:
    """The largest sum of activations that live at once, of one image; MB are 1e6 bytes.

    An op's includes what goes in and out. The whole net's is the largest op's.
    """

    value_bytes: int

    unit: ClassVar[str] = "MB"
    maximum: ClassVar[bool] = True

    def op(self, op: OpSpec) -> float:
        return peak_values(op) * self.value_bytes / 1e6

    def curve(self, choice: Choice) -> np.ndarray:
        return np.array([self.op(choice.at(width)) for width in choice.widths])

    def fixed(self, net: SearchSpace | Subnet) -> float:
        return max(map(self.op, net.fixed))

    def total(self, subnet: Subnet) -> float:
        return max(map(self.op, subnet.ops))

    def asked(self, target: float) -> str:
        return f"limits.memory_mb={target:g}"


def peak_values(op: OpSpec) -> int:
    """Numbers that live at once in one op, for one image, at most."""
    into, out = op.c_in * op.pixels, op.c_out * op.out_pixels
    if op.free:
        return into
    copies = 1 if op.act in FUSED else 2
    if not op.has_width:
        return max(into + out, copies * out)
    kept = into if op.residual else 0
    plain, padded = op.c_mid * op.out_pixels, _padded(op.c_mid) * op.out_pixels
    wide = _padded(op.c_mid) * op.pixels
    steps = [kept + padded + out, kept + copies * padded]
    if op.expands:
        steps += [into + wide, kept + copies * wide, kept + wide + padded]
    else:
        steps += [into + padded]
    if op.c_se:  # scaling is done in the plain layout, to which the padded one is copied
        buffers = 2 if copies == 2 or wide == padded else 1
        steps += [kept + (2 * plain if plain == padded else buffers * padded + 2 * plain)]
    return max(steps)


def _padded(channels: int) -> int:
    return -(-channels // BLOCK) * BLOCK
