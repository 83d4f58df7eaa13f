"""What minutes become is arithmetic on measured seconds, without surprises."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import pairwise

import pytest

from tests.support.spaces import load_space
from tfnas.pipeline.planned import given_keys, proxy_sizes
from tfnas.pipeline.planner import (
    LEAST_EPOCHS,
    LEAST_IMAGES,
    LEAST_SCORES,
    MOST_EPOCHS,
    OVER,
    FinalsAsked,
    FinalsPlan,
    Proxy,
    SearchAsked,
    SearchCosts,
    SearchPlan,
    TrainingCosts,
    divide,
    enough,
    fewest_images,
)

SEARCH = SearchAsked(
    images=50_000, least_images=LEAST_IMAGES, held_out=0.2, batch=64,
    proxies=tuple(Proxy(64, factor) for factor in (1.0, 0.5, 0.25)),
    epochs=None, warmup=None, each=1,
)  # fmt: skip
FINALS = FinalsAsked(
    images=50_000, most=None, least_images=LEAST_IMAGES, tests=10_000, batch=64,
    searched=None, random=None, made=2, epochs=None, least=2, keep=0.5, first_cut=0.2, jobs=1,
)  # fmt: skip
TRAINING = TrainingCosts(step=0.05, test=0.012)
MINUTES = [20, 30, 45, 60, 90, 120, 180, 300, 600, 1200, 2400]
FIXED_S = 120.0


def measure(proxy: Proxy, most_s: float) -> SearchCosts | None:
    """A step takes as long as its channels and pixels are many."""
    step = 0.4 * proxy.channel_factor * (proxy.resolution / 64) ** 2
    if step > 1.5 * most_s:
        return None
    return SearchCosts(2.0, step / 2, step, 3.0, 0.3 * proxy.channel_factor, 0)


def plans(
    minutes: float, search: SearchAsked = SEARCH, finals: FinalsAsked | None = None
) -> tuple[SearchPlan, FinalsPlan | None]:
    return divide(minutes, FIXED_S, search, measure, finals, TRAINING)


@pytest.mark.parametrize("finals", [None, FINALS])
def test_more_minutes_never_give_less(finals: FinalsAsked | None) -> None:
    found = [plans(minutes, finals=finals)[0] for minutes in MINUTES]
    for fewer, more in pairwise(found):
        assert more.proxy.channel_factor >= fewer.proxy.channel_factor
        assert more.images >= fewer.images
        if more.proxy == fewer.proxy:
            assert more.epochs >= fewer.epochs
    assert all(plan.epochs >= LEAST_EPOCHS for plan in found)
    assert found[0].proxy.channel_factor < 1
    assert found[-1].proxy.channel_factor == 1
    assert found[-1].epochs == MOST_EPOCHS


@pytest.mark.parametrize("minutes", MINUTES[:8])
def test_the_time_is_kept_and_used(minutes: float) -> None:
    room_s = 60 * minutes - FIXED_S
    alone, _ = plans(minutes)
    first, then = plans(minutes, finals=FINALS)
    assert then is not None
    for seconds in (alone.seconds, first.seconds + then.seconds):
        assert seconds <= room_s * (1 + OVER) ** 2
    assert first.seconds + then.seconds >= 0.85 * room_s
    assert then.epochs >= 8
    assert then.nets == then.searched + then.random + 2
    assert alone.scores >= LEAST_SCORES


def test_too_few_minutes_are_refused_with_those_that_do() -> None:
    for finals in (None, FINALS):
        with pytest.raises(ValueError, match=r"minutes=1: the smallest plan takes") as refused:
            plans(1, finals=finals)
        found = re.search(r"give minutes=([\d.]+) or more", str(refused.value))
        assert found is not None
        plan, _ = plans(float(found[1]), finals=finals)
        assert plan.proxy.channel_factor == 0.25
        assert plan.images < SEARCH.images
        assert plan.images >= LEAST_IMAGES
    assert enough(0.45) == 0.5
    assert enough(93) == 110
    assert fewest_images(50_000, 10, 64, 0.2) == LEAST_IMAGES
    assert fewest_images(500, 10, 64, 0.2) == 500
    assert fewest_images(10**6, 1000, 64, 0.2) == 10_000


def test_what_is_given_stays() -> None:
    search = replace(
        SEARCH, proxies=(Proxy(48, 0.5),), epochs=3, warmup=0, least_images=10_000, images=10_000
    )
    finals = replace(FINALS, searched=3, epochs=5, most=4_000, least_images=None)
    for minutes in (30, 300):
        plan, then = plans(minutes, search, finals)
        assert (plan.proxy, plan.epochs, plan.warmup, plan.images) == (Proxy(48, 0.5), 3, 0, 10_000)
        assert then is not None
        assert (then.searched, then.epochs, then.images) == (3, 5, 4_000)
    with pytest.raises(ValueError, match="smallest plan"):
        plans(60, replace(SEARCH, proxies=SEARCH.proxies[:1], epochs=30, least_images=50_000))
    own = replace(SEARCH, each=0)  # the strategy's own number of scores stays
    assert plans(60, own)[0].scores == 0
    assert plans(60, replace(SEARCH, each=20))[0].scores % 20 == 0


@pytest.mark.parametrize(
    ("space", "sizes"),
    [("tfnas", [224, 112, 56]), ("small", [32, 16]), ("nas_bench_macro", [32, 16])],
)
def test_a_proxy_keeps_pixels_in_its_last_feature_map(space: str, sizes: list[int]) -> None:
    assert proxy_sizes(load_space(space)) == sizes


def test_keys_that_are_given() -> None:
    assert given_keys(["budget.epochs=3", "+strategy.batch=2", "minutes=5"]) == {
        "budget.epochs", "strategy.batch", "minutes",
    }  # fmt: skip
    assert {"budget.epochs", "budget.max_train"} <= given_keys(["budget=standard"])
