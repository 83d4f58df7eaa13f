"""Training a supernet without an architecture, and scoring subnets on it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tfnas.derive.architecture import Architecture, Derived
from tfnas.derive.methods import derive_constrained
from tfnas.nets.steps import Guard, Meter, average_step, check_finite, live, to_device
from tfnas.space.subnet import Subnet
from tfnas.strategies.contract import EpochRecord, Found, Progress, State, Task
from tfnas.strategies.parts.sampling import first_path, log_uniform
from tfnas.strategies.parts.scoring import Scores
from tfnas.strategies.parts.training import (
    autocast,
    cosine,
    count,
    momentum_sgd,
    new_supernet,
    restoring,
    some_batches,
    top1,
    weights_of,
)


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


class UniformTraining:
    """Trains a supernet on uniformly sampled single paths, depths and widths included.

    Uniform single paths are those of SPOS (arXiv 1904.00420, section 3.2); a uniform width of every
    op takes the leading channels, as in slimmable networks.
    """

    def __init__(self, task: Task, how: WeightTraining):
        self.task, self.how = task, how
        budget = task.budget
        self.generator = torch.Generator().manual_seed(task.seed)
        self.net = new_supernet(
            task.space, budget.channel_factor, task.seed, task.device, alike=budget.start_alike
        )
        self.sgd = momentum_sgd(self.net, how.lr, how.momentum, how.decay)
        self.guard = Guard(task.on_nonfinite, task.seed, task.device)
        self.epoch = self.index = 0  # the next batch
        self.last = self._draw()
        self._start_epoch()

    def _start_epoch(self) -> None:
        self.sampled = [[0] * len(block) for block in self.task.space.blocks]
        self.meter = Meter(self.task.device)

    def run(self, extra_steps: int, state: Callable[[], State]) -> Iterator[Progress]:
        """Train what is left of the budget.

        Args:
            extra_steps: that the caller will take afterwards, for the progress.
            state: the caller's, this training's included.
        """
        task, epochs = self.task, self.task.budget.epochs
        steps = epochs * len(task.train) + extra_steps
        held_out = some_batches(task)
        while self.epoch < epochs:
            epoch, lr = self.epoch, cosine(self.how.lr, self.epoch, epochs)
            self.sgd.param_groups[0]["lr"] = lr
            for x, y in task.train.epoch(epoch, self.index):
                self._step(to_device(x, task.device), to_device(y, task.device))
                self.index += 1
                yield Progress(epoch * len(task.train) + self.index, steps, epoch, state)
            check_finite(epoch, self.meter.loss)
            task.ranks.check_same({"weights": list(self.net.parameters())})
            record = EpochRecord(
                epoch=epoch,
                train_loss=self.meter.loss,
                train_top1=self.meter.top1,
                held_out_top1=top1(self.net, held_out, *self.last, ranks=task.ranks),
                temperature=None,
                learning_rate=lr,
                derived_ms=None,
                scaled_ms=None,
                sampled=tuple(tuple(row) for row in self.sampled),
            )
            self.epoch, self.index = epoch + 1, 0
            self._start_epoch()
            yield Progress(self.epoch * len(task.train), steps, epoch, state, record)

    def _draw(self) -> tuple[list[int], list[int], list[list[int]]]:
        """(path, depths, widths)"""
        space, generator = self.task.space, self.generator
        path = first_path("uniform", [log_uniform(len(b)) for b in space.blocks], generator)
        depths = [_pick(stage.depths, generator) for stage in space.stages]
        return path, depths, [[_pick(c.widths, generator) for c in b] for b in space.blocks]

    def _step(self, x: Tensor, y: Tensor) -> None:
        ranks, self.last = self.task.ranks, self._draw()
        ranks.check_same({"paths": self.last})
        with autocast(self.task):
            logits = self.net(x, *self.last)
            loss = F.cross_entropy(logits, y)
        self.sgd.zero_grad(set_to_none=True)
        loss.backward()
        parameters = live(self.net)
        loss, hits = average_step(parameters, logits, y, loss, ranks)
        norm = nn.utils.clip_grad_norm_(parameters, self.how.clip)
        if self.guard.passes(loss, norm, self.epoch, self.index, "weight"):
            self.sgd.step()
            count(self.sampled, [self.last[0]])
            self.meter.add(loss, hits, len(y))

    def state(self) -> State:
        """All that changes, as a checkpoint can hold it."""
        self.guard.settle()
        return {
            "net": self.net.state_dict(),
            "sgd": self.sgd.state_dict(),
            "generator": self.generator.get_state(),
            "epoch": self.epoch,
            "index": self.index,
            "last": list(self.last),
            "sampled": self.sampled,
            "meter": self.meter.state(),
            "skipped": self.guard.skipped,
        }

    def load(self, state: State) -> None:
        """Take over what `state` gave."""
        self.net.load_state_dict(state["net"])
        self.sgd.load_state_dict(state["sgd"])
        self.generator.set_state(state["generator"])
        self.epoch, self.index, self.sampled = state["epoch"], state["index"], state["sampled"]
        path, depths, widths = state["last"]
        self.last = path, depths, widths
        self.meter.load(state["meter"])
        self.guard.skipped = state["skipped"]


def _pick(values: Sequence[int], generator: torch.Generator) -> int:
    return values[int(torch.randint(len(values), (), generator=generator))]


class SampledSearch:
    """A search that trains a supernet on uniform paths, then scores sampled subnets on it.

    Args:
        images: held-out images for each score, see `Scores`.

    Attributes:
        rng: what subnets are drawn with.
        drawn: how many came in, those that came twice included.
        generation: how many were scored before the present generation, where there are any.
    """

    def __init__(self, task: Task, how: WeightTraining, images: int):
        self.rng = np.random.default_rng(task.seed)
        self.training = UniformTraining(task, how)
        self.drawn = self.generation = 0
        self._scores = Scores(self.training.net, task, images)

    @property
    def scored(self) -> dict[Subnet, tuple[float, Derived]]:
        """(top-1, subnet) of each distinct one, in the order that they came in."""
        return self._scores.scored

    def train(self, extra_steps: int) -> Iterator[Progress]:
        """See `UniformTraining.run`."""
        return self.training.run(extra_steps, self.state)

    def add(self, derived: Derived) -> None:
        """Score a subnet, if it is a new one."""
        self.drawn += 1
        self._scores.add(derived)

    def parents(self, count: int) -> list[Derived]:
        """The best of all generations before the present one, best first."""
        scored = list(self.scored.values())[: self.generation]
        return [derived for _, derived in sorted(scored, key=lambda pair: -pair[0])[:count]]

    def progress(self, extra_steps: int, done: int) -> Progress:
        """After `done` of the steps that follow the training."""
        task = self.training.task
        trained = task.budget.epochs * len(task.train)
        return Progress(trained + done, trained + extra_steps, task.budget.epochs - 1, self.state)

    def found(self) -> Found:
        """The best subnet, with what the search cost; a score is a forward pass, a third."""
        task = self.training.task
        best, figures = self._scores.best(), self._scores.figures()
        trained = task.budget.epochs * len(task.train) * task.train.batch
        scores = {
            **figures,
            "weight_passes": trained,
            "path_passes": trained + figures["scored_images"] / 3,
            "skipped_steps": self.training.guard.skipped,
        }
        every_block = range(len(task.space.blocks))
        return Found(
            best, None, weights_of(self.training.net, best.picks, every_block, None), scores
        )

    def state(self) -> State:
        """All that changes, as a checkpoint can hold it."""
        rows = [
            {**{k: v for k, v in vars(derived).items() if k != "subnet"}, "top1": value}
            for value, derived in self.scored.values()
        ]
        return {
            "training": self.training.state(),
            "rng": self.rng.bit_generator.state,
            "scored": rows,
            "drawn": self.drawn,
            "generation": self.generation,
        }

    def load(self, state: State) -> None:
        """Take over what `state` gave. Raises ValueError if it can't be this search's."""
        with restoring():
            self.training.load(state["training"])
            self.rng.bit_generator.state = state["rng"]
            space = self.training.task.space
            for row in state["scored"]:
                values: State = {k: v for k, v in row.items() if k != "top1"}
                value = float(row["top1"])
                subnet = space.subnet(values["depths"], values["picks"], values["widths"])
                self.scored[subnet] = (value, Derived(subnet=subnet, **values))
            self.drawn, self.generation = state["drawn"], state["generation"]


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
