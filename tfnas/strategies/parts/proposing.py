"""Methods that only say which net to score next: what they are given, and their searches.

A method is a generator: it yields nets, is sent their scores (higher is better), and goes on. All
that it knows follows from the seed and the scores, so a search goes on by replaying these.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from tfnas.derive.uniform import ABSENT
from tfnas.nets.supernet import SlicedSupernet, Supernet
from tfnas.process.checks import ABOVE_0, check_fields, one_of
from tfnas.process.errors import DivergedError
from tfnas.strategies.contract import Found, Progress, State, Task
from tfnas.strategies.parts.evaluate import refuse_greedy
from tfnas.strategies.parts.scoring import VALUES
from tfnas.strategies.parts.targeted import PATHS, TargetedSearch
from tfnas.strategies.parts.training import WeightKnobs

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Proposals = Generator[Ints, Floats, None]
KEPT = 5.0  # value of a net's own items above all others, where what is nearest to it is looked for


class Ground(Protocol):
    """Nets that meet the target, as lines of item numbers (positions,), `ABSENT` where cut off."""

    @property
    def counts(self) -> Sequence[int]:
        """Items of each position."""

    @property
    def stages(self) -> Sequence[tuple[int, int]]:
        """Positions of each stage, and how many of them it keeps at least."""

    def random(self, count: int, rng: np.random.Generator) -> Ints:
        """Draw nets uniformly, (count, positions)."""

    def optimum(self, values: Sequence[Floats], asked: Ints) -> Ints:
        """Give the net of the highest sum of values (items,).

        Args:
            asked: nets that it may leave out, (n, positions).
        """


def nothing_asked(ground: Ground) -> Ints:
    return np.zeros((0, len(ground.counts)), np.int64)


def nearest(ground: Ground, net: Ints, rng: np.random.Generator, asked: Ints) -> Ints:
    """The net that shares most items with the one that is wanted; which others it has, is chance.

    Args:
        net: need not meet the target.
    """
    values = [rng.uniform(0, 1, count) for count in ground.counts]
    for position, item in enumerate(net):
        if item == ABSENT:
            values[position] -= KEPT
        else:
            values[position][item] += KEPT
    return ground.optimum(values, asked)


def mutated(ground: Ground, net: Ints, rng: np.random.Generator) -> Ints:
    """Change one gene: the item of a position that is kept, or a stage's depth, all as likely."""
    child, first = net.copy(), 0
    depths = [
        (start, least, length)
        for start, (length, least) in zip(_starts(ground), ground.stages, strict=True)
        if least < length
    ]
    kept = [p for p, item in enumerate(net) if item != ABSENT and ground.counts[p] > 1]
    pick = int(rng.integers(len(kept) + len(depths)))
    if pick < len(kept):
        position = kept[pick]
        others = [i for i in range(ground.counts[position]) if i != net[position]]
        child[position] = others[int(rng.integers(len(others)))]
        return child
    first, least, length = depths[pick - len(kept)]
    now = int((net[first : first + length] != ABSENT).sum())
    choices = [depth for depth in range(least, length + 1) if depth != now]
    depth = choices[int(rng.integers(len(choices)))]
    for place in range(length):
        position = first + place
        if place >= depth:
            child[position] = ABSENT
        elif child[position] == ABSENT:
            child[position] = int(rng.integers(ground.counts[position]))
    return child


def _starts(ground: Ground) -> list[int]:
    lengths = [length for length, _ in ground.stages]
    return [int(start) for start in np.cumsum([0, *lengths[:-1]])]


def stage_of(ground: Ground) -> list[int]:
    """The stage of each position."""
    return [stage for stage, (length, _) in enumerate(ground.stages) for _ in range(length)]


@dataclass(frozen=True)
class Proposer(WeightKnobs, ABC):
    """Knobs that all such strategies have; a subclass has its own and `propose`."""

    SCORED: ClassVar[tuple[str, ...]] = ("evaluations",)

    paths: Annotated[str, one_of(PATHS)]  # that the supernet trains on
    sliced: bool  # ops of a block share weights, see `SlicedSupernet`
    evaluations: Annotated[int, ABOVE_0]  # nets that are scored, those that come again included
    score: Annotated[str, one_of(VALUES)]
    score_images: Annotated[int, ABOVE_0]  # held-out images for each

    @abstractmethod
    def propose(self, ground: Ground, rng: np.random.Generator, count: int) -> Proposals:
        """Yield nets (n, positions) and take their scores (n,), for ever.

        Args:
            count: of nets that will be scored.
        """

    def check(self, derive: str) -> None:
        refuse_greedy(derive)
        check_fields("strategy", self)

    def run(self, task: Task, state: State | None = None) -> Iterator[Progress | Found]:
        """See `tfnas.strategies.contract.Strategy`."""
        search = TargetedSearch(
            task, self, self.score_images, self.evaluations, by=self.score, paths=self.paths,
            kind=SlicedSupernet if self.sliced else Supernet,
        )  # fmt: skip
        if state is not None:
            search.load(state)
        yield from search.train()
        rng = np.random.default_rng(task.seed)
        proposals = self.propose(search.items, rng, self.evaluations)
        nets, done, search.drawn = next(proposals), 0, 0
        while done < self.evaluations:
            task.ranks.check_same({"proposals": nets.tolist()})
            values = []
            for net in nets[: self.evaluations - done]:
                derived = search.items.derived(net)
                known = derived.subnet in search.scored
                search.add(derived)
                values.append(search.scored[derived.subnet][0].value(self.score))
                if not np.isfinite(values[-1]):
                    raise DivergedError(
                        "the supernet gives subnets no finite loss; lower strategy.weight_lr"
                    )
                done += 1
                if not known:  # what was scored before a stop is replayed
                    yield search.progress(done)
            if done < self.evaluations:
                nets = proposals.send(np.array(values))
        yield search.found()
