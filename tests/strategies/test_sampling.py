"""Sampling, soft weights and expected latency, against plain recomputation."""

from __future__ import annotations

import math
import random
from collections import Counter

import pytest
import torch

from tests.support.spaces import load_space, macs_table
from tfnas.strategies.parts.depth import Sink
from tfnas.strategies.parts.losses import LATENCY_LOSSES
from tfnas.strategies.parts.sampling import (
    SECOND_PATHS,
    first_path,
    gumbel_softmax,
    log_uniform,
    op_latencies,
    second_path,
    some_ops,
)

PROBS = (0.5, 0.25, 0.15, 0.1)
CHI2_999_3 = 16.27  # 99.9 % point of chi-square at 3 degrees of freedom
CHI2_999_2 = 13.82


def chi_square(counts: Counter, probs: dict[int, float], n: int) -> float:
    return sum((counts[i] - n * p) ** 2 / (n * p) for i, p in probs.items())


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_first_path_follows_the_op_probabilities() -> None:
    g, alphas, n = generator(), [torch.tensor(PROBS).log()], 4000
    counts = Counter(first_path("gumbel", alphas, g)[0] for _ in range(n))
    assert chi_square(counts, dict(enumerate(PROBS)), n) < CHI2_999_3
    counts = Counter(first_path("uniform", alphas, g)[0] for _ in range(n))
    assert chi_square(counts, dict.fromkeys(range(4), 0.25), n) < CHI2_999_3


def test_second_path_is_uniform_among_the_rest() -> None:
    g, alphas, n = generator(), [torch.tensor(PROBS).log()], 3000
    counts = Counter(second_path("random", [1], alphas, g)[0] for _ in range(n))
    assert counts[1] == 0
    assert chi_square(counts, dict.fromkeys((0, 2, 3), 1 / 3), n) < CHI2_999_2


def test_second_gumbel_path_renormalizes_the_rest() -> None:
    g, alphas, n = generator(), [torch.tensor(PROBS).log()], 3000
    counts = Counter(second_path("gumbel", [0], alphas, g)[0] for _ in range(n))
    rest = {i: p / (1 - PROBS[0]) for i, p in enumerate(PROBS) if i != 0}
    assert chi_square(counts, rest, n) < CHI2_999_2


@pytest.mark.parametrize("kind", [k for k in SECOND_PATHS if k != "none"])
def test_bi_sampling_never_picks_an_op_twice(kind: str) -> None:
    g = generator(1)
    alphas = [torch.randn(8, generator=g).log_softmax(0) for _ in range(18)]
    for _ in range(200):
        first = first_path("gumbel", alphas, g)
        second = second_path(kind, first, alphas, g)
        assert all(a != b for a, b in zip(first, second, strict=True))


def test_max_and_min_second_paths() -> None:
    alphas = [torch.tensor(PROBS).log()]
    assert second_path("max", [0], alphas, generator()) == [1]
    assert second_path("max", [2], alphas, generator()) == [0]
    assert second_path("min", [3], alphas, generator()) == [2]


def test_a_single_candidate_is_its_own_second_path() -> None:
    alphas = [log_uniform(1)]
    assert second_path("random", [0], alphas, generator()) == [0]


def test_some_ops_are_a_sample_of_the_op_probabilities() -> None:
    g, alpha, n = generator(), torch.tensor(PROBS).log(), 4000
    counts: Counter = Counter()
    for _ in range(n):
        picks, weights = some_ops(gumbel_softmax(alpha, 1.0, g), alpha, 1, "sample")
        counts[picks[0]] += 1
        assert weights.tolist() == [1.0]
    assert chi_square(counts, dict(enumerate(PROBS)), n) < CHI2_999_3


def test_some_ops_weigh_1_together_and_learn() -> None:
    alpha = torch.tensor(PROBS).log().flip(0).requires_grad_()
    mix = gumbel_softmax(alpha, 1.0, generator())
    picks, weights = some_ops(mix, alpha, 2, "top")
    assert picks == [2, 3]
    torch.testing.assert_close(weights, mix[2:] / mix[2:].sum())
    (weights[0] * 3).backward()
    assert alpha.grad is not None
    assert alpha.grad[:2].tolist() == pytest.approx([0, 0], abs=1e-6)
    assert float(alpha.grad[2]) > 0 > float(alpha.grad[3])
    # However cold: the most probable ones may have next to no weight.
    cold = torch.tensor([1.0, 0.0, 0.0]), torch.tensor([-9.0, 0.0, 0.0])
    assert some_ops(*cold, 2, "top").weights.tolist() == pytest.approx([0.5, 0.5])
    # A single one has the gradient of its soft weight.
    mix = gumbel_softmax(alpha, 1.0, generator())
    _, weights = some_ops(mix, alpha, 1, "top")
    (one,) = torch.autograd.grad(weights[0], alpha, retain_graph=True)
    (soft,) = torch.autograd.grad(mix[3], alpha)
    torch.testing.assert_close(one, soft)


def test_soft_weights_grow_hard_as_it_cools() -> None:
    alpha = torch.tensor(PROBS).log()
    hot = gumbel_softmax(alpha, 100.0, generator())
    cold = gumbel_softmax(alpha, 0.01, generator())
    assert hot.max() < 0.3
    assert cold.max() > 0.99
    assert float(cold.sum()) == pytest.approx(1)


@pytest.mark.parametrize("name", ["tiny", "tfnas"])
def test_expected_latency_against_plain_loops(name: str) -> None:
    space = load_space(name)
    table = macs_table(space)
    g = generator(3)
    mix = [torch.rand(len(b), generator=g).softmax(0) for b in space.blocks]
    sinks = [torch.rand(len(s.depths), generator=g).softmax(0) for s in space.stages]
    widths = [[c.widths[-1] for c in block] for block in space.blocks]
    op_ms = op_latencies(space, table, widths)
    total, b = table.fixed(space), 0
    for stage, sink in zip(space.stages, sinks, strict=True):
        cumulative, sums = 0.0, []
        for block in stage.blocks:
            cumulative += sum(
                float(mix[b][i]) * table.ms(c.at(widths[b][i])) for i, c in enumerate(block)
            )
            sums.append(cumulative)
            b += 1
        total += sum(float(sink[k]) * sums[d - 1] for k, d in enumerate(stage.depths))
    got = Sink(space).expected_ms(table.fixed(space), mix, sinks, op_ms)
    assert float(got) == pytest.approx(total, rel=1e-5)


def test_expected_latency_at_one_hot_is_the_subnets() -> None:
    space = load_space("tfnas")
    table = macs_table(space)
    rng = random.Random(0)
    for _ in range(5):
        picks = [rng.randrange(len(block)) for block in space.blocks]
        depths = [rng.choice(stage.depths) for stage in space.stages]
        widths = [[rng.choice(c.widths) for c in block] for block in space.blocks]
        mix = [torch.eye(len(b))[p] for b, p in zip(space.blocks, picks, strict=True)]
        sinks = [
            torch.eye(len(s.depths))[s.depths.index(d)]
            for s, d in zip(space.stages, depths, strict=True)
        ]
        picked = [row[p] for row, p in zip(widths, picks, strict=True)]
        subnet_ms = table.total(space.subnet(depths, picks, picked))
        op_ms = op_latencies(space, table, widths)
        got = Sink(space).expected_ms(table.fixed(space), mix, sinks, op_ms)
        assert float(got) == pytest.approx(subnet_ms, rel=1e-5)


def test_gradients_of_expected_latency_by_finite_differences() -> None:
    space = load_space("tiny")
    table = macs_table(space)
    widths = [[c.op.c_mid for c in block] for block in space.blocks]
    op_ms = [t.double() for t in op_latencies(space, table, widths)]
    g = generator(4)
    alphas = [torch.randn(len(b), generator=g).double().requires_grad_() for b in space.blocks]
    betas = [
        torch.randn(len(stage.depths), generator=g).double().requires_grad_()
        for stage in space.stages
    ]

    def latency(*vectors: torch.Tensor) -> torch.Tensor:
        mix = [v.softmax(0) for v in vectors[: len(alphas)]]
        sinks = [v.softmax(0) for v in vectors[len(alphas) :]]
        return Sink(space).expected_ms(table.fixed(space), mix, sinks, op_ms)

    assert torch.autograd.gradcheck(latency, (*alphas, *betas))


@pytest.mark.parametrize("name", list(LATENCY_LOSSES))
def test_latency_losses_push_a_slow_net_to_be_faster(name: str) -> None:
    ce = torch.tensor(1.5)
    ms = torch.tensor(20.0, requires_grad=True)
    LATENCY_LOSSES[name](ce, ms, 10.0, 0.1).backward()
    assert ms.grad is not None
    assert ms.grad > 0


def test_latency_losses_by_hand() -> None:
    ce, ms = torch.tensor(2.0), torch.tensor(12.0)
    values = {name: float(loss(ce, ms, 10.0, 0.5)) for name, loss in LATENCY_LOSSES.items()}
    assert values == pytest.approx(
        {
            "relative": 2 + 0.5 * 0.2,
            "fbnet": 2 * 0.2 * math.log(13) ** 0.5,
            "proxyless_linear": 2 + 0.5 * 1.2,
            "proxyless_log": 2 * (math.log(13) / math.log(11)) ** 0.5,
            "mnasnet": 2 * 1.2**0.5,
            "hard_bound": 2 + 0.5 * 0.2,
        }
    )
    below = LATENCY_LOSSES["hard_bound"](ce, torch.tensor(8.0), 10.0, 0.5)
    assert float(below) == 2.0
