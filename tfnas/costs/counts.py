"""Costs that are counted from a net's layers, whatever the device."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from tfnas.space.ops import OpSpec
from tfnas.space.search_space import Choice, SearchSpace
from tfnas.space.subnet import Subnet


@dataclass(frozen=True)
class _Counted(ABC):
    value_bytes: int  # of a weight: 4 in float32

    name: ClassVar[str]
    unit: ClassVar[str] = ""
    maximum: ClassVar[bool] = False

    @abstractmethod
    def op(self, op: OpSpec) -> float:
        """What one op costs."""

    def curve(self, choice: Choice) -> np.ndarray:
        return np.array([self.op(choice.at(width)) for width in choice.widths], float)

    def fixed(self, net: SearchSpace | Subnet) -> float:
        return sum(map(self.op, net.fixed))

    def total(self, subnet: Subnet) -> float:
        return sum(map(self.op, subnet.ops))

    def asked(self, target: float) -> str:
        return f"limits.{self.name}={target:g}"


class Macs(_Counted):
    """Multiply-accumulates for one image, convolutions and linear layers only."""

    name = "macs"

    def op(self, op: OpSpec) -> float:
        return op.macs


class Params(_Counted):
    """Parameters as torch counts them, scale and shift of batch norm included."""

    name = "params"

    def op(self, op: OpSpec) -> float:
        return op.params


class WeightsMb(_Counted):
    """Weights and biases of the exported net, batch norm folded, at its precision; MB are 1e6."""

    name, unit = "weights_mb", "MB"

    def op(self, op: OpSpec) -> float:
        return op.deployed_weights * self.value_bytes / 1e6
