"""What strategies that train a supernet share: data, not control flow."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from tfnas.derive import Architecture, Constraint, argmax, derive_constrained, scale_widths
from tfnas.space import SearchSpace, Subnet
from tfnas.supernet import Supernet
from tfnas.table import LatencyTable


def new_supernet(
    space: SearchSpace, channel_factor: float, seed: int, device: torch.device
) -> Supernet:
    """A supernet whose weights depend on the seed alone, channels last."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = Supernet(space, channel_factor)
    return net.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]


def live(net: nn.Module) -> list[nn.Parameter]:
    """The parameters that the last backward pass reached."""
    return [p for p in net.parameters() if p.grad is not None]


def count(sampled: list[list[int]], paths: Sequence[Sequence[int]]) -> None:
    """Add to how often each op of each block was trained."""
    for path in paths:
        for row, pick in zip(sampled, path, strict=True):
            row[pick] += 1


class Meter:
    """Mean loss and top-1 over batches; reads the device only when asked."""

    def __init__(self, device: torch.device):
        self._sums = torch.zeros(3, device=device, dtype=torch.float64)  # loss, hits, images

    def add(self, logits: Tensor, labels: Tensor, loss: Tensor) -> None:
        """logits (N, classes), labels (N,), loss: the batch's mean."""
        n = len(labels)
        hits = (logits.detach().argmax(1) == labels).sum()
        self._sums += torch.stack([loss.detach() * n, hits, torch.full_like(hits, n)])

    @property
    def loss(self) -> float:
        return float(self._sums[0] / self._sums[2])

    @property
    def top1(self) -> float:
        """Percent."""
        return float(100 * self._sums[1] / self._sums[2])


def path_ms(
    space: SearchSpace,
    table: LatencyTable,
    depths: Sequence[int],
    picks: Sequence[int],
    widths: Sequence[Sequence[int]],
) -> float:
    """Latency in ms of the net that these choices derive."""
    picked = [row[pick] for row, pick in zip(widths, picks, strict=True)]
    return table.subnet_ms(space.subnet(depths, picks, picked))


def rescale(
    kind: str,
    net: Supernet,
    constraints: Sequence[Constraint],
    arch: Architecture,
    order: Sequence[int],
    widths: list[list[int]],
    optimizer: torch.optim.Optimizer,
) -> None:
    """Scale the widths of the argmax net to the target, in place (TF-NAS, width level).

    Only ops of kept blocks change width; those that do pick their channels anew.

    Args:
        kind: greedy, constrained (the same, then on to the exact target) or fixed.
        arch, order: see `DepthSearch.architecture`.
        widths: of every block and op of the supernet.
    """
    if kind == "fixed":
        return
    space, constraint = net.space, constraints[0]
    depths, picks = argmax(space, arch)
    current = [row[pick] for row, pick in zip(arch.widths, picks, strict=True)]
    scaled = scale_widths(space, constraint.table, depths, picks, current, constraint.target_ms)
    if kind == "constrained":
        derived = derive_constrained(space, arch, constraints)
        if (derived.depths, derived.picks) == (depths, picks):
            scaled = derived.widths
    for place, block in enumerate(order):
        pick, new = picks[place], scaled[place]
        if new != current[place]:
            net.order_channels(block, pick, optimizer)
            widths[block][pick] = new


def weights_of(
    net: Supernet, picks: Sequence[int], order: Sequence[int]
) -> Callable[[Subnet], Mapping[str, Tensor]] | None:
    """What takes a subnet's weights out of the supernet, most important channels first.

    None for a proxy with fewer channels, and where blocks were skipped in the middle of a stage.
    """
    if net.channel_factor != 1 or list(order) != sorted(order):
        return None

    def extract(subnet: Subnet) -> dict[str, Tensor]:
        for block, row in enumerate(net.space.blocks):
            for pick in range(len(row)):
                net.order_channels(block, pick)
        return {k: v.cpu().contiguous() for k, v in net.extract(subnet, picks).items()}

    return extract
