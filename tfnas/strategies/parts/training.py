"""What strategies that train a supernet share: data, not control flow."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from tfnas.derive.architecture import Architecture, Constraint, argmax
from tfnas.derive.methods import derive_constrained
from tfnas.derive.scaling import scale_widths
from tfnas.nets.steps import to_device
from tfnas.nets.supernet import Depth, Gates, Path, Supernet, Widths
from tfnas.process.ranks import ALONE, Ranks
from tfnas.space.search_space import SearchSpace
from tfnas.space.subnet import Subnet
from tfnas.strategies.contract import Task

if TYPE_CHECKING:
    from tfnas.data.batches import Batches


def new_supernet(
    space: SearchSpace, channel_factor: float, seed: int, device: torch.device, *, alike: bool
) -> Supernet:
    """A supernet whose weights depend on the seed alone, channels last.

    Args:
        alike: see `Supernet.start_alike`.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = Supernet(space, channel_factor)
    if alike:
        net.start_alike()
    return net.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]


def momentum_sgd(
    net: nn.Module, lr: float, momentum: float, weight_decay: float
) -> torch.optim.SGD:
    """SGD in one pass over each parameter. A step moves only parameters that have a gradient."""
    parameters = list(net.parameters())
    sgd = torch.optim.SGD(parameters, lr, momentum, weight_decay=weight_decay, fused=True)
    if momentum:
        # Torch's fused form fails where only some have a buffer; one of zeros changes nothing.
        for parameter in parameters:
            sgd.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return sgd


def autocast(task: Task) -> torch.autocast:
    """See `Task.amp`. bfloat16 has the range of float32, so no loss needs scaling."""
    on = task.amp and task.device.type != "cpu"
    return torch.autocast(task.device.type, torch.bfloat16, enabled=on)


def count(sampled: list[list[int]], paths: Sequence[Sequence[int]]) -> None:
    """Add to how often each op of each block was trained."""
    for path in paths:
        for row, pick in zip(sampled, path, strict=True):
            row[pick] += 1


class Endless:
    """Epoch after epoch of batches."""

    def __init__(self, batches: Batches):
        self._batches = batches
        self._epoch, self._index = 0, 0
        self._rest = batches.epoch(0)

    def __next__(self) -> tuple[Tensor, Tensor]:
        if self._index == len(self._batches):
            self._epoch, self._index = self._epoch + 1, 0
            self._rest = self._batches.epoch(self._epoch)
        batch = next(self._rest)
        self._index += 1  # not before: a batch that can't be read wasn't taken
        return batch

    def state(self) -> list[int]:
        return [self._epoch, self._index]

    def load(self, state: Sequence[int]) -> None:
        self._epoch, self._index = state
        self._rest = self._batches.epoch(self._epoch, self._index)


@contextmanager
def restoring() -> Iterator[None]:
    """Raises ValueError for whatever a state that doesn't fit makes of itself."""
    try:
        yield
    except (LookupError, TypeError, ValueError, RuntimeError, AttributeError) as error:
        raise ValueError(f"the saved state doesn't fit this search: {error}") from None


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
    net: Supernet,
    picks: Sequence[int],
    order: Sequence[int],
    widths: Sequence[Sequence[int]] | None,
) -> Callable[[Subnet], Mapping[str, Tensor]] | None:
    """What takes a subnet's weights out of the supernet.

    Args:
        picks: the op of every block, where two candidates admit the same one.
        order: see `DepthSearch.architecture`; no weights are given where blocks were skipped in
            the middle of a stage.
        widths: that each op was trained at last. An op at another width picks its channels anew,
            the most important first. None: every width was trained, as the leading channels.

    Returns:
        None for a proxy with fewer channels than the space.
    """
    if net.channel_factor != 1 or list(order) != sorted(order):
        return None

    def extract(subnet: Subnet) -> dict[str, Tensor]:
        anew = [
            (block, pick)
            for block, pick, op in net.placed(subnet, picks)
            if widths is not None and op.c_mid != widths[block][pick]
        ]
        # Put back afterwards: the next subnet may have this op at the width that was trained.
        parameters = [p for place in anew for p in net.candidate(*place).parameters()]
        trained = [parameter.detach().clone() for parameter in parameters]
        for place in anew:
            net.order_channels(*place)
        found = {k: v.cpu().contiguous() for k, v in net.extract(subnet, picks).items()}
        with torch.no_grad():
            for parameter, value in zip(parameters, trained, strict=True):
                parameter.copy_(value)
        return found

    return extract


def check_knobs(
    knobs: object,
    above_0: Sequence[str] = (),
    at_least_0: Sequence[str] = (),
    below_1: Sequence[str] = (),
) -> None:
    """Raises ValueError, naming the knob, for one out of its range; `below_1` starts at 0."""
    for names, low, high, expected in (
        (above_0, 1e-300, math.inf, "a number above 0"),
        (at_least_0, 0.0, math.inf, "a number of at least 0"),
        (below_1, 0.0, 1.0, "a number from 0 to below 1"),
    ):
        for name in names:
            value = getattr(knobs, name)
            if not low <= value < high:
                raise ValueError(f"strategy.{name}={value}: expected {expected}")


def cosine(lr: float, epoch: int, epochs: int) -> float:
    """Half a cosine from `lr` to 0, a value for each epoch (arXiv 1608.03983, one cycle)."""
    return lr * (1 + math.cos(math.pi * epoch / epochs)) / 2


def some_batches(task: Task, images: int = 256) -> tuple[tuple[Tensor, Tensor], ...]:
    """The first `images` held-out images (whole batches, at least one), on the task's device."""
    wanted = max(1, images // task.held_out.batch)
    taken = itertools.islice(task.held_out.epoch(0), wanted)
    return tuple((to_device(x, task.device), to_device(y, task.device)) for x, y in taken)


@torch.no_grad()
def top1(
    net: Supernet,
    batches: Sequence[tuple[Tensor, Tensor]],
    path: Sequence[Path],
    depths: Sequence[Depth],
    widths: Widths,
    gates: Gates = None,
    ranks: Ranks = ALONE,
) -> float:
    """Percent of images that a path gets right; batch norm uses each batch's statistics.

    Args:
        batches: this rank's parts.
    """
    hits = [(net(x, path, depths, widths, gates).argmax(1) == y).sum() for x, y in batches]
    right, images = ranks.sum(float(sum(hits)), sum(len(y) for _, y in batches))
    return 100 * right / images
