"""Latency losses: (cross-entropy, expected latency in ms, target in ms, weight) -> loss."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

LatencyLoss = Callable[[Tensor, Tensor, float, float], Tensor]


def relative(ce: Tensor, ms: Tensor, target_ms: float, weight: float) -> Tensor:
    """CE + weight * |LAT / target - 1| (TF-NAS, arXiv 2008.05314)."""
    return ce + weight * (ms / target_ms - 1).abs()


def fbnet(ce: Tensor, ms: Tensor, target_ms: float, weight: float) -> Tensor:
    """CE * (log LAT / log target) ^ weight, after FBNet (arXiv 1812.03443, equation 2).

    FBNet's constant factor is chosen as the one that leaves CE alone at the target; latencies enter
    as 1 + ms, so that those below a millisecond keep a positive logarithm.
    """
    reference = torch.log1p(torch.as_tensor(target_ms, dtype=ms.dtype, device=ms.device))
    return ce * (torch.log1p(ms) / reference) ** weight


def proxyless_linear(ce: Tensor, ms: Tensor, target_ms: float, weight: float) -> Tensor:
    """CE + weight * LAT / target (ProxylessNAS, arXiv 1812.00332, section 3.3.1)."""
    return ce + weight * ms / target_ms


def proxyless_log(ce: Tensor, ms: Tensor, target_ms: float, weight: float) -> Tensor:
    """CE * (LAT / target) ^ weight: the multiplicative form of ProxylessNAS's published code."""
    return ce * (ms / target_ms) ** weight


def hard_bound(ce: Tensor, ms: Tensor, target_ms: float, weight: float) -> Tensor:
    """CE + weight * max(LAT / target - 1, 0): only what is over the target costs."""
    return ce + weight * torch.relu(ms / target_ms - 1)


LATENCY_LOSSES: dict[str, LatencyLoss] = {
    "relative": relative,
    "fbnet": fbnet,
    "proxyless_linear": proxyless_linear,
    "proxyless_log": proxyless_log,
    "hard_bound": hard_bound,
}
