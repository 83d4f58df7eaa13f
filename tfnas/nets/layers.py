"""Layers of the supernet: plain torch on any device, and faster forms of the same on a CPU.

What the CPU forms do differently, with the same results but for rounding:

- Batch norm, activation and convolution are one step of autograd. It keeps the norm's output alone,
  and the activation's where weights want gradients, instead of every intermediate.
- The statistics of an expansion's outputs follow from the covariance of its few inputs, so that
  neither the norm nor its gradient passes over the many outputs. Candidates of a block share it.
- A 1x1 convolution is a matrix product over pixels.
- The gradient of a depthwise kernel is taken in slices of three columns: oneDNN (in torch 2.13) has
  a fast form for those only, and takes three times as long for kernels of five.

They call operators that torch keeps to itself. Where one is missing, the plain forms do the work.

Images are (N, C, H, W) in channels_last memory. No function has second derivatives on a CPU.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from tfnas.nets.activations import SIGMOID, Activation, activate, activation

log = logging.getLogger(__name__)
aten = torch.ops.aten
OPERATORS = (  # torch's own, with their overloads, that the CPU forms and activations call
    "convolution_backward.default", "hardswish_backward.default", "hardtanh_backward.default",
    "native_batch_norm.default", "native_batch_norm_backward.default", "silu_backward.grad_input",
    "threshold_backward.grad_input",
)  # fmt: skip

EPS = 1e-5  # of batch norm, torch's default
PIXELS = 8  # a covariance of c channels is taken from so many times c pixels, or not at all
SLICE = 3  # columns of a depthwise kernel


@dataclass(frozen=True)
class Squeeze:
    """Weights of a squeeze-excite: (c_se, c, 1, 1), (c_se,), (c, c_se, 1, 1), (c,).

    Attributes:
        act: in its bottleneck.
    """

    reduce: Tensor
    reduce_bias: Tensor
    expand: Tensor
    expand_bias: Tensor
    act: str
    gate: Activation = SIGMOID

    def __call__(self, pooled: Tensor) -> Tensor:  # (N, c) -> (N, c)
        s = F.linear(pooled, self.reduce.flatten(1), self.reduce_bias)
        s = F.linear(activate(s, self.act), self.expand.flatten(1), self.expand_bias)
        return self.gate.function(s)


@dataclass(frozen=True)
class Moments:
    """Of the pixels of an image batch: themselves less their mean, (pixels, c), and their
    covariance, (c, c)."""

    centered: Tensor
    covariance: Tensor


def fused(x: Tensor) -> bool:
    """Whether the CPU forms are used for x."""
    return x.device.type == "cpu" and _has_operators()


@cache
def _has_operators() -> bool:
    """Whether this torch has all `OPERATORS`; a warning, once, where it hasn't."""
    missing = []
    for operator in OPERATORS:
        name, overload = operator.split(".")
        if not hasattr(getattr(aten, name, None), overload):
            missing.append(operator)
    if missing:
        log.warning(
            "warning: torch %s has no %s: supernets run in their plain forms, which are slower",
            torch.__version__, ", ".join(missing),
        )  # fmt: skip
    return not missing


def moments(x: Tensor) -> Moments | None:
    """For `normed_pointwise`; None where they don't pay."""
    pixels = x.numel() // x.shape[1]
    if not fused(x) or pixels < PIXELS * x.shape[1]:
        return None
    centered = _rows(x)
    centered = centered - centered.mean(0)
    return Moments(centered, centered.t() @ centered / pixels)


def batch_norm(x: Tensor, scale: Tensor | None = None) -> Tensor:
    """By batch statistics; times one number for all channels, if given."""
    weight = None if scale is None else scale.expand(x.shape[1]).contiguous()
    return F.batch_norm(x, None, None, weight, training=True, eps=EPS)


def normed_pointwise(x: Tensor, weight: Tensor, known: Moments | None) -> Tensor:
    """A 1x1 convolution by (c_out, c_in, 1, 1), then batch norm.

    Args:
        known: the moments of x.
    """
    if known is None:
        return batch_norm(F.conv2d(x, weight))
    matrix = weight.flatten(1)
    # Rounding may make it negative where inputs are large and all alike.
    variance = ((matrix @ known.covariance) * matrix).sum(1, keepdim=True).clamp_min(0)
    return _image(F.linear(known.centered, matrix * torch.rsqrt(variance + EPS)), x)


def depthwise(x: Tensor, weight: Tensor, stride: int) -> Tensor:
    """A convolution of each channel for itself by (c, 1, k, k), padded to the same size."""
    if not fused(x):
        return _conv(x, weight, stride, len(weight))
    out: Tensor = _Depthwise.apply(x, weight, stride)  # type: ignore[no-untyped-call]
    return out


def act_depthwise(x: Tensor, weight: Tensor, act: str, stride: int) -> Tensor:
    """Activation, then `depthwise`."""
    if not fused(x):
        return _conv(activate(x, act), weight, stride, len(weight))
    out: Tensor = _ActConv.apply(x, weight, act, stride, len(weight), False)  # type: ignore[no-untyped-call]
    return out


def norm_act_pointwise(x: Tensor, weight: Tensor, act: str) -> Tensor:
    """Batch norm, activation, 1x1 convolution by (c_out, c_in, 1, 1)."""
    if not fused(x):
        return F.conv2d(activate(batch_norm(x), act), weight)
    out: Tensor = _ActConv.apply(x, weight, act, 1, 1, True)  # type: ignore[no-untyped-call]
    return out


def norm_act_squeeze_pointwise(x: Tensor, squeeze: Squeeze, weight: Tensor, act: str) -> Tensor:
    """As `norm_act_pointwise`, with squeeze-excite (arXiv 1709.01507) before the convolution."""
    if not fused(x):
        y = activate(batch_norm(x), act)
        gate = squeeze(y.mean((2, 3)))
        return F.conv2d(y * gate[:, :, None, None], weight)
    s = squeeze
    out: Tensor = _ActGateConv.apply(  # type: ignore[no-untyped-call]
        x, s.reduce, s.reduce_bias, s.expand, s.expand_bias, weight, act, s.act, s.gate
    )
    return out


def leading(weight: Tensor, count: int, dim: int) -> Tensor:
    """The first `count` of a weight's channels; their gradient is not filled with zeros first."""
    if count == weight.shape[dim]:
        return weight
    if not weight.requires_grad:
        return weight.narrow(dim, 0, count)
    part: Tensor = _Leading.apply(weight, count, dim)  # type: ignore[no-untyped-call]
    return part


class _Leading(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, count: int, dim: int) -> Tensor:
        ctx.shape, ctx.count, ctx.dim = weight.shape, count, dim
        return weight.narrow(dim, 0, count)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        whole, count, dim = g.new_empty(ctx.shape), ctx.count, ctx.dim
        whole.narrow(dim, 0, count).copy_(g)
        whole.narrow(dim, count, whole.shape[dim] - count).zero_()
        return whole, None, None


class _Depthwise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: int) -> Tensor:
        ctx.stride = stride
        ctx.save_for_backward(x, weight)
        return _conv(x, weight, stride, len(weight))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        need_x, need_weight, _ = ctx.needs_input_grad
        return *_conv_backward(g, x, weight, ctx.stride, len(weight), need_x, need_weight), None


class _ActConv(torch.autograd.Function):
    """[Batch norm,] activation, convolution."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, act: str, stride: int, groups: int, norm: bool
    ) -> Tensor:
        y, inv_std = _normalize(x) if norm else (x, None)
        z = activate(y, act)
        if activation(act).by_output and not norm:
            y = z  # one of them is enough
        ctx.act, ctx.stride, ctx.groups = act, stride, groups
        # The weights' gradient needs z; without one, its memory is worth more than its time.
        ctx.save_for_backward(y, inv_std, weight, z if ctx.needs_input_grad[1] else None)
        return _conv(z, weight, stride, groups)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        y, inv_std, weight, z = ctx.saved_tensors
        need_x, need_weight = ctx.needs_input_grad[:2]
        gx, gw = _conv_backward(
            g, y if z is None else z, weight, ctx.stride, ctx.groups, need_x, need_weight
        )
        if gx is not None:
            gx = activation(ctx.act).gradient(gx, y)
            if inv_std is not None:
                gx = _norm_backward(gx, y, inv_std)
        return gx, gw, None, None, None, None


class _ActGateConv(torch.autograd.Function):
    """Batch norm, activation, squeeze-excite, 1x1 convolution."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, reduce: Tensor, reduce_bias: Tensor, expand: Tensor,
        expand_bias: Tensor, weight: Tensor, act: str, squeeze_act: str, gate_kind: Activation,
    ) -> Tensor:  # fmt: skip
        y, inv_std = _normalize(x)
        z = activate(y, act)
        squeeze = Squeeze(reduce, reduce_bias, expand, expand_bias, squeeze_act, gate_kind)
        gate = squeeze(z.mean((2, 3)))[:, :, None, None]
        keep = any(ctx.needs_input_grad[1:6])
        gated = z * gate
        ctx.act, ctx.squeeze_act, ctx.gate = act, squeeze_act, gate_kind
        kept = (z, gated) if keep else (None, None)
        ctx.save_for_backward(y, inv_std, reduce, reduce_bias, expand, expand_bias, weight, *kept)
        return _conv(gated, weight, 1, 1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        y, inv_std, reduce, reduce_bias, expand, expand_bias, weight, z, gated = ctx.saved_tensors
        if z is None:
            z = activate(y, ctx.act)
        pooled = z.mean((2, 3))
        low = F.linear(pooled, reduce.flatten(1), reduce_bias)  # (N, c_se)
        hidden = activate(low, ctx.squeeze_act)
        gate = ctx.gate.function(F.linear(hidden, expand.flatten(1), expand_bias))  # (N, c)
        need_weight = ctx.needs_input_grad[5]
        g_gated, gw = _conv_backward(
            g, z if gated is None else gated, weight, 1, 1, True, need_weight
        )
        assert g_gated is not None
        g_gate = ctx.gate.gradient((g_gated * z).sum((2, 3)), gate)
        g_low = activation(ctx.squeeze_act).gradient(g_gate @ expand.flatten(1), low)
        g_squeeze = (
            (g_low.t() @ pooled).view(reduce.shape), g_low.sum(0),
            (g_gate.t() @ hidden).view(expand.shape), g_gate.sum(0),
        )  # fmt: skip
        share = (g_low @ reduce.flatten(1)) / (y.shape[2] * y.shape[3])
        gz = torch.addcmul(share[:, :, None, None], g_gated, gate[:, :, None, None])
        gx = _norm_backward(activation(ctx.act).gradient(gz, y), y, inv_std)
        return gx, *g_squeeze, gw, None, None, None


def _normalize(x: Tensor) -> tuple[Tensor, Tensor]:
    """(x normalized, 1 / standard deviation)"""
    y, _, inv_std = aten.native_batch_norm.default(x, None, None, None, None, True, 0.0, EPS)
    return y, inv_std


def _norm_backward(g: Tensor, y: Tensor, inv_std: Tensor) -> Tensor:
    """The gradient before batch norm, from its output alone: that is what it would make of an input
    of mean 0 and deviation 1, with 1 / standard deviation for an affine weight."""
    mean, one = torch.zeros_like(inv_std), torch.ones_like(inv_std)
    gx: Tensor = aten.native_batch_norm_backward.default(
        g, y, inv_std, None, None, mean, one, True, EPS, [True, False, False]
    )[0]
    return gx


def _conv(x: Tensor, weight: Tensor, stride: int, groups: int) -> Tensor:
    """Padded to the same size."""
    if weight.shape[-1] == 1 and groups == 1 and stride == 1:
        return _image(_rows(x) @ weight.flatten(1).t(), x)
    return F.conv2d(x, weight, None, stride, weight.shape[-1] // 2, 1, groups)


def _conv_backward(
    g: Tensor, x: Tensor, weight: Tensor, stride: int, groups: int, need_x: bool, need_weight: bool
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients of `_conv`; of x only its shape counts where `need_weight` is false."""
    if weight.shape[-1] == 1 and groups == 1 and stride == 1:
        rows = _rows(g)
        gx = _image(rows @ weight.flatten(1), g) if need_x else None
        gw = (rows.t() @ _rows(x)).view(weight.shape) if need_weight else None
        return gx, gw
    sliced = groups > 1 and need_weight
    padding = weight.shape[-1] // 2
    gx, gw = aten.convolution_backward.default(
        g, x, weight, None, [stride] * 2, [padding] * 2, [1, 1], False, [0, 0], groups,
        [need_x, need_weight and not sliced, False],
    )[:2]  # fmt: skip
    return gx, _depthwise_weight_gradient(g, x, weight, stride) if sliced else gw


def _depthwise_weight_gradient(g: Tensor, x: Tensor, weight: Tensor, stride: int) -> Tensor:
    """Slice by slice, and only where the kernel ever meets the image: (c, 1, k, k).

    Args:
        g: (N, c, H', W'), of the outputs.
        x: (N, c, H, W).
    """
    channels, _, k, _ = weight.shape
    height, width = x.shape[2:]
    out_height, out_width = g.shape[2:]
    # How far kernel rows and columns reach from the middle one before they meet padding only.
    up, left = min(k // 2, height - 1), min(k // 2, width - 1)
    rows = 2 * up + 1
    padding = up
    if height < rows:
        bottom = (out_height - 1) * stride + rows - up - height
        x, padding = F.pad(x, (0, 0, up, bottom)), 0

    def columns(x: Tensor, count: int, padding_x: int) -> Tensor:
        part: Tensor = aten.convolution_backward.default(
            g, x, weight.new_empty(channels, 1, rows, count), None, [stride] * 2,
            [padding, padding_x], [1, 1], False, [0, 0], channels, [False, True, False],
        )[1]  # fmt: skip
        return part

    whole = rows == k and left == k // 2
    gradient = torch.empty_like(weight) if whole else torch.zeros_like(weight)
    middle = k // 2
    met = slice(middle - up, middle + up + 1)
    if 2 * left + 1 <= min(SLICE, width):
        gradient[:, :, met, middle - left : middle + left + 1] = columns(x, 2 * left + 1, left)
        return gradient
    for first in range(-left, left + 1, SLICE):
        count = min(SLICE, left + 1 - first)
        right = (out_width - 1) * stride + count + first - width
        part = columns(F.pad(x, (-first, right)), count, 0)
        gradient[:, :, met, middle + first : middle + first + count] = part
    return gradient


def _rows(x: Tensor) -> Tensor:
    """Pixels as rows, (N * H * W, C); no copy of channels_last memory."""
    return x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])


def _image(rows: Tensor, like: Tensor) -> Tensor:
    n, _, height, width = like.shape
    return rows.view(n, height, width, -1).permute(0, 3, 1, 2)
