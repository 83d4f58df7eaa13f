"""Latency losses: (cross-entropy, expected latency in ms, target in ms, weight) -> loss."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

FBNET_ALPHA = 0.2
LatencyLoss = Callable[[Tensor, Tensor, float, float], Tensor]


def relative(ce: Tensor, ms: Tensor, target_ms: float, weight: float) -> Tensor:
    """CE + weight * |LAT / target - 1| (TF-NAS, arXiv 2008.05314)."""
    return ce + weight * (ms / target_ms - 1).abs()


def fbnet(ce: Tensor, ms: Tensor, target_ms: float, weight: float) -> Tensor:
    """CE * 0.2 * log(LAT) ^ weight; the paper has weight 0.6 (FBNet, arXiv 1812.03443, equation 2).

    It knows no target. Latencies enter as 1 + ms, so that those below a millisecond keep a
    positive logarithm.
    """
    return ce * FBNET_ALPHA * torch.log1p(ms) ** weight


def proxyless_linear(ce: Tensor, ms: Tensor, target_ms: float, weight: float) -> Tensor:
    """CE + weight * LAT / target (ProxylessNAS, arXiv 1812.00332, section 3.3.1)."""
    return ce + weight * ms / target_ms


def proxyless_log(ce: Tensor, ms: Tensor, target_ms: float, weight: float) -> Tensor:
    """CE * (log LAT / log target) ^ weight: the multiplicative form of ProxylessNAS's code.

    Latencies enter as 1 + ms, as in `fbnet`.
    """
    return ce * (torch.log1p(ms) / math.log1p(target_ms)) ** weight


def mnasnet(ce: Tensor, ms: Tensor, target_ms: float, weight: float) -> Tensor:
    """CE * (LAT / target) ^ weight, after the soft constraint of MnasNet (arXiv 1807.11626)."""
    return ce * (ms / target_ms) ** weight


def hard_bound(ce: Tensor, ms: Tensor, target_ms: float, weight: float) -> Tensor:
    """CE + weight * max(LAT / target - 1, 0): only what is over the target costs."""
    return ce + weight * torch.relu(ms / target_ms - 1)


LATENCY_LOSSES: dict[str, LatencyLoss] = {
    "relative": relative,
    "fbnet": fbnet,
    "proxyless_linear": proxyless_linear,
    "proxyless_log": proxyless_log,
    "mnasnet": mnasnet,
    "hard_bound": hard_bound,
}
