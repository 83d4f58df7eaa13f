"""Search spaces and the networks found in them, as plain data.

An `OpSpec` is everything that the latency of one op depends on inside a device. The same object is
the key of a latency table, a row of its file, the argument of the module builder and an element of
a found network, so the table and the network can't disagree about what an op is.

Sizes are pixels, widths are channels. Nothing here imports torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from math import ceil

from tfnas.files.bounded import shown

ACTIVATIONS = ("relu", "relu6", "swish", "hard_swish", "none")
KINDS = ("conv", "mbconv", "classifier")
# The fields that a kind doesn't have, with what they are then.
NOT_OF: Mapping[str, tuple[tuple[str, object], ...]] = {
    "conv": (("c_mid", 0), ("c_se", 0)),
    "mbconv": (),
    "classifier": (("c_mid", 0), ("c_se", 0), ("kernel", 1), ("stride", 1), ("act", "none")),
}
MAX_CHANNELS = 65_536
MAX_SIZE = 8_192
MAX_OPS = 1_000_000  # a space beyond this is refused before anything is allocated
MAX_LAYERS = 1_000  # of a space or a subnet
MAX_VALUES = 2**28  # weights of an op or a subnet, or values between two layers: 1 GiB in float32


@dataclass(frozen=True, slots=True)
class OpSpec:
    """One op with everything that its latency depends on inside a device.

    Kinds: `conv` is convolution, batch norm, activation. `mbconv` is the inverted residual block of
    MobileNetV2 (arXiv 1801.04381), with squeeze-excite if `c_se` > 0, and without the expanding 1x1
    convolution where `c_mid` equals `c_in`. `classifier` is global average pooling and one linear
    layer. Fields that a kind doesn't have are 0 (`stride` and `kernel`: 1; `act`: "none").

    Raises:
        ValueError: for a field that is out of range, and for an op too large to be built.
    """

    kind: str
    size: int  # pixels, height = width of the input
    c_in: int
    c_mid: int
    c_se: int  # channels of the squeeze-excite bottleneck, 0 for none
    c_out: int
    kernel: int
    stride: int
    act: str

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"op kind {shown(self.kind)}: expected one of {', '.join(KINDS)}")
        if self.act not in ACTIVATIONS:
            expected = ", ".join(ACTIVATIONS)
            raise ValueError(f"activation {shown(self.act)}: expected one of {expected}")
        for name, low, high in (
            ("size", 1, MAX_SIZE),
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
        for name, none in NOT_OF[self.kind]:
            if getattr(self, name) != none:
                raise ValueError(
                    f"{name}={getattr(self, name)} of a {self.kind}, which has none: expected "
                    f"{none}"
                )
        for what, count in (("weights", self.weights), ("values in a layer", self.values)):
            if count > MAX_VALUES:
                raise ValueError(f"{self}: {count:,} {what}, {MAX_VALUES:,} are the most")

    @property
    def out_size(self) -> int:
        """Height and width of the output in pixels ("same" padding of kernel // 2)."""
        return 1 if self.kind == "classifier" else ceil(self.size / self.stride)

    @property
    def expands(self) -> bool:
        return self.kind == "mbconv" and self.c_mid != self.c_in

    @property
    def residual(self) -> bool:
        return self.kind == "mbconv" and self.stride == 1 and self.c_in == self.c_out

    @property
    def curve(self) -> OpSpec:
        """The op with its mid width left open: the key that all widths of a curve share."""
        return replace(self, c_mid=0)

    @property
    def weights(self) -> int:
        """Those of convolutions and linear layers, without biases."""
        if self.kind == "mbconv":
            expand = self.c_in if self.expands else 0
            return self.c_mid * (expand + self.kernel**2 + 2 * self.c_se + self.c_out)
        return self.kernel**2 * self.c_in * self.c_out

    @property
    def values(self) -> int:
        """The most that are between two layers, for one image."""
        inner = max(self.c_in, self.c_mid) * self.size**2
        return max(inner, max(self.c_mid, self.c_out) * self.out_size**2)

    @property
    def is_curve(self) -> bool:
        """Whether its mid width is left open, so that it can't be built; see `curve`."""
        return self.kind == "mbconv" and self.c_mid == 0

    @property
    def macs(self) -> int:
        """Multiply-accumulates for one image, convolutions and linear layers only."""
        out = self.out_size**2
        if self.kind == "conv":
            return self.kernel**2 * self.c_in * self.c_out * out
        if self.kind == "classifier":
            return self.c_in * self.c_out
        expand = self.c_in * self.c_mid * self.size**2 if self.expands else 0
        depthwise = self.kernel**2 * self.c_mid * out
        return expand + depthwise + 2 * self.c_mid * self.c_se + self.c_mid * self.c_out * out

    def __str__(self) -> str:
        if self.kind == "classifier":
            return f"classifier {self.c_in}→{self.c_out}"
        mid = f"·{self.c_mid}" if self.kind == "mbconv" else ""
        se = f" se{self.c_se}" if self.c_se else ""
        return (
            f"{self.kind} {self.size}px {self.c_in}{mid}→{self.c_out} "
            f"k{self.kernel} s{self.stride}{se} {self.act}"
        )


OP_FIELDS = tuple(f.name for f in fields(OpSpec))
