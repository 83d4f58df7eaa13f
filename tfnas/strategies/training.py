"""What strategies that train a supernet share: data, not control flow."""

from __future__ import annotations

import itertools
import math
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from tfnas.derive import Architecture, Constraint, argmax, derive_constrained, scale_widths
from tfnas.distributed import ALONE, Ranks
from tfnas.space import SearchSpace, Subnet
from tfnas.strategies.contract import DivergedError, Task
from tfnas.supernet import Depth, Gates, Path, Supernet, Widths

if TYPE_CHECKING:
    from tfnas.data import Batches

LAG = 8  # steps that a GPU may be behind, before the figures of the first are waited for
EXPLODED = 1e6  # norm of a gradient, before clipping: the loss is lost, if not yet infinite


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


def live(net: nn.Module) -> list[nn.Parameter]:
    """The parameters that the last backward pass reached."""
    return [p for p in net.parameters() if p.grad is not None]


def to_device(batch: Tensor, device: torch.device) -> Tensor:
    """A batch from the CPU, on a GPU without waiting for it."""
    if device.type == "cpu":
        return batch.to(device)
    return batch.pin_memory().to(device, non_blocking=True)


def autocast(task: Task) -> torch.autocast:
    """See `Task.amp`. bfloat16 has the range of float32, so no loss needs scaling."""
    on = task.amp and task.device.type != "cpu"
    return torch.autocast(task.device.type, torch.bfloat16, enabled=on)


def average_step(
    parameters: Sequence[Tensor], logits: Tensor, labels: Tensor, loss: Tensor, ranks: Ranks
) -> tuple[Tensor, Tensor]:
    """Average a step's gradients over ranks; every rank's batch part is as large.

    Args:
        parameters: those that have a gradient.
        logits, labels: (N, classes), (N,).
        loss: of this rank.

    Returns:
        The loss and the number of right answers on this rank's part; the means over ranks, if there
        are several.
    """
    hits = (logits.detach().argmax(1) == labels).sum()
    if ranks.size == 1:
        return loss.detach(), hits
    figures = torch.stack([loss.detach(), hits.to(loss.dtype)])
    ranks.average([*(p.grad for p in parameters if p.grad is not None), figures])
    return figures[0], figures[1]


def count(sampled: list[list[int]], paths: Sequence[Sequence[int]]) -> None:
    """Add to how often each op of each block was trained."""
    for path in paths:
        for row, pick in zip(sampled, path, strict=True):
            row[pick] += 1


class Meter:
    """Mean loss and top-1 over batches; reads the device only when asked.

    Over several ranks it is given the means over them, so all have the same.
    """

    def __init__(self, device: torch.device):
        self._sums = torch.zeros(3, device=device, dtype=torch.float64)  # loss, hits, images

    def add(self, loss: Tensor, hits: Tensor, n: int) -> None:
        """Of a batch of n images: the mean loss, and how many were right."""
        self._sums += torch.stack([loss * n, hits, torch.full_like(hits, n)])

    def state(self) -> Tensor:
        return self._sums.cpu().clone()

    def load(self, state: Tensor) -> None:
        self._sums.copy_(state)

    @property
    def loss(self) -> float:
        return float(self._sums[0] / self._sums[2])

    @property
    def top1(self) -> float:
        """Percent."""
        return float(100 * self._sums[1] / self._sums[2])


class Guard:
    """Watches the loss and the gradients of every step; see `Task.on_nonfinite`.

    On a GPU no step waits for its own figures, unless bad ones are to be skipped: they are looked
    at some steps later, or when the run is saved.

    Attributes:
        skipped: steps so far that were not taken.
    """

    def __init__(self, task: Task, at_once: bool | None = None):
        """
        Args:
            at_once: whether each step waits for its figures; None: as above.
        """
        self._skip, self._seed = task.on_nonfinite == "skip", task.seed
        if at_once is None:
            at_once = task.device.type == "cpu"
        self._at_once = self._skip or at_once
        self._pending: deque[tuple[Tensor, torch.cuda.Event | None, str]] = deque()
        self.skipped = 0

    def passes(self, loss: Tensor, norm: Tensor, epoch: int, index: int, kind: str) -> bool:
        """Whether a step may be taken.

        Args:
            norm: of the gradient, before clipping.
            index: of the batch in its epoch.

        Raises:
            DivergedError: if a step had a loss or a gradient beyond all bounds.
        """
        fine = torch.isfinite(loss.detach()) & (norm < EXPLODED)  # nan is below nothing
        where = f"{kind} step at batch {index + 1} of epoch {epoch + 1}, seed {self._seed}"
        if self._skip and not bool(fine):
            self.skipped += 1
            return False
        event = None
        if fine.device.type == "cuda":
            fine = fine.to("cpu", non_blocking=True)  # there once the event is
            event = torch.cuda.Event()
            event.record()
        self._pending.append((fine, event, where))
        self.settle(0 if self._at_once else LAG)
        return True

    def settle(self, keep: int = 0) -> None:
        """Look at the figures of all steps but the last `keep`. Raises DivergedError."""
        while len(self._pending) > keep:
            fine, event, where = self._pending.popleft()
            if event is not None:
                event.synchronize()
            if not bool(fine):
                raise DivergedError(
                    f"the search diverged: no finite loss, or a gradient above {EXPLODED:g} "
                    f"({where}); lower strategy.weight_lr or strategy.arch_lr, or skip such steps "
                    "with on_nonfinite=skip"
                )


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


def check_finite(epoch: int, *values: float | Tensor) -> None:
    """Raises DivergedError if the loss or a vector of the architecture is no finite number."""
    for value in values:
        if not bool(torch.isfinite(torch.as_tensor(value)).all()):
            raise DivergedError(
                f"the search diverged in epoch {epoch + 1}: loss or op probabilities are no finite "
                "numbers; lower strategy.weight_lr or strategy.arch_lr"
            )


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
