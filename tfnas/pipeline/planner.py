"""From measured seconds to what a search does in the time it is given: pure arithmetic.

The supernet gets the dearest proxy on which it still sees its images often enough, then as many
epochs as fit, and scores what is left. Finals take the rest: as many nets as can be trained well.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeVar

from tfnas.strategies.parts.halving import rungs

SEARCH_SHARE = 0.6  # of the time, where there are finals
OVER = 0.03  # fraction of its time that a stage may be planned over: epochs are whole ones
LEAST_EPOCHS = 6  # of the supernet over its images
MOST_EPOCHS = 40  # more weren't seen to help
WARMUP_SHARE = 1 / 8  # of the epochs, as in budget=standard
LEAST_IMAGES, LEAST_OF_CLASS = 2000, 10
IMAGES_STEP = 100
SCORES_SHARE = 0.15  # of the search's time that scores are sure to get
LEAST_SCORES, MOST_SCORES = 100, 1000
MOST_FINAL_EPOCHS = 100
LEAST_LAST_PX = 2  # of the last feature map, at a proxy's resolution
CHANNEL_FACTORS = (1.0, 0.5, 0.25)


@dataclass(frozen=True)
class Entry:
    """How many nets finals have, and the epochs of a whole training that are worth it."""

    searched: int
    random: int
    epochs: int


ENTRIES = (Entry(8, 6, 20), Entry(6, 4, 16), Entry(4, 3, 12), Entry(2, 2, 8))


@dataclass(frozen=True)
class Proxy:
    """What the supernet is trained as: the dearest one is the space itself."""

    resolution: int  # pixels of the shorter side
    channel_factor: float


@dataclass(frozen=True)
class SearchCosts:
    """Seconds of a search on one proxy, as measured.

    Attributes:
        once: what is done before the first step, and after the last one before the first score.
        warm_step, step: of a weight step in the warm-up; of one later, architecture steps included.
        epoch_end: of testing and saving.
        score: of a subnet.
        scores: how many subnets the strategy scores by its own knobs.
    """

    once: float
    warm_step: float
    step: float
    epoch_end: float
    score: float
    scores: int


@dataclass(frozen=True)
class TrainingCosts:
    """Seconds of training a net at the target, as measured: of a batch, and of testing on one."""

    step: float
    test: float


Measure = Callable[[Proxy, float], SearchCosts | None]
"""Costs on a proxy; None where a step clearly takes longer than the seconds that are given."""


@dataclass(frozen=True)
class SearchAsked:
    """What the supernet may be; None is to be planned.

    Attributes:
        images, least_images: training images that there are, and the fewest that may be taken.
        held_out: fraction of the images.
        proxies: that may be taken, the dearest first.
        each: subnets that one unit of the planned knob scores; 0: the strategy's own number stays.
    """

    images: int
    least_images: int
    held_out: float
    batch: int
    proxies: tuple[Proxy, ...]
    epochs: int | None
    warmup: int | None
    each: int

    def steps(self, images: int) -> int:
        """Of an epoch."""
        return max(1, int(images * (1 - self.held_out)) // self.batch)

    @property
    def least_epochs(self) -> int:
        return self.epochs or max(LEAST_EPOCHS, self.warmup or 0)

    def warmup_of(self, epochs: int) -> int:
        chosen = max(1, round(WARMUP_SHARE * epochs)) if self.warmup is None else self.warmup
        return min(chosen, epochs)


@dataclass(frozen=True)
class SearchPlan:
    """What the supernet is, and the seconds until all nets are scored.

    Attributes:
        scores: subnets.
    """

    proxy: Proxy
    images: int
    epochs: int
    warmup: int
    steps: int
    scores: int
    costs: SearchCosts
    train_s: float

    @property
    def scores_s(self) -> float:
        return self.scores * self.costs.score

    @property
    def seconds(self) -> float:
        return self.train_s + self.scores_s


@dataclass(frozen=True)
class FinalsAsked:
    """What finals may be; None is to be planned.

    Attributes:
        images: training images that there are, those to judge on included.
        most, least_images: of them that are trained on; None: all.
        tests: images that the winner is tested on.
        made: hand-made nets.
        least: epochs, since the recipe's warm-up is shorter.
        keep, first_cut: see `tfnas.strategies.parts.halving.rungs`.
        jobs: trainings side by side.
    """

    images: int
    most: int | None
    least_images: int | None
    tests: int
    batch: int
    searched: int | None
    random: int | None
    made: int
    epochs: int | None
    least: int
    keep: float
    first_cut: float
    jobs: int

    @property
    def entries(self) -> tuple[Entry, ...]:
        """What may take part, the most first."""
        return tuple(
            Entry(
                e.searched if self.searched is None else self.searched,
                e.random if self.random is None else self.random,
                self.epochs or max(e.epochs, self.least),
            )
            for e in ENTRIES
        )


@dataclass(frozen=True)
class FinalsPlan:
    """Who takes part in finals, for how long.

    Attributes:
        fewer: not all images that could be are trained on.
    """

    searched: int
    random: int
    nets: int
    epochs: int
    images: int
    fewer: bool
    seconds: float


def fewest_images(images: int, classes: int, batch: int, smaller_part: float) -> int:
    """Of so many, what is still worth a training, and gives either part a batch."""
    least = max(LEAST_IMAGES, LEAST_OF_CLASS * classes, math.ceil(1.1 * batch / smaller_part))
    return min(images, least)


AnyPlan = TypeVar("AnyPlan", SearchPlan, FinalsPlan)


def best_search(asked: SearchAsked, measure: Measure, room_s: float) -> SearchPlan:
    """The dearest search that fits; where none does, the cheapest, which takes longer."""
    most_s = room_s / (asked.least_epochs * asked.steps(asked.images))
    for proxy in asked.proxies[:-1]:
        costs = measure(proxy, most_s)
        if costs is not None:
            found = _search(asked, proxy, costs, asked.images, room_s)
            if found.seconds <= room_s * (1 + OVER):
                return found
    proxy = asked.proxies[-1]
    costs = measure(proxy, math.inf)
    assert costs is not None

    def with_images(images: int) -> SearchPlan:
        return _search(asked, proxy, costs, images, room_s)

    return _most_images(with_images, asked.least_images, asked.images, room_s)


def _most_images(
    with_images: Callable[[int], AnyPlan], least: int, most: int, room_s: float
) -> AnyPlan:
    """The plan with the most images that fits; where none does, the one with the fewest."""

    def is_over(images: int) -> bool:
        return with_images(images).seconds > room_s * (1 + OVER)

    if least >= most or not is_over(most):
        return with_images(most)
    counts = range(least, most, IMAGES_STEP)
    over = bisect_left(counts, True, key=is_over)
    return with_images(counts[max(over - 1, 0)])


def _search(
    asked: SearchAsked, proxy: Proxy, costs: SearchCosts, images: int, room_s: float
) -> SearchPlan:
    """On these images: the most epochs that fit, the fewest where none do; then scores."""
    steps = asked.steps(images)
    scores = costs.scores
    if asked.each:
        scores = _scores(asked, costs, SCORES_SHARE * room_s)

    def with_epochs(epochs: int) -> SearchPlan:
        warmup = asked.warmup_of(epochs)
        each = warmup * costs.warm_step + (epochs - warmup) * costs.step
        train_s = costs.once + steps * each + epochs * costs.epoch_end
        return SearchPlan(proxy, images, epochs, warmup, steps, scores, costs, train_s)

    plan = with_epochs(asked.least_epochs)
    if asked.epochs is None:
        for epochs in range(MOST_EPOCHS, asked.least_epochs, -1):
            longer = with_epochs(epochs)
            if longer.seconds <= room_s * (1 + OVER):
                plan = longer
                break
    if asked.each:
        plan = replace(plan, scores=_scores(asked, costs, room_s - plan.train_s))
    return plan


def _scores(asked: SearchAsked, costs: SearchCosts, seconds: float) -> int:
    """As many subnets as can be scored then, in whole units."""
    wanted = min(max(LEAST_SCORES, int(seconds / max(costs.score, 1e-9))), MOST_SCORES)
    return max(1, wanted // asked.each) * asked.each


def best_finals(
    asked: FinalsAsked, search: SearchAsked, images: int, costs: TrainingCosts, room_s: float
) -> FinalsPlan:
    """The most nets that fit, each with enough epochs; where none do, the cheapest finals.

    Args:
        images: that the search takes.
    """
    judged = int(images * search.held_out)
    total = asked.images
    if asked.most is not None:
        total = min(total, max(images, asked.most))
    most = min(total - judged, asked.most or total)
    for entry in asked.entries:
        found = _finals(asked, entry, most, most, judged, costs, room_s)
        if found.seconds <= room_s * (1 + OVER):
            return found

    def with_images(images: int) -> FinalsPlan:
        return _finals(asked, asked.entries[-1], images, most, judged, costs, room_s)

    least = most if asked.least_images is None else asked.least_images
    return _most_images(with_images, least, most, room_s)


def _finals(
    asked: FinalsAsked,
    entry: Entry,
    images: int,
    most: int,
    judged: int,
    costs: TrainingCosts,
    room_s: float,
) -> FinalsPlan:
    """With these nets on so many images: the most epochs that fit, the fewest where none do."""
    nets = entry.searched + entry.random + asked.made
    epoch_s = max(1, images // asked.batch) * costs.step
    epoch_s += math.ceil(judged / asked.batch) * costs.test
    test_s = math.ceil(asked.tests / asked.batch) * costs.test

    def with_epochs(epochs: int) -> FinalsPlan:
        before, done = 0, 0
        for rung in rungs(nets, epochs, asked.keep, asked.first_cut):
            done += math.ceil(rung.nets / asked.jobs) * (rung.epochs - before)
            before = rung.epochs
        seconds = done * epoch_s + test_s
        return FinalsPlan(
            entry.searched, entry.random, nets, epochs, images, images < most, seconds
        )  # fmt: skip

    if asked.epochs is None:
        for epochs in range(max(MOST_FINAL_EPOCHS, entry.epochs), entry.epochs, -1):
            longer = with_epochs(epochs)
            if longer.seconds <= room_s * (1 + OVER):
                return longer
    return with_epochs(entry.epochs)


def divide(
    minutes: float,
    fixed_s: float,
    search: SearchAsked,
    measure: Measure,
    finals: FinalsAsked | None,
    training: TrainingCosts | None,
) -> tuple[SearchPlan, FinalsPlan | None]:
    """Share the time out.

    Args:
        fixed_s: what else takes time.
        training: where there are finals.

    Raises:
        ValueError: if not even the cheapest plan fits; says how many minutes it takes.
    """
    room_s = 60 * minutes - fixed_s
    if finals is None or training is None:
        plan = best_search(search, measure, room_s)
        if plan.seconds > room_s * (1 + OVER):
            raise ValueError(too_short(minutes, fixed_s, cheapest(search, measure), None))
        return plan, None

    def held(after: SearchPlan, seconds: float) -> FinalsPlan:
        assert finals is not None
        assert training is not None
        return best_finals(finals, search, after.images, training, seconds)

    plan = best_search(search, measure, SEARCH_SHARE * room_s)
    then = held(plan, room_s - plan.seconds)
    if plan.seconds + then.seconds > room_s * (1 + OVER):  # finals need more than the rest
        plan = best_search(search, measure, room_s - held(plan, 0).seconds)
        then = held(plan, room_s - plan.seconds)
    if plan.seconds + then.seconds > room_s * (1 + OVER):
        least = cheapest(search, measure)
        raise ValueError(too_short(minutes, fixed_s, least, held(least, 0)))
    return plan, then


def cheapest(search: SearchAsked, measure: Measure) -> SearchPlan:
    """The search that takes the least time."""
    return best_search(replace(search, proxies=search.proxies[-1:]), measure, 0.0)


def too_short(minutes: float, fixed_s: float, search: SearchPlan, finals: FinalsPlan | None) -> str:
    """What is wrong with so few minutes, and how many would do."""
    needed = (fixed_s + search.seconds + (0 if finals is None else finals.seconds)) / 60
    parts = [f"search {search.seconds / 60:.2g}"]
    parts += [] if finals is None else [f"finals {finals.seconds / 60:.2g}"]
    parts += [f"measuring, export and the like {fixed_s / 60:.2g}"]
    return (
        f"minutes={minutes:g}: the smallest plan takes {needed:.3g} minutes on this machine "
        f"({', '.join(parts)}); give minutes={enough(needed):g} or more"
    )


def enough(minutes: float) -> float:
    """A round number somewhat above: the next measurement differs a little."""
    raised = 1.1 * minutes
    digits = 1 - math.floor(math.log10(raised))
    return math.ceil(raised * 10**digits) / 10**digits
