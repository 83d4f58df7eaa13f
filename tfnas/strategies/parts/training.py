"""The weights of a supernet: their knobs, their steps and epochs, and what they are worth."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tfnas.nets.steps import EXPLODED, Guard, Meter, guarded_step, loss_and_hits, to_device
from tfnas.nets.supernet import Depths, Paths, Supernet, Widths
from tfnas.process.checks import ABOVE_0, AT_LEAST_0, FROM_0_BELOW_1
from tfnas.process.errors import DivergedError
from tfnas.process.ranks import ALONE, Ranks
from tfnas.space.search_space import SearchSpace
from tfnas.space.subnet import Subnet
from tfnas.strategies.contract import EpochRecord, Progress, State, Task

if TYPE_CHECKING:
    from tfnas.data.batches import Batches


@dataclass(frozen=True)
class WeightKnobs:
    """Momentum SGD with a cosine over epochs: knobs of every strategy that trains a supernet."""

    weight_lr: Annotated[float, ABOVE_0]
    weight_momentum: Annotated[float, FROM_0_BELOW_1]
    weight_decay: Annotated[float, AT_LEAST_0]
    clip: Annotated[float, ABOVE_0]  # norm of a gradient


class WeightTraining:
    """Trains a supernet's weights on whatever paths a strategy takes, epoch by epoch.

    Args:
        kind: of the supernet.
        ops: for each block, how many there are to choose from.
        then: steps of the strategy that follow the training, for the progress.

    Attributes:
        epoch, index: of the next batch.
        sampled: how often each op of each block was trained in this epoch.
        meter: of this epoch, the first of a step's paths.
        passes: images through one path so far.
    """

    STATE = ("net", "sgd", "guard", "epoch", "index", "sampled", "meter", "passes")

    def __init__(
        self, task: Task, knobs: WeightKnobs, kind: type[Supernet], ops: Sequence[int], then: int
    ):
        self.task, self.knobs, self._ops, budget = task, knobs, ops, task.budget
        self.net = new_supernet(
            task.space, budget.channel_factor, task.seed, task.device,
            alike=budget.start_alike, kind=kind,
        )  # fmt: skip
        self.sgd = momentum_sgd(
            self.net, knobs.weight_lr, knobs.weight_momentum, knobs.weight_decay
        )
        self.guard = Guard(task.on_nonfinite, task.device)
        self.epoch = self.index = self.passes = 0
        self.steps = budget.epochs * len(task.train) + then
        self._start_epoch()

    def _start_epoch(self) -> None:
        self.sampled = [[0] * ops for ops in self._ops]
        self.meter = Meter(self.task.device)

    @property
    def lr(self) -> float:
        """Half a cosine to 0, a value for each epoch (arXiv 1608.03983, one cycle)."""
        angle = math.pi * self.epoch / self.task.budget.epochs
        return self.knobs.weight_lr * (1 + math.cos(angle)) / 2

    def epochs(self) -> Iterator[tuple[int, Iterator[tuple[Tensor, Tensor]]]]:
        """What is left to train: each epoch with its batches, at its learning rate."""
        while self.epoch < self.task.budget.epochs:
            self.sgd.param_groups[0]["lr"] = self.lr
            yield self.epoch, self.task.train.epoch(self.epoch, self.index)

    def loss(self, images: Tensor, labels: Tensor, logits: Sequence[Tensor]) -> Tensor:
        """The sum over paths, by the labels and, where there is one, by the teacher.

        Args:
            logits: (N, classes) of each path.
        """
        losses = torch.stack([F.cross_entropy(out, labels) for out in logits])
        if self.task.lesson is not None:
            losses = self.task.lesson.mixed_in(losses, images, logits)
        return losses.sum()

    def step(
        self, loss: Tensor, logits: Tensor, labels: Tensor, paths: Sequence[Sequence[int]]
    ) -> None:
        """One step of the weights.

        Args:
            loss: the sum over the paths.
            logits: (N, classes) of the first path.
        """
        figures = loss_and_hits(loss, logits, labels)
        ranks, where = self.task.ranks, self.where("weight")
        self.passes += len(labels) * len(paths) * ranks.size
        if guarded_step(
            self.sgd, loss, figures, self.guard, where, clip=self.knobs.clip, ranks=ranks
        ):
            count(self.sampled, paths)
            self.meter.add(figures[0] / len(paths), figures[1], len(labels))

    def where(self, kind: str) -> str:
        """What the guard says of a bad step here."""
        return (
            f"the search diverged: no finite loss, or a gradient above {EXPLODED:g} ({kind} step "
            f"at batch {self.index + 1} of epoch {self.epoch + 1}, seed {self.task.seed}); lower "
            "strategy.weight_lr or strategy.arch_lr, or skip such steps with on_nonfinite=skip"
        )

    def held_out_top1(self, path: Paths, depths: Depths, widths: Widths) -> float:
        """Top-1 of a path on some held-out batches, percent."""
        batches, ranks = some_batches(self.task), self.task.ranks
        return top1(self.net, batches, path, depths, widths, ranks)

    def end_epoch(self) -> None:
        """Go on to the next epoch."""
        self.epoch, self.index = self.epoch + 1, 0
        self._start_epoch()

    def progress(
        self, state: Callable[[], State], record: EpochRecord | None = None, after: int = 0
    ) -> Progress:
        """Where the search is.

        Args:
            record: of the epoch that has just ended.
            after: steps done of those that follow the training.
        """
        step = self.epoch * len(self.task.train) + self.index + after
        epoch = min(self.epoch, self.task.budget.epochs - 1) if record is None else record.epoch
        return Progress(step, self.steps, epoch, state, record)


def new_supernet(
    space: SearchSpace,
    channel_factor: float,
    seed: int,
    device: torch.device,
    *,
    alike: bool,
    kind: type[Supernet] = Supernet,
) -> Supernet:
    """A supernet whose weights depend on the seed alone, channels last.

    Args:
        alike: see `Supernet.start_alike`.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = kind(space, channel_factor)
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


def check_finite(epoch: int, *values: float | Tensor) -> None:
    """Raises DivergedError if the loss or a vector of the architecture is no finite number."""
    for value in values:
        if not bool(torch.isfinite(torch.as_tensor(value)).all()):
            raise DivergedError(
                f"the search diverged in epoch {epoch + 1}: loss or op probabilities are no finite "
                "numbers; lower strategy.weight_lr or strategy.arch_lr"
            )


class Endless:
    """Epoch after epoch of batches."""

    STATE = ("epoch", "index")

    def __init__(self, batches: Batches):
        self._batches = batches
        self.epoch = self.index = 0  # of the next batch
        self._rest: Iterator[tuple[Tensor, Tensor]] | None = None  # of this epoch, once it began

    def __next__(self) -> tuple[Tensor, Tensor]:
        if self.index == len(self._batches):
            self.epoch, self.index, self._rest = self.epoch + 1, 0, None
        if self._rest is None:
            self._rest = self._batches.epoch(self.epoch, self.index)
        batch = next(self._rest)
        self.index += 1  # not before: a batch that can't be read wasn't taken
        return batch


def weights_of(
    net: Supernet,
    picks: Sequence[int],
    order: Sequence[int],
    widths: Widths | None,
) -> Callable[[Subnet], Mapping[str, Tensor]] | None:
    """What takes a subnet's weights out of the supernet.

    Args:
        picks: the op of every block, where two candidates admit the same one.
        order: see `DepthSearch.architecture`; no weights are given where blocks were skipped in
            the middle of a stage.
        widths: see `trained` of `Supernet.extract`.

    Returns:
        None for a proxy with fewer channels than the space.
    """
    if net.channel_factor != 1 or list(order) != sorted(order):
        return None

    def extract(subnet: Subnet) -> dict[str, Tensor]:
        found = net.extract(subnet, picks, widths)
        return {name: value.cpu().contiguous() for name, value in found.items()}

    return extract


def some_batches(task: Task, images: int = 256) -> tuple[tuple[Tensor, Tensor], ...]:
    """The first `images` held-out images (whole batches, at least one), on the task's device."""
    wanted = max(1, images // task.held_out.batch)
    taken = itertools.islice(task.held_out.epoch(0), wanted)
    return tuple((to_device(x, task.device), to_device(y, task.device)) for x, y in taken)


@torch.no_grad()
def top1(
    net: Supernet,
    batches: Sequence[tuple[Tensor, Tensor]],
    path: Paths,
    depths: Depths,
    widths: Widths,
    ranks: Ranks = ALONE,
) -> float:
    """Percent of images that a path gets right; batch norm uses each batch's statistics.

    Args:
        batches: this rank's parts.
    """
    hits = [(net(x, path, depths, widths).argmax(1) == y).sum() for x, y in batches]
    right, images = ranks.sum(float(sum(hits)), sum(len(y) for _, y in batches))
    return 100 * right / images
