"""One step of SGD, guarded: averaged over ranks, watched for losses that are no numbers."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from tfnas.process.errors import DivergedError
from tfnas.process.ranks import Ranks

if TYPE_CHECKING:
    pass

LAG = 8  # steps that a GPU may be behind, before the figures of the first are waited for
EXPLODED = 1e6  # norm of a gradient, before clipping: the loss is lost, if not yet infinite


def live(net: nn.Module) -> list[nn.Parameter]:
    """The parameters that the last backward pass reached."""
    return [p for p in net.parameters() if p.grad is not None]


def to_device(batch: Tensor, device: torch.device) -> Tensor:
    """A batch from the CPU, on a GPU without waiting for it."""
    if device.type == "cpu":
        return batch.to(device)
    return batch.pin_memory().to(device, non_blocking=True)


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
    """Watches the loss and the gradients of every step; and says what becomes of bad ones.

    On a GPU no step waits for its own figures, unless bad ones are to be skipped: they are looked
    at some steps later, or when the run is saved.

    Attributes:
        skipped: steps so far that were not taken.
    """

    def __init__(
        self, on_nonfinite: str, seed: int, device: torch.device, at_once: bool | None = None
    ):
        """
        Args:
            on_nonfinite: stop | skip: what becomes of a step whose loss or gradients are no finite
                numbers, or explode.
            seed: of the run, for messages.
            at_once: whether each step waits for its figures; None: as above.
        """
        self._skip, self._seed = on_nonfinite == "skip", seed
        if at_once is None:
            at_once = device.type == "cpu"
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


def check_finite(epoch: int, *values: float | Tensor) -> None:
    """Raises DivergedError if the loss or a vector of the architecture is no finite number."""
    for value in values:
        if not bool(torch.isfinite(torch.as_tensor(value)).all()):
            raise DivergedError(
                f"the search diverged in epoch {epoch + 1}: loss or op probabilities are no finite "
                "numbers; lower strategy.weight_lr or strategy.arch_lr"
            )
