"""The plan of a search that was given `minutes`: measured, told, written down, taken up again."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from tfnas.app.command_line import override
from tfnas.app.schemas import FinalsConfig, SearchConfig
from tfnas.app.several import FIRST
from tfnas.data.images import Dataset
from tfnas.derive.hand_made import RULES
from tfnas.pipeline.planner import (
    CHANNEL_FACTORS,
    LEAST_LAST_PX,
    FinalsAsked,
    FinalsPlan,
    Measure,
    Proxy,
    SearchAsked,
    SearchCosts,
    SearchPlan,
    divide,
    fewest_images,
)
from tfnas.pipeline.step_times import probe_seconds, search_costs, training_costs
from tfnas.process.cores import OtherWork
from tfnas.process.progress import duration
from tfnas.runs.folder import RunFolder
from tfnas.runs.plan import Plan, Value
from tfnas.space.search_space import SearchSpace
from tfnas.space.size import scaled, sides
from tfnas.strategies.contract import Budget, Strategy, Task

log = logging.getLogger(__name__)

EXPORT_S = 5.0  # of deriving, exporting and checking, about
DISTURBED = 0.2  # share of the cores that others took, from which on it is said
MUCH_LEFT = 0.15  # fraction of the time; that so much isn't used is said


@dataclass(frozen=True)
class Ground:
    """What a plan is made for.

    Attributes:
        task: the search; what is planned of its budget doesn't count.
        given: dotted keys whose values are kept.
        whole: the images, where finals may take more than the search.
        fixed: seconds of what else there is, by stage.
        threads: of the process.
    """

    task: Task
    strategy: Strategy
    given: Collection[str]
    fixed: Mapping[str, float]
    images: int
    finals: FinalsConfig | None
    whole: Dataset
    workers: int
    threads: int

    @property
    def knobs(self) -> tuple[str, ...]:
        """The strategy's, whose product is the number of subnets that it scores."""
        knobs: tuple[str, ...] = getattr(type(self.strategy), "SCORED", ())
        return knobs

    @property
    def each(self) -> int:
        """Subnets that a unit of the first knob scores; 0: it is none to be planned."""
        if not self.knobs or f"strategy.{self.knobs[0]}" in self.given:
            return 0
        return math.prod(getattr(self.strategy, knob) for knob in self.knobs[1:])


def given_keys(arguments: Sequence[str]) -> frozenset[str]:
    """Dotted keys of a command line's `key=value`; `budget=NAME` gives all values of a budget."""
    keys = {argument.partition("=")[0].lstrip("+~") for argument in arguments}
    if "budget" in keys:
        keys |= budget_keys()
    return frozenset(keys)


def with_own_minutes(cfg: SearchConfig, arguments: Sequence[str]) -> SearchConfig:
    """Without the default minutes where a whole budget is given instead, or nothing is trained.

    Raises:
        ValueError: if minutes or a budget are given where nothing is trained.
    """
    keys = {argument.partition("=")[0] for argument in arguments}
    if cfg.reuse is not None and f"reuse={FIRST}" not in arguments:
        if of_training := sorted(k for k in keys if k in ("minutes", "budget") or "budget." in k):
            raise ValueError(f"{of_training[0]}=: reuse= trains nothing; leave one of the two out")
        return replace(cfg, minutes=None)
    own = "budget" in keys and "minutes" not in keys
    return replace(cfg, minutes=None) if own or cfg.reuse is not None else cfg


def budget_keys() -> set[str]:
    return {f"budget.{name}" for name in Budget.__dataclass_fields__}


def open_budget(budget: Budget, given: Collection[str]) -> Budget:
    """A budget that can be loaded and checked while its values aren't chosen yet."""
    most = budget.max_train if "budget.max_train" in given else None
    warmup = budget.warmup_epochs if "budget.warmup_epochs" in given else 0
    epochs = budget.epochs if "budget.epochs" in given else max(budget.epochs, warmup)
    return replace(budget, max_train=most, warmup_epochs=warmup, epochs=epochs)


def read_plan(folder: RunFolder, cfg: SearchConfig, given: Collection[str]) -> Plan | None:
    """The plan that a search that goes on was begun with; None where none was made yet.

    Raises:
        ValueError: if it is damaged, or another value is given now.
    """
    if cfg.minutes is None or cfg.resume is None or not folder.plan.exists():
        return None
    plan = Plan.load(folder.plan)
    now = dict(_flat(cfg))
    for key in plan.values.keys() & set(given):
        if now.get(key) != plan.values[key]:
            raise ValueError(
                f"{override(key, now.get(key))}: the search in {folder.path} was planned with "
                f"{override(key, plan.values[key])}; start another one without resume="
            )
    return plan if plan.minutes == cfg.minutes else None  # which its checkpoint refuses


def _flat(cfg: SearchConfig) -> Iterator[tuple[str, Any]]:
    yield from ((f"budget.{k}", v) for k, v in vars(cfg.budget).items())
    yield from ((f"strategy.{k}", v) for k, v in cfg.strategy.items())
    yield from ((f"finals.{k}", v) for k, v in vars(cfg.finals).items())
    yield from ((f"finals.recipe.{k}", v) for k, v in vars(cfg.finals.recipe).items())


def applied(cfg: SearchConfig, plan: Plan) -> SearchConfig:
    """The options with what was planned, as if it had been given."""
    finals, values = cfg.finals, plan.values
    recipe = replace(finals.recipe, **of_group("finals.recipe", values))
    return replace(
        cfg,
        budget=replace(cfg.budget, **of_group("budget", values)),
        strategy={**cfg.strategy, **of_group("strategy", values)},
        finals=replace(finals, recipe=recipe, **of_group("finals", values)),
    )


def of_group(group: str, values: Mapping[str, Value]) -> dict[str, Any]:
    """The values of a group, by name."""
    parted = ((key.rpartition("."), value) for key, value in values.items())
    return {name: value for (of, _, name), value in parted if of == group}


def make_plan(minutes: float, ground: Ground) -> Plan:
    """Measure steps, and share the time out; the plan is told.

    Raises:
        ValueError: if the time is too short, or nothing can be measured.
    """
    log.info("measuring steps, to plan %g minutes", minutes)
    begun, others = time.monotonic(), OtherWork()
    probe_s = probe_seconds(minutes)
    measure = _measuring(ground, probe_s)
    search, finals, training = _search_asked(ground), _finals_asked(ground), None
    if ground.finals is not None:
        share = max(1, ground.threads // ground.finals.jobs)
        training = training_costs(
            ground.task, ground.whole, ground.finals.recipe, ground.workers, share, probe_s
        )
    rest_s = sum(ground.fixed.values())
    with suppress(ValueError):  # nothing is measured twice, but now it is known what measuring took
        divide(minutes, rest_s + time.monotonic() - begun, search, measure, finals, training)
    plan_s = time.monotonic() - begun
    found, then = divide(minutes, rest_s + plan_s, search, measure, finals, training)
    seconds = {"plan": plan_s, "search": found.seconds, **ground.fixed}
    if then is not None:
        seconds["finals"] = then.seconds
    values = {k: v for k, v in _values(ground, found, then) if k not in ground.given}
    plan = Plan(
        minutes,
        values,
        {stage: round(s, 1) for stage, s in seconds.items()},
        tuple(_lines(minutes, ground, values, found, then, sum(seconds.values()), others.share())),
    )
    for line in plan.lines:
        log.info("%s", line)
    return plan


def _measuring(ground: Ground, probe_s: float) -> Measure:
    """Measures once for each proxy, and again only where more time may be given to it."""
    known: dict[Proxy, tuple[float, SearchCosts | None]] = {}

    def measure(proxy: Proxy, most_s: float) -> SearchCosts | None:
        if proxy in known and (known[proxy][1] is not None or most_s <= known[proxy][0]):
            return known[proxy][1]
        costs = search_costs(ground.strategy, ground.task, proxy, most_s, probe_s)
        known[proxy] = most_s, costs
        return costs

    return measure


def proxy_sizes(space: SearchSpace) -> list[int]:
    """Shorter sides that a supernet's images may have: the space's, and halves of it.

    Fewer pixels come before fewer channels: with a quarter of the channels a supernet makes too
    much of late blocks and too little of early ones, see benchmarks/LOG.md, 2026-11-29.
    """
    own, last = min(sides(space.resolution)), min(sides(space.head[0].size))
    sizes = [own]
    while True:
        half = math.ceil(sizes[-1] / 2)
        if math.ceil(half * last / own) < LEAST_LAST_PX:
            return sizes
        sizes.append(half)


def _search_asked(ground: Ground) -> SearchAsked:
    budget, given, space = ground.task.budget, ground.given, ground.task.space
    sizes = proxy_sizes(space)
    if "budget.resolution" in given:
        sizes = [budget.resolution or sizes[0]]
    factors: Sequence[float] = CHANNEL_FACTORS
    if "budget.channel_factor" in given:
        factors = [budget.channel_factor]
    elif ground.finals is not None and ground.finals.from_supernet:
        factors = [1.0]
    proxies = [Proxy(size, factors[0]) for size in sizes]
    proxies += [Proxy(sizes[-1], factor) for factor in factors[1:]]
    held_out = budget.arch_fraction
    least = fewest_images(
        ground.images, space.classes, budget.batch_size, min(held_out, 1 - held_out)
    )
    return SearchAsked(
        images=ground.images,
        least_images=ground.images if "budget.max_train" in given else least,
        held_out=held_out,
        batch=budget.batch_size,
        proxies=tuple(proxies),
        epochs=budget.epochs if "budget.epochs" in given else None,
        warmup=budget.warmup_epochs if "budget.warmup_epochs" in given else None,
        each=ground.each,
    )


def _finals_asked(ground: Ground) -> FinalsAsked | None:
    finals, given = ground.finals, ground.given
    if finals is None:
        return None
    recipe, whole = finals.recipe, len(ground.whole.train)
    least = fewest_images(whole, ground.task.space.classes, recipe.batch_size, 1)
    return FinalsAsked(
        images=whole,
        most=recipe.max_train,
        least_images=None if "finals.recipe.max_train" in given else least,
        tests=len(ground.whole.test),
        batch=recipe.batch_size,
        searched=finals.searched if "finals.searched" in given else None,
        random=finals.random if "finals.random" in given else None,
        made=len(RULES) if finals.handmade else 0,
        epochs=recipe.epochs if "finals.recipe.epochs" in given else None,
        least=math.floor(recipe.warmup_epochs) + 1,
        keep=finals.keep,
        first_cut=finals.first_cut,
        jobs=finals.jobs,
    )


def _values(
    ground: Ground, found: SearchPlan, then: FinalsPlan | None
) -> Iterator[tuple[str, Value]]:
    """What was chosen, and what was given."""
    yield "budget.epochs", found.epochs
    yield "budget.warmup_epochs", found.warmup
    yield "budget.resolution", found.proxy.resolution
    yield "budget.channel_factor", found.proxy.channel_factor
    yield "budget.max_train", found.images if found.images < ground.images else None
    if ground.each:
        yield f"strategy.{ground.knobs[0]}", found.scores // ground.each
    if then is not None:
        yield "finals.searched", then.searched
        yield "finals.random", then.random
        yield "finals.recipe.epochs", then.epochs
        if then.fewer:
            yield "finals.recipe.max_train", then.images


def _lines(
    minutes: float,
    ground: Ground,
    values: Mapping[str, Value],
    found: SearchPlan,
    then: FinalsPlan | None,
    total_s: float,
    others: float | None,
) -> Iterator[str]:
    """The plan, as it is told.

    Args:
        others: see `OtherWork.share`, while steps were measured.
    """
    factor = found.proxy.channel_factor
    size = scaled(ground.task.space.resolution, found.proxy.resolution)
    yield f"plan for {minutes:g} minutes:"
    yield (
        f"  supernet: {found.epochs} epochs of {found.steps} steps ({found.images:,} images) at "
        f"{size} px with {'all' if factor == 1 else f'{factor:g} of the'} "
        f"channels, {1000 * found.costs.step:.4g} ms a step: {duration(found.train_s)}"
    )
    if found.scores:
        each = f"{1000 * found.costs.score:.4g} ms each"
        yield f"  scores: {found.scores} nets, {each}: {duration(found.scores_s)}"
    if then is not None:
        yield (
            f"  finals: {then.nets} nets, {then.searched} of them the search's, up to "
            f"{then.epochs} epochs on {then.images:,} images: {duration(then.seconds)}"
        )
    at_most = sum(s for stage, s in ground.fixed.items() if stage != "export")
    if at_most:
        yield f"  measuring the net on the device: at most {duration(at_most)}"
    yield f"  in all: {duration(total_s)}"
    if total_s < (1 - MUCH_LEFT) * 60 * minutes:
        yield "  more time would go into epochs and nets that aren't worth it"
    if others is not None and others > DISTURBED:
        yield (
            f"  warning: other work took {100 * others:.0f} % of the cores while steps were "
            "measured; on a quiet machine more is trained in this time, for a better net"
        )
    chosen = {"minutes": None, **values}
    yield f"  by hand: {' '.join(override(key, value) for key, value in chosen.items())}"
