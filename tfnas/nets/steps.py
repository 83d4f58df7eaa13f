"""One guarded step of an optimizer: averaged over ranks, watched for what is no number."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from tfnas.process.errors import DivergedError
from tfnas.process.ranks import Ranks

LAG = 8  # steps that a GPU may be behind, before the figures of the first are waited for
EXPLODED = 1e6  # norm of a gradient, before clipping: the loss is lost, if not yet infinite
NO_SCALER = torch.amp.GradScaler("cpu", enabled=False)


def to_device(batch: Tensor, device: torch.device) -> Tensor:
    """A batch from the CPU, on a GPU without waiting for it."""
    if device.type == "cpu":
        return batch.to(device)
    return batch.pin_memory().to(device, non_blocking=True)


def guarded_step(
    optimizer: torch.optim.Optimizer,
    loss: Tensor,
    figures: Tensor,
    guard: Guard,
    where: str,
    *,
    clip: float,
    ranks: Ranks,
    statistics: Sequence[Tensor] = (),
    scaler: torch.amp.GradScaler = NO_SCALER,
) -> bool:
    """Take one step, if the guard lets it pass, on the means over ranks of all gradients.

    Args:
        loss: whose gradients are taken, of this rank's part of the batch; all parts are as large.
        figures: (n,), first of all the loss that the guard looks at; become their means over ranks.
        where: see `Guard.passes`.
        clip: norm of the gradient.
        statistics: become their means over ranks too.
        scaler: of a loss in float16; it skips itself what overflows there.

    Returns:
        Whether the step was taken.
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    optimizer.zero_grad(set_to_none=True)
    scaler.scale(loss).backward()
    gradients = [p.grad for p in parameters if p.grad is not None]
    ranks.average([*gradients, *statistics, figures])
    scaler.unscale_(optimizer)
    norm = nn.utils.clip_grad_norm_(parameters, clip or math.inf)
    if scaler.is_enabled():
        norm = torch.zeros_like(norm)
    if not guard.passes(figures[0], norm.to(figures.device, non_blocking=True), where):
        return False
    scaler.step(optimizer)
    scaler.update()
    return True


def loss_and_hits(loss: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
    """(2,): a loss, and how many of (N, classes) are right."""
    hits = (logits.detach().argmax(1) == labels).sum()
    return torch.stack([loss.detach(), hits.to(loss.dtype)])


class Meter:
    """Mean loss and top-1 over batches; reads the device only when asked.

    Over several ranks it is given the means over them, so all have the same.
    """

    STATE = ("sums",)

    def __init__(self, device: torch.device):
        self.sums = torch.zeros(3, device=device, dtype=torch.float64)  # loss, hits, images

    def add(self, loss: Tensor, hits: Tensor, n: int) -> None:
        """Count a batch of n images: its mean loss, and how many were right."""
        self.sums += torch.stack([loss * n, hits, torch.full_like(hits, n)])

    @property
    def loss(self) -> float:
        return float(self.sums[0] / self.sums[2])

    @property
    def top1(self) -> float:
        """Percent."""
        return float(100 * self.sums[1] / self.sums[2])


class Guard:
    """Watches the loss and the gradients of every step; and says what becomes of bad ones.

    On a GPU no step waits for its own figures, unless bad ones are to be skipped: they are looked
    at some steps later, or when the run is saved.

    Attributes:
        skips: whether bad steps are left out; or else the first one ends the run.
        skipped: steps so far that were not taken.
    """

    STATE = ("skipped",)

    def __init__(self, on_nonfinite: str, device: torch.device, at_once: bool | None = None):
        """
        Args:
            on_nonfinite: stop | skip: what becomes of a step whose loss or gradients are no finite
                numbers, or explode.
            at_once: whether each step waits for its figures; None: as above.
        """
        self.skips = on_nonfinite == "skip"
        self._at_once = self.skips or (device.type == "cpu" if at_once is None else at_once)
        self._pending: deque[tuple[Tensor, torch.cuda.Event | None, str]] = deque()
        self.skipped = 0

    def passes(self, loss: Tensor, norm: Tensor, where: str) -> bool:
        """Whether a step may be taken.

        Args:
            norm: of the gradient, before clipping.
            where: the error's text, with `{loss:g}` and `{norm:g}` in it.

        Raises:
            DivergedError: if a step had a loss or a gradient beyond all bounds.
        """
        figures = torch.stack([loss.detach().to(norm), norm.detach()])
        if self.skips and not _sound(*figures.tolist()):
            self.skipped += 1
            return False
        event = None
        if figures.device.type == "cuda":
            figures = figures.to("cpu", non_blocking=True)  # there once the event is
            event = torch.cuda.Event()
            event.record()
        self._pending.append((figures, event, where))
        self.settle(0 if self._at_once else LAG)
        return True

    def settle(self, keep: int = 0) -> None:
        """Look at the figures of all steps but the last `keep`. Raises DivergedError."""
        while len(self._pending) > keep:
            figures, event, where = self._pending.popleft()
            if event is not None:
                event.synchronize()
            loss, norm = figures.tolist()
            if not _sound(loss, norm):
                raise DivergedError(where.format(loss=loss, norm=norm))


def _sound(loss: float, norm: float) -> bool:
    """Whether a step may be taken; nan is below nothing."""
    return math.isfinite(loss) and norm < EXPLODED
