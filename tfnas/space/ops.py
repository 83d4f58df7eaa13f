"""Search spaces and the networks found in them, as plain data.

An `OpSpec` is everything that the latency of one op depends on inside a device. The same object is
the key of a latency table, a row of its file, the argument of the module builder and an element of
a found network, so the table and the network can't disagree about what an op is.

Sizes are pixels, of squares or height and width; widths are channels. Nothing here imports torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from math import prod
from typing import Any, NamedTuple

from tfnas.files.bounded import shown
from tfnas.process.checks import lookup
from tfnas.space.size import MAX_SIZE, Size, area, is_size, strided

ACTIVATIONS = ("relu", "relu6", "swish", "hard_swish", "none")
MAX_CHANNELS = 65_536
MAX_OPS = 1_000_000  # a space beyond this is refused before anything is allocated
MAX_LAYERS = 1_000  # of a space or a subnet
MAX_OP_LAYERS = 8  # with weights
MAX_VALUES = 2**28  # weights of an op or a subnet, or values between two layers: 1 GiB in float32


class Layer(NamedTuple):
    """A convolution or a linear layer inside an op."""

    name: str  # in the torch module and in ONNX
    shape: tuple[int, ...]  # of its weight: (c_out, c_in / groups, k, k), or (c_out, c_in)
    pixels: int  # of its output, for each of which the weights are applied once
    per_channel: int = 2  # values beside the weights: 2 of batch norm, 1 of a bias, 0


@dataclass(frozen=True)
class Kind:
    """What a kind of op is, whatever builds it. Builders have registries with the same names.

    Attributes:
        lacks: the fields of an `OpSpec` that it doesn't have, with what they are then.
        layers: those with weights, in order.
        label: what it is called in messages and in the keys of spaces.
        drawing: what it is called where all but its layers is drawn.
        adds_input: whether its input is added to its output where their shapes agree.
        pools: whether its output is one pixel.
        classifies: whether its output is one value a class, so that nothing can follow it.
        free: whether it does nothing and costs nothing: it stands in no table and in no ONNX file.
        faults: what makes an op of this kind impossible though each field is in range; "" if none.
    """

    lacks: Mapping[str, Any]
    layers: Callable[[OpSpec], tuple[Layer, ...]]
    label: Callable[[OpSpec], str]
    drawing: Callable[[OpSpec], str]
    adds_input: bool = False
    pools: bool = False
    classifies: bool = False
    free: bool = False
    faults: Callable[[OpSpec], str] = lambda _: ""


@dataclass(frozen=True, slots=True)
class OpSpec:
    """One op with everything that its latency depends on inside a device.

    `KINDS` says what each kind is. Fields that a kind doesn't have are 0 (`stride` and `kernel`: 1;
    `act`: "none").

    Raises:
        ValueError: for a field that is out of range, and for an op too large to be built.
    """

    kind: str
    size: Size  # of the input
    c_in: int
    c_mid: int
    c_se: int  # channels of the squeeze-excite bottleneck, 0 for none
    c_out: int
    kernel: int
    stride: int
    act: str

    def __post_init__(self) -> None:
        kind = lookup("op kind", self.kind, KINDS)
        if self.act not in ACTIVATIONS:
            expected = ", ".join(ACTIVATIONS)
            raise ValueError(f"activation {shown(self.act)}: expected one of {expected}")
        if not is_size(self.size):
            raise ValueError(
                f"size={shown(self.size)} of a {self.kind}: expected an integer from 1 to "
                f"{MAX_SIZE}, or height and width that differ"
            )
        for name, low, high in (
            ("c_in", 1, MAX_CHANNELS),
            ("c_mid", 0, MAX_CHANNELS),
            ("c_se", 0, MAX_CHANNELS),
            ("c_out", 1, MAX_CHANNELS),
            ("kernel", 1, 31),
            ("stride", 1, 8),
        ):
            value = getattr(self, name)
            if type(value) is not int or not low <= value <= high:
                raise ValueError(
                    f"{name}={shown(value)} of a {self.kind}: expected an integer from {low} to "
                    f"{high}"
                )
        if self.kernel % 2 == 0:
            raise ValueError(f"kernel={self.kernel}: expected an odd size")
        for name, none in kind.lacks.items():
            if getattr(self, name) != none:
                raise ValueError(
                    f"{name}={getattr(self, name)} of a {self.kind}, which has none: expected "
                    f"{none}"
                )
        if fault := kind.faults(self):
            raise ValueError(f"{fault} of a {self.kind}")
        widest = max(self.c_in, self.c_mid, self.c_se, self.c_out)
        weights = MAX_OP_LAYERS * (self.kernel * widest) ** 2
        if max(weights, widest * self.pixels) > MAX_VALUES:  # a bound, and cheap
            self._check_size()

    def _check_size(self) -> None:
        for what, count in (("weights", self.weights), ("values in a layer", self.values)):
            if count > MAX_VALUES:
                raise ValueError(f"{self}: {count:,} {what}, {MAX_VALUES:,} are the most")

    @property
    def classifies(self) -> bool:
        return KINDS[self.kind].classifies

    @property
    def free(self) -> bool:
        return KINDS[self.kind].free

    @property
    def has_width(self) -> bool:
        """Whether it has a mid width, which may be searched."""
        return "c_mid" not in KINDS[self.kind].lacks

    @property
    def out_size(self) -> Size:
        """Of the output ("same" padding of kernel // 2)."""
        return 1 if KINDS[self.kind].pools else strided(self.size, self.stride)

    @property
    def pixels(self) -> int:
        return area(self.size)

    @property
    def out_pixels(self) -> int:
        return area(self.out_size)

    @property
    def expands(self) -> bool:
        return self.has_width and self.c_mid != self.c_in

    @property
    def residual(self) -> bool:
        adds = KINDS[self.kind].adds_input
        return adds and self.stride == 1 and self.c_in == self.c_out

    @property
    def curve(self) -> OpSpec:
        """The op with its mid width left open: the key that all widths of a curve share."""
        return replace(self, c_mid=0)

    @property
    def line(self) -> OpSpec:
        """The key that all ops share between which latency may be interpolated.

        It is their curve; an op that doesn't expand has one layer less, and stands alone.
        """
        return self.curve if self.expands else self

    @property
    def is_curve(self) -> bool:
        """Whether its mid width is left open, so that it can't be built; see `curve`."""
        return self.has_width and self.c_mid == 0

    @property
    def layers(self) -> tuple[Layer, ...]:
        """Those with weights, in order."""
        return KINDS[self.kind].layers(self)

    @property
    def weights(self) -> int:
        """Those of convolutions and linear layers, without biases."""
        return sum(prod(layer.shape) for layer in self.layers)

    @property
    def params(self) -> int:
        """Parameters as torch counts them, with biases and scale and shift of batch norm."""
        return sum(prod(x.shape) + x.per_channel * x.shape[0] for x in self.layers)

    @property
    def deployed_weights(self) -> int:
        """Weights and biases that an exported net has: batch norm is folded into them."""
        return sum(prod(x.shape) + x.shape[0] for x in self.layers)

    @property
    def macs(self) -> int:
        """Multiply-accumulates for one image, convolutions and linear layers only."""
        return sum(prod(layer.shape) * layer.pixels for layer in self.layers)

    @property
    def values(self) -> int:
        """The most that are between two layers, for one image."""
        inner = max(self.c_in, self.c_mid) * self.pixels
        return max(inner, max(self.c_mid, self.c_out) * self.out_pixels)

    def __str__(self) -> str:
        return KINDS[self.kind].label(self)


def divisible(channels: float, divisor: int) -> int:
    """The nearest multiple, or the next one where that loses more than a tenth (as MobileNets)."""
    if divisor == 1 or channels == 0:
        return round(channels)
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * channels else rounded


def _label(op: OpSpec) -> str:
    mid = f"·{op.c_mid}" if op.has_width else ""
    se = f" se{op.c_se}" if op.c_se else ""
    shape = f"{op.kind} {op.size}px {op.c_in}{mid}→{op.c_out}"
    return f"{shape} k{op.kernel} s{op.stride}{se} {op.act}"


def _conv_layers(op: OpSpec) -> tuple[Layer, ...]:
    return (Layer("conv", (op.c_out, op.c_in, op.kernel, op.kernel), op.out_pixels),)


def _mbconv_layers(op: OpSpec) -> tuple[Layer, ...]:
    mid, out = op.c_mid, op.out_pixels
    depthwise = Layer("depthwise", (mid, 1, op.kernel, op.kernel), out)
    project = Layer("project", (op.c_out, mid, 1, 1), out)
    expand = (Layer("expand", (mid, op.c_in, 1, 1), op.pixels),) if op.expands else ()
    if not op.c_se:
        return *expand, depthwise, project
    squeeze = Layer("se_reduce", (op.c_se, mid, 1, 1), 1, per_channel=1)
    excite = Layer("se_expand", (mid, op.c_se, 1, 1), 1, per_channel=1)
    return *expand, depthwise, squeeze, excite, project


def _pooled_conv_layers(op: OpSpec) -> tuple[Layer, ...]:
    return (Layer("conv", (op.c_out, op.c_in, 1, 1), 1, per_channel=0),)


def _pooled_linear_layers(op: OpSpec) -> tuple[Layer, ...]:
    return (Layer("dense", (op.c_out, op.c_in, 1, 1), 1, per_channel=1),)


def _classifier_layers(op: OpSpec) -> tuple[Layer, ...]:
    return (Layer("linear", (op.c_out, op.c_in), 1, per_channel=1),)


KINDS: Mapping[str, Kind] = {
    # Convolution, batch norm, activation.
    "conv": Kind(
        lacks={"c_mid": 0, "c_se": 0},
        layers=_conv_layers,
        label=_label,
        drawing=lambda op: f"conv {op.kernel}×{op.kernel}",
    ),
    # The inverted residual block of MobileNetV2 (arXiv 1801.04381), with squeeze-excite if `c_se`
    # is above 0, and without the expanding 1x1 convolution where `c_mid` equals `c_in`.
    "mbconv": Kind(
        lacks={},
        layers=_mbconv_layers,
        label=_label,
        drawing=lambda op: f"{op.kernel}×{op.kernel}",
        adds_input=True,
    ),
    # The same with the squeeze-excite of MobileNetV3 (arXiv 1905.02244), as in OFA's spaces: a ReLU
    # in the bottleneck and a hard sigmoid as gate, whatever the block's activation.
    "mbconv_v3": Kind(
        lacks={},
        layers=_mbconv_layers,
        label=_label,
        drawing=lambda op: f"{op.kernel}×{op.kernel}",
        adds_input=True,
        faults=lambda op: "" if op.c_se else "c_se=0 (without squeeze-excite it is an mbconv)",
    ),
    # A block that is left out.
    "identity": Kind(
        lacks={"c_mid": 0, "c_se": 0, "kernel": 1, "stride": 1, "act": "none"},
        layers=lambda _: (),
        label=lambda op: f"identity {op.size}px {op.c_in}",
        drawing=lambda _: "identity",
        free=True,
        faults=lambda op: "" if op.c_in == op.c_out else f"c_in={op.c_in}, c_out={op.c_out}",
    ),
    # Global average pooling, a 1x1 convolution without batch norm or bias, activation.
    "pooled_conv": Kind(
        lacks={"c_mid": 0, "c_se": 0, "kernel": 1, "stride": 1},
        layers=_pooled_conv_layers,
        label=lambda op: f"pooled_conv {op.size}px {op.c_in}→{op.c_out} {op.act}",
        drawing=lambda _: "pool, conv 1×1",
        pools=True,
    ),
    # The same with a bias, as the first linear layer of MobileNetV3's classifier.
    "pooled_linear": Kind(
        lacks={"c_mid": 0, "c_se": 0, "kernel": 1, "stride": 1},
        layers=_pooled_linear_layers,
        label=lambda op: f"pooled_linear {op.size}px {op.c_in}→{op.c_out} {op.act}",
        drawing=lambda _: "pool, linear",
        pools=True,
    ),
    # Global average pooling and one linear layer.
    "classifier": Kind(
        lacks={"c_mid": 0, "c_se": 0, "kernel": 1, "stride": 1, "act": "none"},
        layers=_classifier_layers,
        label=lambda op: f"classifier {op.c_in}→{op.c_out}",
        drawing=lambda _: "pool, linear",
        pools=True,
        classifies=True,
    ),
}
OP_FIELDS = tuple(f.name for f in fields(OpSpec))
