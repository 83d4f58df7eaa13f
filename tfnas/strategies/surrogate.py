"""A surrogate with the exact solver: an additive value of nets, learned from few scores.

A supernet is trained on sampled paths, by default on random nets that meet the target: what is
scored then is what was trained. Random nets that meet it are scored, and a sum is fitted to the
scores. The net taken is the exact optimum of that sum. Near in kind: LANA (arXiv 2107.10624), which
values layers one by one and solves an integer program. `tfnas.strategies.parts.surrogate` has the
model and its sources.

Which nets are scored is left to chance, as a supernet is wrong about single nets in its own way:
nets that were looked for by their scores are those that it is most wrong about.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from operator import contains
from typing import Annotated, ClassVar

import numpy as np
from torch import Tensor

from tfnas.nets.supernet import SlicedSupernet, Supernet
from tfnas.nets.weights import take_supernet
from tfnas.process.checks import ABOVE_0, check_fields, one_of
from tfnas.process.errors import DivergedError
from tfnas.space.ops import OpSpec
from tfnas.space.search_space import SearchSpace
from tfnas.space.subnet import Subnet
from tfnas.strategies.contract import Candidate, Evaluation, Found, Progress, State, Task
from tfnas.strategies.parts.evaluate import refuse_greedy
from tfnas.strategies.parts.items import Items
from tfnas.strategies.parts.scoring import VALUES
from tfnas.strategies.parts.surrogate import Features, Floats, Ints, Search, Settings
from tfnas.strategies.parts.targeted import PATHS, TargetedSearch
from tfnas.strategies.parts.training import WeightKnobs, weights_of

REFERENCE_NETS = 100  # random ones at the target, which tell how much each feature varies
ROUNDED = 1.25  # widths at a coarse quantum may lie so far beyond the bounds
APART = 0.02  # see `Settings`: nets that differ in a few channels alone are not worth two scores


@dataclass(frozen=True)
class Surrogate(WeightKnobs):
    """Knobs; values and sources stand in conf/strategy/surrogate.yaml."""

    SCORED: ClassVar[tuple[str, ...]] = ("evaluations",)

    paths: Annotated[str, one_of(PATHS)]  # that the supernet trains on
    sliced: bool  # ops of a block share weights, see `SlicedSupernet`
    evaluations: Annotated[int, ABOVE_0]  # subnets that are scored
    optima: Annotated[int, ABOVE_0]  # of them: the best by the others' scores
    score: Annotated[str, one_of(VALUES)]
    score_images: Annotated[int, ABOVE_0]  # held-out images for each subnet

    def check(self, derive: str) -> None:
        refuse_greedy(derive)
        check_fields("strategy", self)
        if self.optima >= self.evaluations:
            raise ValueError(
                f"strategy.optima={self.optima}: expected fewer than strategy.evaluations="
                f"{self.evaluations}, as the sum is fitted to the others"
            )

    def run(self, task: Task, state: State | None = None) -> Iterator[Progress | Found]:
        """See `tfnas.strategies.contract.Strategy`."""
        search = SurrogateSearch(task, self)
        if state is not None:
            search.load(state)
        yield from search.train()
        while search.drawn < self.evaluations:
            if not search.pending:
                search.ask(self.evaluations - self.optima)
            search.score_next()
            yield search.progress(search.drawn)
        yield search.ended()


class Fitted:
    """A sum of values that is fitted to nets that were scored, and its optima at the target."""

    def __init__(
        self, features: Features, items: Items, nets: Ints, values: Floats, noise: float,
        rng: np.random.Generator,
    ):  # fmt: skip
        self.items, self.features = items, features
        self.model = Search(self.features, items.optimum, Settings(apart=APART, noise=noise), rng)
        self.model.tell(nets, values)
        self.weights = self.model.posterior().mean()
        self.level = float(values.mean() - (self.features.of_nets(nets) @ self.weights).mean())

    def best(self) -> Ints:
        """The exact optimum."""
        return self.items.optimum(self.features.values(self.weights), self.model.nets)

    def optima(self, count: int) -> Ints:
        """Give the exact optimum, then those of values drawn from what the scores leave open."""
        return np.concatenate([self.best()[None], self.model.ask(count - 1)])

    def estimates(self, nets: Ints) -> list[float]:
        """What the sum says of nets, in the score's unit."""
        return [float(v) for v in self.features.of_nets(nets) @ self.weights + self.level]

    def estimate(self, subnet: Subnet) -> float:
        return self.estimates(self.items.of_subnet(subnet)[None])[0]


def features_of(task: Task, items: Items) -> Features:
    """They depend on the task alone."""
    rng = np.random.default_rng(task.seed)
    return Features.of_genes(items.genes(), items.random(REFERENCE_NETS, rng), Settings())


def refitted(task: Task, evaluations: Sequence[Evaluation]) -> Fitted:
    """Fit the sum to scores that there are already, for what is asked of the net now."""
    items, rng = Items(task.space, task.constraints), np.random.default_rng(task.seed)
    nets = np.stack([items.like(evaluation) for evaluation in evaluations])
    values = np.array([evaluation.value for evaluation in evaluations])
    noise = float(np.sqrt(np.mean([evaluation.error**2 for evaluation in evaluations])))
    return Fitted(features_of(task, items), items, nets, values, noise, rng)


class SurrogateSearch(TargetedSearch):
    """What is scored, and what is to be scored next.

    Attributes:
        pending: items of nets that were asked for and not scored yet.
        generation: how many random nets were scored, once all are: what the sum is fitted to.
    """

    STATE = (*TargetedSearch.STATE, "pending")

    def __init__(self, task: Task, knobs: Surrogate):
        self.knobs = knobs
        super().__init__(
            task, knobs, knobs.score_images, knobs.evaluations, by=knobs.score, paths=knobs.paths,
            kind=SlicedSupernet if knobs.sliced else Supernet,
        )  # fmt: skip
        self.pending: list[list[int]] = []

    @cached_property
    def features(self) -> Features:
        """See `features_of`; both fits of a search have the same."""
        return features_of(self.task, self.items)

    def ask(self, random: int) -> None:
        """Say what to score next: so many random nets at first, then the best by their scores."""
        if self.drawn < random:
            nets = self.items.random(random - self.drawn, self.rng)
        else:
            self.generation = len(self.scored)
            nets = self._fitted().optima(self.knobs.evaluations - random)
        self.pending = nets.tolist()
        self.task.ranks.check_same({"pending": self.pending})

    def score_next(self) -> None:
        """Score the first of what is pending."""
        self.add(self.items.derived(self.pending[0]))
        self.pending = self.pending[1:]

    def ended(self) -> Found:
        """The net of the highest sum, and the scores that it is fitted to."""
        fitted = self._fitted()
        found = self.found(fitted.estimates(self._scored_items()))
        rows = list(self.scored.values())[: self.generation]
        by = self.knobs.score
        evaluations = tuple(
            Evaluation(net.depths, net.picks, net.widths, score.value(by), score.error(by))
            for score, net in rows
        )
        return replace(
            found,
            estimate=fitted.estimate,
            evaluations=evaluations,
            supernet=None if found.weights is None else self.net.state_dict,
        )

    def _scored_items(self) -> Ints:
        return np.stack([self.items.of(derived) for _, derived in self.scored.values()])

    def _fitted(self) -> Fitted:
        """Fit the sum to the scores of the random nets."""
        values = np.array(self.scores.values())[: self.generation]
        if not np.isfinite(values).all():
            raise DivergedError(
                "the supernet gives subnets no finite loss; lower strategy.weight_lr"
            )
        nets, noise = self._scored_items()[: self.generation], self.scores.noise(self.generation)
        return Fitted(self.features, self.items, nets, values, noise, self.rng)


@dataclass(frozen=True)
class Reused:
    """The search of another target, or on another table, by scores that there are already."""

    space: str  # `SearchSpace.skeleton` of where the scores are from
    evaluations: tuple[Evaluation, ...]
    optima: int
    supernet: Mapping[str, Tensor] | None = None  # what was scored by, where it was kept
    key: str | None = None  # `SearchSpace.key` there, with every width; None: of before it was kept
    fixed: tuple[OpSpec, ...] | None = None  # stem and head there; None: likewise

    def check(self, derive: str) -> None:
        refuse_greedy(derive)

    def check_nets(self, space: SearchSpace) -> None:
        """Make sure that the nets are of this space, in which every width is allowed (quantum 1).

        Raises:
            ValueError: naming the first one that isn't.
        """
        if self.space != space.skeleton:
            raise ValueError(
                f"its nets are of {self.space}, this space is {space.skeleton}; give the options "
                "of space that it was searched with"
            )
        self._check_layers(space)
        depths = [stage.depths for stage in space.stages]
        for number, net in enumerate(self.evaluations):
            sound = len(net.depths) == len(depths) and all(map(contains, depths, net.depths))
            sound = sound and len(net.picks) == len(net.widths) == len(space.blocks)
            rows = zip(space.blocks, net.picks, net.widths, strict=True) if sound else ()
            for block, pick, width in rows:
                known = block[pick].widths if pick < len(block) else (1,)
                sound = sound and pick < len(block)
                sound = sound and min(known) / ROUNDED <= width <= max(known) * ROUNDED
            if not sound:
                raise ValueError(f"evaluation {number} is no net of {self.space}")

    def _check_layers(self, space: SearchSpace) -> None:
        """Raises ValueError where what the skeleton doesn't tell is another one."""
        channels = 3 if self.fixed is None else self.fixed[0].c_in  # of before there were others
        if channels != space.in_channels:
            raise ValueError(
                f"its nets take images of {channels} channels, space.in_channels is "
                f"{space.in_channels} now; give the space.in_channels that it was searched with"
            )
        if self.fixed not in (None, space.fixed):
            raise ValueError(
                f"its nets have another stem or head than {space.name} now; give the options of "
                "space that it was searched with"
            )
        if self.key not in (None, space.key):
            raise ValueError(
                f"its nets are of {space.name} with other widths (ratio, min_ratio, max_ratio) "
                "than now; give the options of space that it was searched with"
            )

    def run(self, task: Task, state: State | None = None) -> Iterator[Progress | Found]:
        """See `tfnas.strategies.contract.Strategy`; there are no steps."""
        fitted = refitted(task, self.evaluations)
        optima = fitted.optima(self.optima)
        pairs = zip(optima, fitted.estimates(optima), strict=True)
        found = [Candidate(fitted.items.derived(net), estimate) for net, estimate in pairs]
        best, *others = found
        others.sort(key=lambda candidate: -candidate.score)
        scores = {"path_passes": 0.0, "reused_scores": float(len(self.evaluations))}
        weights = supernet = None
        if self.supernet is not None:
            for kind in (SlicedSupernet, Supernet):  # runs of before have the latter
                if take_supernet(net := kind(task.space), self.supernet):
                    every_block = range(len(task.space.blocks))
                    weights = weights_of(net, best.derived.picks, every_block, None)
                    supernet = net.state_dict
                    break
        yield Found(
            best.derived, None, weights, scores, (best, *others), self.evaluations,
            fitted.estimate, supernet,
        )  # fmt: skip
