"""Training a supernet without an architecture, and scoring subnets on it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from tfnas.derive.architecture import Architecture, Derived
from tfnas.derive.methods import derive_constrained
from tfnas.files.state import fitting, restore, state_of
from tfnas.nets.steps import to_device
from tfnas.nets.supernet import Supernet
from tfnas.strategies.contract import EpochRecord, Found, Progress, State, Task
from tfnas.strategies.parts.sampling import first_path, log_uniform
from tfnas.strategies.parts.scoring import Scores
from tfnas.strategies.parts.training import (
    WeightKnobs,
    WeightTraining,
    autocast,
    check_finite,
    weights_of,
)


def refuse_greedy(derive: str) -> None:
    """Raises ValueError for a way to derive that needs learned probabilities and widths."""
    if derive != "constrained":
        raise ValueError(f"derive={derive}: strategies that sample subnets only have constrained")


SAMPLED = ("uniform", "fair")
Drawn = tuple[list[int], list[int], list[list[int]]]
"""Path, depths and widths."""


class SampledSearch:
    """A search that trains a supernet on uniform paths, then scores sampled subnets on it.

    Uniform single paths are those of SPOS (arXiv 1904.00420, section 3.2); a uniform width of every
    op takes the leading channels, as in slimmable networks. Fair ones are those of FairNAS (arXiv
    1907.01845): a step is on as many paths as a block has ops, and each op is in one of them.

    Args:
        images: held-out images for each score, see `Scores`.
        then: steps of the strategy that follow the training, for the progress.
        by: what ranks subnets, see `Scores`.
        paths: uniform | fair, or what a subclass draws.
        kind: of the supernet.

    Attributes:
        rng: what subnets are drawn with.
        last: path, depths and widths of the last step's first path.
        scored: (score, subnet) of each distinct one, in the order that they came in.
        drawn: how many subnets came in, those that came twice included.
        generation: how many were scored before the present generation, where there are any.
    """

    STATE: tuple[str, ...] = (
        "weights",
        "generator",
        "last",
        "rng",
        "scores",
        "drawn",
        "generation",
    )

    def __init__(
        self,
        task: Task,
        knobs: WeightKnobs,
        images: int,
        then: int,
        by: str = "top1",
        paths: str = "uniform",
        kind: type[Supernet] = Supernet,
    ):
        self.task, self.paths = task, paths
        self.rng = np.random.default_rng(task.seed)
        self.generator = torch.Generator().manual_seed(task.seed)
        ops = [len(block) for block in task.space.blocks]
        self.weights = WeightTraining(task, knobs, kind, ops, then)
        self.net = self.weights.net
        self.last = self._draw()
        self.drawn = self.generation = 0
        self.scores = Scores(self.net, task, images, by)
        self.scored = self.scores.scored

    def train(self) -> Iterator[Progress]:
        """Train what is left of the budget, on sampled paths with their depths and widths."""
        task, weights = self.task, self.weights
        for epoch, batches in weights.epochs():
            for x, y in batches:
                x, y = to_device(x, task.device), to_device(y, task.device)
                drawn = self._draw_fair() if self.paths == "fair" else [self._draw()]
                self.last = drawn[0]
                task.ranks.check_same({"paths": drawn})
                with autocast(task):
                    stem = self.net.stem(x)
                    logits = [self.net.body(stem, *one) for one in drawn]
                    loss = weights.loss(x, y, logits)
                weights.step(loss, logits[0], y, [path for path, _, _ in drawn])
                weights.index += 1
                yield weights.progress(self.state)
            check_finite(epoch, weights.meter.loss)
            task.ranks.check_same({"weights": list(self.net.parameters())})
            record = EpochRecord(
                epoch=epoch,
                train_loss=weights.meter.loss,
                train_top1=weights.meter.top1,
                held_out_top1=weights.held_out_top1(*self.last),
                temperature=None,
                learning_rate=weights.lr,
                derived_ms=None,
                scaled_ms=None,
                sampled=tuple(tuple(row) for row in weights.sampled),
            )
            weights.end_epoch()
            yield weights.progress(self.state, record)

    def _draw(self) -> Drawn:
        space, generator = self.task.space, self.generator
        path = first_path("uniform", [log_uniform(len(b)) for b in space.blocks], generator)
        depths = [_pick(stage.depths, generator) for stage in space.stages]
        return path, depths, [[_pick(c.widths, generator) for c in b] for b in space.blocks]

    def _draw_fair(self) -> list[Drawn]:
        """Paths that share out the ops of every block; of fewer ops than others, some come again.

        Depths are free, so an op of a block that its path cuts off isn't trained in this step.
        """
        counts = [len(block) for block in self.task.space.blocks]
        most = max(counts)
        orders = [torch.randperm(n, generator=self.generator).tolist() for n in counts]
        drawn = [self._draw() for _ in range(most)]
        return [
            ([order[i % len(order)] for order in orders], depths, widths)
            for i, (_, depths, widths) in enumerate(drawn)
        ]

    def add(self, derived: Derived) -> None:
        """Score a subnet, if it is a new one."""
        self.drawn += 1
        self.scores.add(derived)

    def parents(self, count: int) -> list[Derived]:
        """The best of all generations before the present one, best first."""
        scored = list(self.scored.values())[: self.generation]
        best = sorted(scored, key=lambda pair: -pair[0].value(self.scores.by))
        return [derived for _, derived in best[:count]]

    def progress(self, done: int) -> Progress:
        """After `done` of the steps that follow the training."""
        return self.weights.progress(self.state, after=done)

    def found(self, values: Sequence[float] | None = None) -> Found:
        """The best subnet, with what the search cost; a score is a forward pass, a third.

        Args:
            values: see `Scores.candidates`.
        """
        candidates = self.scores.candidates(values)
        best = candidates[0].derived
        figures = self.scores.figures(best)
        scores = {
            **figures,
            "weight_passes": self.weights.passes,
            "path_passes": self.weights.passes + figures["scored_images"] / 3,
            "skipped_steps": self.weights.guard.skipped,
        }
        every_block = range(len(self.task.space.blocks))
        weights = weights_of(self.net, best.picks, every_block, None)
        return Found(best, None, weights, scores, candidates)

    def state(self) -> State:
        """All that changes, as a checkpoint can hold it. Raises DivergedError."""
        self.weights.guard.settle()
        return state_of(self)

    def load(self, state: State) -> None:
        """Take over what `state` gave. Raises ValueError if it can't be this search's."""
        with fitting("the saved state doesn't fit this search"):
            restore(self, state)


def _pick(values: Sequence[int], generator: torch.Generator) -> int:
    return values[int(torch.randint(len(values), (), generator=generator))]


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
