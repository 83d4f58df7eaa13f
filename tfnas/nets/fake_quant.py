"""A network that computes as its int8 export does, with gradients: for quantization-aware training.

Weights have batch norm folded in and are rounded for each output channel, symmetrically; maps are
rounded where ONNX Runtime's static quantization stores them, for each tensor, between its lowest
and highest value. Rounding passes gradients on as they come, and what is cut off at the end of a
range gets none (arXiv 1712.05877, arXiv 1806.08342). Whether an export then has signed or unsigned
activations makes no difference: the steps are the same. Biases are rounded to 32 bits.

Batch norm stays as it was trained: its statistics don't change, its scale and shift do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tfnas.nets.activations import EXCITES, HARD_SIGMOID, SIGMOID, Activation
from tfnas.nets.blocks import (
    Classifier,
    ConvBN,
    MBConv,
    Network,
    PooledConv,
    PooledLinear,
    drop_path,
)
from tfnas.nets.weights import Ranges
from tfnas.process.checks import lookup

INPUT, OUTPUT = "input", "output"  # as the exporter names what a net takes and gives
STEPS = 255  # of a map
MOST, MOST_REDUCED = 127, 64  # of a weight, and where it has 7 bits
SMALLEST = torch.finfo(torch.float32).tiny  # below it a scale counts as none
AVERAGED = 0.01  # how much of a range is that of the last batch: torch's default


class Map(NamedTuple):
    """What a layer takes, (N, c, H, W), and the size of its steps."""

    values: Tensor
    step: Tensor


@dataclass(frozen=True)
class Rounding:
    """What becomes of a network's tensors.

    Attributes:
        map: of values and their name in the exporter's graph.
        weights: of weight, (c_out, ...), and bias, (c_out,), where the map behind has such steps.
    """

    map: Callable[[Tensor, str], Map]
    weights: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


def _swish(y: Tensor, to: Rounding, name: str) -> Map:
    y = to.map(y, f"{name}.conv").values
    gate = to.map(torch.sigmoid(y), f"{name}.sigmoid").values
    return to.map(y * gate, f"{name}.swish")


def _hard_swish(y: Tensor, to: Rounding, name: str) -> Map:
    return to.map(F.hardswish(to.map(y, f"{name}.conv").values), f"{name}.hard_swish")


# Of what a convolution gives. Where its range begins at 0, a runtime's ReLU is part of it.
FAKE_ACTIVATIONS: Mapping[str, Callable[[Tensor, Rounding, str], Map]] = {
    "relu": lambda y, to, name: to.map(F.relu(y), f"{name}.relu"),
    "relu6": lambda y, to, name: to.map(F.relu6(y), f"{name}.relu6"),
    "swish": _swish,
    "hard_swish": _hard_swish,
    "none": lambda y, to, name: to.map(y, f"{name}.conv"),
}
GATES: Mapping[Activation, str] = {SIGMOID: "se_sigmoid", HARD_SIGMOID: "se_hard_sigmoid"}


def _conv(
    x: Map, conv: nn.Conv2d, bn: nn.BatchNorm2d | None, act: str, to: Rounding, name: str
) -> Map:
    weight, bias = to.weights(*folded(conv, bn), x.step)
    y = F.conv2d(x.values, weight, bias, conv.stride, conv.padding, groups=conv.groups)
    return lookup("activation", act, FAKE_ACTIVATIONS)(y, to, name)


def _conv_bn(x: Map, layer: ConvBN, to: Rounding, name: str) -> Map:
    return _conv(x, layer.conv, layer.bn, layer.act, to, name)


def _pool(x: Map, to: Rounding, name: str) -> Map:
    return to.map(F.adaptive_avg_pool2d(x.values, 1), name)


def _mbconv(x: Map, block: MBConv, to: Rounding, name: str) -> Map:
    y = x if block.expand is None else _conv_bn(x, block.expand, to, f"{name}.expand")
    y = _conv_bn(y, block.depthwise, to, f"{name}.depthwise")
    if block.se_reduce is not None and block.se_expand is not None:
        excite = EXCITES[block.op.kind]
        s = _pool(y, to, f"{name}.se_pool")
        s = _conv(s, block.se_reduce, None, excite.act or block.op.act, to, f"{name}.se_reduce")
        s = _conv(s, block.se_expand, None, "none", to, f"{name}.se_expand")
        s = to.map(excite.gate.function(s.values), f"{name}.{GATES[excite.gate]}")
        y = to.map(y.values * s.values, f"{name}.se_scale")
    y = _conv_bn(y, block.project, to, f"{name}.project")
    if not block.op.residual:
        return y
    rate = block.drop_connect if block.training else 0.0
    return to.map(x.values + drop_path(y.values, rate), f"{name}.residual")


def _pooled_conv(x: Map, layer: PooledConv, to: Rounding, name: str) -> Map:
    return _conv(_pool(x, to, f"{name}.pool"), layer.conv, None, layer.act, to, f"{name}.conv")


def _pooled_linear(x: Map, layer: PooledLinear, to: Rounding, name: str) -> Map:
    return _conv(_pool(x, to, f"{name}.pool"), layer.dense, None, layer.act, to, f"{name}.dense")


def _classifier(x: Map, layer: Classifier, to: Rounding, name: str, logits: str) -> Map:
    pooled = _pool(x, to, f"{name}.pool")
    flat = F.dropout(pooled.values.flatten(1), layer.dropout, layer.training)
    weight, bias = to.weights(layer.linear.weight, layer.linear.bias, pooled.step)
    return to.map(F.linear(flat, weight, bias), logits)


def rounded(network: Network, x: Tensor, to: Rounding) -> Tensor:
    """What a network gives of (N, C, H, W) images where its tensors are rounded so."""
    y = to.map(x, INPUT)
    last = len(network.layers) - 1
    for number, module in enumerate(network.layers):
        name = str(number)
        match module:
            case ConvBN():
                y = _conv_bn(y, module, to, f"{name}.conv")
            case MBConv():
                y = _mbconv(y, module, to, name)
            case PooledConv():
                y = _pooled_conv(y, module, to, name)
            case PooledLinear():
                y = _pooled_linear(y, module, to, name)
            case Classifier():
                y = _classifier(y, module, to, name, OUTPUT if number == last else f"{name}.linear")
            case nn.Identity():
                pass
            case _:
                raise TypeError(f"{type(module).__name__} has no int8 form")
    return y.values


def folded(conv: nn.Conv2d, bn: nn.BatchNorm2d | None) -> tuple[Tensor, Tensor]:
    """Weight and bias with batch norm folded in, float32, computed in float64 as an export does."""
    if bn is None:
        bias = conv.weight.new_zeros(len(conv.weight)) if conv.bias is None else conv.bias
        return conv.weight, bias
    assert bn.running_mean is not None
    assert bn.running_var is not None
    scale = bn.weight.double() / (bn.running_var.double() + bn.eps).sqrt()
    weight = conv.weight.double() * scale[:, None, None, None]
    bias = bn.bias.double() - bn.running_mean.double() * scale
    return weight.float(), bias.float()


def round_weights(
    weight: Tensor, bias: Tensor, map_step: Tensor, most: int
) -> tuple[Tensor, Tensor]:
    """Rounded to whole steps, of the weight -most to most; steps are each output channel's own."""
    largest = weight.detach().flatten(1).abs().amax(1).double()
    step = _usable((largest / most).float())
    zero = torch.zeros_like(step, dtype=torch.int32)
    steps = (bias.detach().double() / (map_step * step).double()).round()
    off = steps * (map_step * step) - bias.detach()
    return (
        torch.fake_quantize_per_channel_affine(weight, step, zero, 0, -most, most),
        bias + off.float(),
    )


def round_map(x: Tensor, low: Tensor, high: Tensor) -> Map:
    """Rounded to 256 whole steps from `low` to `high`, of which one is 0."""
    exact = (high.double() - low.double()) / STEPS
    step = _usable(exact.float())
    zero = torch.where(exact < SMALLEST, 0.0, (-low / exact.clamp_min(SMALLEST)).round()).int()
    return Map(torch.fake_quantize_per_tensor_affine(x, step, zero, 0, STEPS), step)


def _usable(step: Tensor) -> Tensor:
    return torch.where(step < SMALLEST, 1.0, step)


def _floats(look: Callable[[Tensor, str], None], network: Network, x: Tensor) -> None:
    """Show every map of the float network that would be rounded."""
    nothing = torch.ones(())

    def shown(values: Tensor, name: str) -> Map:
        look(values, name)
        return Map(values, nothing)

    rounded(network, x, Rounding(shown, lambda weight, bias, _: (weight, bias)))


class FakeQuantized(nn.Module):
    """A network as its int8 export computes it, (N, in_channels, R, R) -> (N, classes) logits.

    In training mode the ranges of maps follow those of the batches, slowly.

    Args:
        network: which it is made of; its parameters are trained.
        reduce_range: weights of 7 bits.

    Attributes:
        names: of the maps that are rounded.
        ranges: (maps, 2), the lowest and the highest value of each; all 0 before `calibrate`.
    """

    ranges: Tensor

    def __init__(self, network: Network, reduce_range: bool = False):
        super().__init__()
        self.network, self.reduce_range = network, reduce_range
        self.names = tuple(_names(network))
        self._numbers = {name: number for number, name in enumerate(self.names)}
        self.register_buffer("ranges", torch.zeros(len(self.names), 2))

    def forward(self, x: Tensor) -> Tensor:
        return rounded(self.network, x, Rounding(self._round, self._round_weights))

    @torch.no_grad()
    def calibrate(self, batches: Iterable[Tensor]) -> None:
        """Set the ranges to what the maps of the float net are on (N, C, H, W) images."""
        found = torch.zeros_like(self.ranges)

        def look(x: Tensor, name: str) -> None:
            low, high = x.aminmax()
            row = found[self._numbers[name]]
            row.copy_(torch.stack((row[0].minimum(low), row[1].maximum(high))))

        training = self.training
        self.eval()
        for images in batches:
            _floats(look, self.network, images)
        self.train(training)
        self.ranges.copy_(found)

    @property
    def trained_ranges(self) -> Ranges:
        """As an export takes them."""
        pairs = self.ranges.detach().cpu().tolist()
        maps = {name: (low, high) for name, (low, high) in zip(self.names, pairs, strict=True)}
        return Ranges(self.reduce_range, maps)

    def take(self, ranges: Mapping[str, tuple[float, float]]) -> None:
        """Set the ranges, by name. Raises ValueError if they are of another net."""
        if ranges.keys() != self._numbers.keys():
            raise ValueError("the ranges of the weights' training are not those of this net")
        self.ranges.copy_(torch.tensor([ranges[name] for name in self.names]))

    def _round(self, x: Tensor, name: str) -> Map:
        row = self.ranges[self._numbers[name]]
        if self.training:
            with torch.no_grad():
                low, high = x.aminmax()
                row.lerp_(torch.stack((low.clamp_max(0.0), high.clamp_min(0.0))), AVERAGED)
        return round_map(x, row[0], row[1])

    def _round_weights(
        self, weight: Tensor, bias: Tensor, map_step: Tensor
    ) -> tuple[Tensor, Tensor]:
        most = MOST_REDUCED if self.reduce_range else MOST
        return round_weights(weight, bias, map_step, most)


def _names(network: Network) -> list[str]:
    """Of the maps that are rounded, in the order of computing."""
    found: list[str] = []
    weight, training = next(network.parameters()), network.training
    network.eval()
    with torch.no_grad():
        smallest = weight.new_zeros(1, network.subnet.in_channels, 1, 1)
        _floats(lambda _, name: found.append(name), network, smallest)
    network.train(training)
    return found
