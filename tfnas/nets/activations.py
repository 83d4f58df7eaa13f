"""What each activation is in torch, with the gradient that the CPU forms of layers take."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from tfnas.process.checks import lookup

aten = torch.ops.aten


@dataclass(frozen=True)
class Activation:
    """One activation.

    Attributes:
        function: from its input to its output.
        gradient: from the gradient of its output, which may be overwritten, and its input to the
            gradient of its input.
        by_output: whether `gradient` may be given the output for the input.
    """

    function: Callable[[Tensor], Tensor]
    gradient: Callable[[Tensor, Tensor], Tensor]
    by_output: bool = False


TORCH_ACTIVATIONS: Mapping[str, Activation] = {
    "relu": Activation(
        F.relu,
        lambda g, x: aten.threshold_backward.grad_input(g, x, 0, grad_input=g),
        by_output=True,  # above 0 where its input is
    ),
    "relu6": Activation(F.relu6, lambda g, x: aten.hardtanh_backward.default(g, x, 0.0, 6.0)),
    "swish": Activation(F.silu, lambda g, x: aten.silu_backward.grad_input(g, x, grad_input=g)),
    "hard_swish": Activation(F.hardswish, lambda g, x: aten.hardswish_backward.default(g, x)),
    "none": Activation(lambda x: x, lambda g, _: g),
}

# Gates of squeeze-excite by kind of op, of which each may be given its output for its input. Those
# of MobileNetV3 (arXiv 1905.02244) are piecewise linear, with a ReLU in the bottleneck.
SIGMOID = Activation(torch.sigmoid, lambda g, y: g * y * (1 - y), by_output=True)
HARD_SIGMOID = Activation(F.hardsigmoid, lambda g, y: g * ((y > 0) & (y < 1)) / 6, by_output=True)


@dataclass(frozen=True)
class Excite:
    """What a squeeze-excite applies.

    Attributes:
        act: in the bottleneck; None: that of the block.
        gate: on its output.
    """

    act: str | None
    gate: Activation


EXCITES: Mapping[str, Excite] = {
    "mbconv": Excite(None, SIGMOID),
    "mbconv_v3": Excite("relu", HARD_SIGMOID),
}


def activation(name: str) -> Activation:
    """Raises ValueError for an unknown one."""
    return lookup("activation", name, TORCH_ACTIVATIONS)


def activate(x: Tensor, name: str) -> Tensor:
    return activation(name).function(x)
