"""Training a supernet without an architecture, and scoring subnets on it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tfnas.derive import Architecture, Derived, derive_constrained
from tfnas.strategies.contract import EpochRecord, Progress, Task
from tfnas.strategies.sampling import first_path, log_uniform
from tfnas.strategies.training import (
    Meter,
    check_finite,
    cosine,
    count,
    live,
    some_batches,
    top1,
)
from tfnas.supernet import Supernet


def refuse_greedy(derive: str) -> None:
    """Raises ValueError for a way to derive that needs learned probabilities and widths."""
    if derive != "constrained":
        raise ValueError(f"derive={derive}: strategies that sample subnets only have constrained")


@dataclass(frozen=True)
class WeightTraining:
    """Momentum SGD with a cosine over epochs, for a supernet's weights."""

    lr: float
    momentum: float
    decay: float
    clip: float


def train_uniform(
    task: Task, net: Supernet, how: WeightTraining, generator: torch.Generator, extra_steps: int
) -> Iterator[Progress]:
    """Train the supernet on uniformly sampled single paths, depths and widths included.

    Uniform single paths are those of SPOS (arXiv 1904.00420, section 3.2); a uniform width of every
    op takes the leading channels, as in slimmable networks.

    Args:
        extra_steps: that the caller will take afterwards, for the progress.
    """
    space, budget = task.space, task.budget
    uniform = [log_uniform(len(block)) for block in space.blocks]
    sgd = torch.optim.SGD(net.parameters(), how.lr, how.momentum, weight_decay=how.decay)
    steps = budget.epochs * len(task.train) + extra_steps
    held_out = some_batches(task)
    for epoch in range(budget.epochs):
        lr = cosine(how.lr, epoch, budget.epochs)
        sgd.param_groups[0]["lr"] = lr
        sampled = [[0] * len(block) for block in space.blocks]
        meter = Meter(task.device)
        for index, (x, y) in enumerate(task.train.epoch(epoch)):
            x, y = x.to(task.device), y.to(task.device)
            path = first_path("uniform", uniform, generator)
            depths = [_pick(stage.depths, generator) for stage in space.stages]
            widths = [[_pick(c.widths, generator) for c in block] for block in space.blocks]
            count(sampled, [path])
            logits = net(x, path, depths, widths)
            loss = F.cross_entropy(logits, y)
            sgd.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(live(net), how.clip)
            sgd.step()
            meter.add(logits, y, loss)
            step = epoch * len(task.train) + index + 1
            yield Progress(step, steps, epoch)
        check_finite(epoch, meter.loss)
        yield Progress(
            step,
            steps,
            epoch,
            record=EpochRecord(
                epoch=epoch,
                train_loss=meter.loss,
                train_top1=meter.top1,
                held_out_top1=top1(net, held_out, path, depths, widths),
                temperature=None,
                learning_rate=lr,
                derived_ms=None,
                scaled_ms=None,
                sampled=tuple(tuple(row) for row in sampled),
            ),
        )


def _pick(values: Sequence[int], generator: torch.Generator) -> int:
    return values[int(torch.randint(len(values), (), generator=generator))]


@dataclass(frozen=True)
class Scorer:
    """Top-1 of subnets on the supernet, in percent, over fixed held-out batches.

    Batch norm uses the statistics of each batch, so every subnet's are its own.
    """

    net: Supernet
    batches: tuple[tuple[Tensor, Tensor], ...]

    @classmethod
    def of(cls, task: Task, net: Supernet, images: int) -> Scorer:
        """On the first `images` held-out images (whole batches, at least one)."""
        return cls(net, some_batches(task, images))

    @property
    def images(self) -> int:
        return sum(len(y) for _, y in self.batches)

    def top1(self, derived: Derived) -> float:
        rows = zip(derived.widths, self.net.space.blocks, strict=True)
        widths = [[width] * len(block) for width, block in rows]
        return top1(self.net, self.batches, derived.picks, derived.depths, widths)

    def spent(self, task: Task, scored: int) -> dict[str, float]:
        """What a search cost that scored so many subnets; a score is a forward pass, a third."""
        trained = task.budget.epochs * len(task.train) * task.train.batch
        images = scored * self.images
        return {
            "weight_passes": trained,
            "scored_images": images,
            "path_passes": trained + images / 3,
        }


@dataclass(frozen=True)
class Genome:
    """One subnet's choices: a depth for every stage, an op and a width for every block."""

    depths: tuple[int, ...]
    picks: tuple[int, ...]
    widths: tuple[int, ...]

    @classmethod
    def random(cls, task: Task, rng: np.random.Generator) -> Genome:
        """Depths, ops and widths uniform and independent."""
        space = task.space
        picks = tuple(int(rng.integers(len(block))) for block in space.blocks)
        pairs = zip(space.blocks, picks, strict=True)
        return cls(
            tuple(int(rng.choice(stage.depths)) for stage in space.stages),
            picks,
            tuple(int(rng.choice(block[pick].widths)) for block, pick in pairs),
        )

    def meet_target(self, task: Task, rng: np.random.Generator) -> Derived:
        """The nearest subnet that meets the target.

        Every change of an op or a depth costs about the same, with a random preference among
        those that are not the genome's, so that the repair prefers none.
        """
        space = task.space
        alphas = [
            _prefer(len(block), pick, rng)
            for block, pick in zip(space.blocks, self.picks, strict=True)
        ]
        betas = [
            _prefer(len(stage.depths), depth - stage.min_depth, rng)
            for stage, depth in zip(space.stages, self.depths, strict=True)
        ]
        widths = tuple(
            tuple(self.widths[b] if i == self.picks[b] else c.op.c_mid for i, c in enumerate(row))
            for b, row in enumerate(space.blocks)
        )
        arch = Architecture(tuple(alphas), tuple(betas), widths)
        return derive_constrained(space, arch, task.constraints)

    @classmethod
    def of(cls, derived: Derived) -> Genome:
        return cls(tuple(derived.depths), tuple(derived.picks), tuple(derived.widths))


PREFERENCE = 5.0  # nats by which a genome's own choice stands above the others


def _prefer(n: int, index: int, rng: np.random.Generator) -> np.ndarray:
    logits = rng.uniform(0, 1, n)
    logits[index] = 1 + PREFERENCE
    return logits - np.logaddexp.reduce(logits)
