"""Ops and whole subnets as torch modules.

Module and parameter names say what a layer is (`expand`, `depthwise`, `se_reduce`, `se_expand`,
`project`); the supernet uses the same names, so taking a subnet's weights out of it is slicing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tfnas.nets.activations import EXCITES, activate
from tfnas.process.checks import lookup
from tfnas.space.ops import OpSpec
from tfnas.space.subnet import Subnet


class ConvBN(nn.Module):
    """Convolution without bias, "same" padding, batch norm and activation."""

    def __init__(self, c_in: int, c_out: int, kernel: int, stride: int, groups: int, act: str):
        super().__init__()
        self.conv = nn.Conv2d(
            c_in, c_out, kernel, stride, padding=kernel // 2, groups=groups, bias=False
        )
        self.bn = nn.BatchNorm2d(c_out)
        self.act = act

    def forward(self, x: Tensor) -> Tensor:
        return activate(self.bn(self.conv(x)), self.act)


class MBConv(nn.Module):
    """Inverted residual block (MobileNetV2, arXiv 1801.04381), optionally with squeeze-excite.

    The squeeze-excite bottleneck (arXiv 1709.01507) uses the block's activation, as in TF-NAS, or
    what its kind has in `EXCITES`.
    """

    def __init__(self, op: OpSpec):
        super().__init__()
        mid, act = op.c_mid, op.act
        self.op = op
        self.expand = ConvBN(op.c_in, mid, 1, 1, 1, act) if op.expands else None
        self.depthwise = ConvBN(mid, mid, op.kernel, op.stride, mid, act)
        self.se_reduce = nn.Conv2d(mid, op.c_se, 1) if op.c_se else None
        self.se_expand = nn.Conv2d(op.c_se, mid, 1) if op.c_se else None
        self.project = ConvBN(mid, op.c_out, 1, 1, 1, "none")
        self.drop_connect = 0.0

    def forward(self, x: Tensor) -> Tensor:  # (N, c_in, size, size)
        y = x if self.expand is None else self.expand(x)  # (N, c_mid, size, size)
        y = self.depthwise(y)  # (N, c_mid, out_size, out_size)
        if self.se_reduce is not None and self.se_expand is not None:
            s = self.se_reduce(F.adaptive_avg_pool2d(y, 1))  # (N, c_se, 1, 1)
            excite = EXCITES[self.op.kind]
            s = self.se_expand(activate(s, excite.act or self.op.act))
            y = y * excite.gate.function(s)
        y = self.project(y)  # (N, c_out, out_size, out_size)
        if not self.op.residual:
            return y
        return x + drop_path(y, self.drop_connect if self.training else 0.0)


class PooledConv(nn.Module):
    """Global average pooling, 1x1 convolution without bias, activation."""

    def __init__(self, op: OpSpec):
        super().__init__()
        self.conv = nn.Conv2d(op.c_in, op.c_out, 1, bias=False)
        self.act = op.act

    def forward(self, x: Tensor) -> Tensor:  # (N, c_in, size, size) -> (N, c_out, 1, 1)
        return activate(self.conv(F.adaptive_avg_pool2d(x, 1)), self.act)


class PooledLinear(nn.Module):
    """Global average pooling, linear layer, activation."""

    def __init__(self, op: OpSpec):
        super().__init__()
        self.dense = nn.Conv2d(op.c_in, op.c_out, 1)
        self.act = op.act

    def forward(self, x: Tensor) -> Tensor:  # (N, c_in, size, size) -> (N, c_out, 1, 1)
        return activate(self.dense(F.adaptive_avg_pool2d(x, 1)), self.act)


class Classifier(nn.Module):
    """Global average pooling, dropout, one linear layer."""

    def __init__(self, op: OpSpec):
        super().__init__()
        self.linear = nn.Linear(op.c_in, op.c_out)
        self.dropout = 0.0

    def forward(self, x: Tensor) -> Tensor:  # (N, c_in, size, size) -> (N, c_out)
        x = F.adaptive_avg_pool2d(x, 1).flatten(1)
        return self.linear(F.dropout(x, self.dropout, self.training))


def drop_path(x: Tensor, rate: float) -> Tensor:
    """Drop the whole branch of a sample with probability `rate` (arXiv 1603.09382)."""
    if rate == 0.0:
        return x
    keep = torch.rand(x.shape[0], 1, 1, 1, device=x.device, dtype=x.dtype) >= rate
    return x * keep / (1.0 - rate)


def build(op: OpSpec) -> nn.Module:
    """The module of one op, (N, c_in, size, size) -> (N, c_out, out_size, out_size).

    A classifier gives (N, c_out).
    """
    return lookup("op kind", op.kind, TORCH_KINDS)(op)


TORCH_KINDS: Mapping[str, Callable[[OpSpec], nn.Module]] = {
    "conv": lambda op: ConvBN(op.c_in, op.c_out, op.kernel, op.stride, 1, op.act),
    "mbconv": MBConv,
    "mbconv_v3": MBConv,
    "identity": lambda _: nn.Identity(),
    "pooled_conv": PooledConv,
    "pooled_linear": PooledLinear,
    "classifier": Classifier,
}


class Network(nn.Module):
    """A subnet as a torch module, (N, in_channels, R, R) -> (N, classes) logits.

    Layers are numbered like `subnet.ops`. Any resolution R may be fed; the subnet's own is the one
    that its latency is of.

    Args:
        drop_connect: rate at the last block, growing linearly with depth from the first.
    """

    def __init__(self, subnet: Subnet, dropout: float = 0.0, drop_connect: float = 0.0):
        super().__init__()
        self.subnet = subnet
        self.layers = nn.Sequential(*(build(op) for op in subnet.ops))
        blocks = [layer for layer in self.layers if isinstance(layer, MBConv)]
        for index, block in enumerate(blocks):
            block.drop_connect = drop_connect * index / len(blocks)
        for layer in self.layers:
            if isinstance(layer, Classifier):
                layer.dropout = dropout
        self.initialize()

    def initialize(self) -> None:
        """He initialization of convolutions, fan-out; batch norm at identity, biases at 0."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, 0.0, 0.01)
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)
