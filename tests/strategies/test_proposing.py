"""Methods that propose nets: each one's own rule against a computation of its own."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest

from tests.support.searches import make
from tfnas.derive.uniform import ABSENT
from tfnas.strategies.alphax import Node, choose
from tfnas.strategies.manas import Exp3
from tfnas.strategies.parts.proposing import Floats, Ints, Proposer, mutated, nearest, nothing_asked
from tfnas.strategies.parts.ridge import one_hot, ridge
from tfnas.strategies.reinforce import Adam, Policy, softmax

METHODS = ("aging", "nas_rl", "mnas", "manas", "alphax", "pnas")


@dataclass(frozen=True)
class Free:
    """All nets of two stages, of which the second keeps one or two of its positions."""

    counts: tuple[int, ...] = (3, 2, 4)
    stages: tuple[tuple[int, int], ...] = ((1, 1), (2, 1))

    def every(self) -> Ints:
        last = [*range(self.counts[2]), ABSENT]
        return np.array(list(itertools.product(range(3), range(2), last)))

    def random(self, count: int, rng: np.random.Generator) -> Ints:
        return self.every()[rng.integers(len(self.every()), size=count)]

    def optimum(self, values: Sequence[Floats], asked: Ints) -> Ints:
        nets = self.every()
        total = np.zeros(len(nets))
        for position, value in enumerate(values):
            kept = nets[:, position] != ABSENT
            total[kept] += value[nets[kept, position]]
        return nets[int(total.argmax())]


WORTH = [np.array([0.0, 2.0, 1.0]), np.array([0.0, 0.5]), np.array([0.3, -0.2, 0.9, 0.1])]


def worth(nets: Ints) -> Floats:
    return np.array([
        sum(row[item] for row, item in zip(WORTH, net, strict=True) if item != ABSENT)
        for net in nets
    ])  # fmt: skip


def searched(method: str, count: int, seed: int, **knobs: object) -> tuple[Ints, Floats]:
    strategy = make(method, **knobs)
    assert isinstance(strategy, Proposer)
    proposals = strategy.propose(Free(), np.random.default_rng(seed), count)
    nets, scores = nothing_asked(Free()), np.zeros(0)
    asked = next(proposals)
    while len(nets) < count:
        found = worth(asked)
        nets, scores = np.concatenate([nets, asked]), np.concatenate([scores, found])
        asked = proposals.send(found)
    return nets[:count], scores[:count]


@pytest.mark.parametrize("method", METHODS)
def test_what_is_proposed_gets_better(method: str) -> None:
    every = worth(Free().every())
    faster = {"lr": 0.1} if method in ("nas_rl", "mnas") else {"exploration": 0.5}
    knobs = faster if method in ("nas_rl", "mnas", "manas") else {}
    later = np.mean([searched(method, 60, seed, **knobs)[1][30:] for seed in range(6)])
    assert later > every.mean() + 0.3 * every.std()


@pytest.mark.parametrize("method", METHODS)
def test_the_same_seed_and_scores_give_the_same_nets(method: str) -> None:
    one, two, other = (searched(method, 12, seed)[0] for seed in (1, 1, 2))
    assert (one == two).all()
    assert (one != other).any()


def test_a_mutation_changes_one_gene() -> None:
    rng, net = np.random.default_rng(0), np.array([1, 0, ABSENT])
    kinds: Counter[tuple[int, ...]] = Counter()
    for _ in range(300):
        child = mutated(Free(), net, rng)
        changed = tuple(int(p) for p in np.flatnonzero(child != net))
        assert len(changed) == 1
        kinds[changed] += 1
    assert set(kinds) == {(0,), (1,), (2,)}  # of the last one the stage's depth
    assert min(kinds.values()) > 60
    assert (mutated(Free(), np.array([1, 0, 3]), rng) != [1, 0, 3]).sum() == 1


def test_nearest_is_the_net_itself_where_it_may_be() -> None:
    rng = np.random.default_rng(0)
    for net in Free().every():
        assert (nearest(Free(), net, rng, nothing_asked(Free())) == net).all()


def test_the_oldest_dies_however_good() -> None:
    """With a population of two and all of it sampled, the parent is the better of the last two."""
    strategy = make("aging", population=2, sample=50)
    assert isinstance(strategy, Proposer)
    proposals = strategy.propose(Free(), np.random.default_rng(3), 99)
    history = list(next(proposals))
    scores = [9.0, 0.0]  # the first is the best that there ever will be
    proposals_scores = np.array(scores)
    for age in range(30):
        (child,) = proposals.send(proposals_scores)
        parent = history[-2:][int(np.argmax(scores[-2:]))]
        assert (child != parent).sum() == 1
        history.append(child)
        scores.append(float(age % 5))
        proposals_scores = np.array(scores[-1:])


def test_reinforce_is_the_exact_gradient_in_the_mean() -> None:
    """On a space of four nets: the estimates, weighted by the nets' probabilities."""

    @dataclass(frozen=True)
    class Four:
        counts = (2, 2)
        stages = ((1, 1), (1, 1))

    policy = Policy(Four(), tied=False)  # type: ignore[arg-type]
    policy.logits = [np.array([0.3, -0.4]), np.array([1.0, 0.2])]
    reward = np.array([[1.0, -2.0], [0.5, 3.0]])
    a, b = map(softmax, policy.logits)
    nets = np.array([(i, j) for i in range(2) for j in range(2)])
    chances = np.array([a[i] * b[j] for i, j in nets])
    baseline = 0.7  # moves no mean
    estimated = [np.zeros(2), np.zeros(2)]
    for net, chance in zip(nets, chances, strict=True):
        step = policy.gradient(net[None], np.array([reward[tuple(net)] - baseline]))
        estimated = [e + chance * s for e, s in zip(estimated, step, strict=True)]

    def mean(x: Floats) -> float:
        return float(softmax(x[:2]) @ reward @ softmax(x[2:]))

    at, eps = np.concatenate(policy.logits), 1e-6
    exact = [(mean(at + eps * e) - mean(at - eps * e)) / (2 * eps) for e in np.eye(4)]
    assert np.concatenate(estimated) == pytest.approx(exact, abs=1e-8)


def test_tied_choices_are_one_for_a_stage() -> None:
    policy = Policy(Free(), tied=True)
    assert policy.genes == [0, 1, 1]
    assert [len(row) for row in policy.logits] == [3, 4]
    (gradient_a, gradient_b) = policy.gradient(np.array([[0, 1, 1]]), np.array([1.0]))
    assert gradient_a == pytest.approx([2 / 3, -1 / 3, -1 / 3])
    # half of the second position's two items, a quarter of the third one's four
    assert gradient_b == pytest.approx([-0.75, 1.25, -0.25, -0.25])
    assert policy.gradient(np.array([[0, 1, ABSENT]]), np.array([1.0]))[1] == pytest.approx(
        [-0.5, 0.5, 0, 0]
    )


def test_adam_is_torchs() -> None:
    import torch

    rng = np.random.default_rng(0)
    weight = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    theirs, ours, at = torch.optim.Adam([weight], lr=0.1, maximize=True), Adam(0.1), np.zeros(3)
    for _ in range(5):
        gradient = rng.normal(size=3)
        weight.grad = torch.tensor(gradient)
        theirs.step()
        at = at + ours.steps([gradient])[0]
    assert at == pytest.approx(weight.detach().numpy())


def test_bandits_learn_by_exp3() -> None:
    agent, weights, gamma = Exp3(3, 0.2), np.ones(3), 0.2
    for item, reward in ((0, 1.0), (2, 0.5), (0, 0.0), (1, 0.9)):
        chances = (1 - gamma) * weights / weights.sum() + gamma / 3
        assert agent.probabilities == pytest.approx(chances)
        weights[item] *= math.exp(gamma * reward / chances[item] / 3)
        agent.learn(item, reward)
    assert agent.probabilities.sum() == pytest.approx(1)


def test_a_branch_is_chosen_by_its_bound() -> None:
    rng, node = np.random.default_rng(0), Node(10, 5.0)
    node.children = {0: Node(6, 3.6), 1: Node(3, 1.2)}
    assert choose(node, 3, 0.1, rng) == 2  # never taken
    node.children[2] = Node(1, 0.2)
    for factor in (0.01, 0.1, 2.0):
        bounds = [
            child.total / child.visits + 2 * factor * math.sqrt(2 * math.log(10) / child.visits)
            for child in node.children.values()
        ]
        assert choose(node, 3, factor, rng) == bounds.index(max(bounds))
    assert choose(node, 3, 0.01, rng) == 0
    assert choose(node, 3, 2.0, rng) == 2


def test_a_ridge_is_that_of_the_normal_equations() -> None:
    nets = Free().every()[::2]
    scores = worth(nets)
    x = one_hot(Free().counts, nets)
    assert x.sum(axis=1).tolist() == (nets != ABSENT).sum(axis=1).tolist()
    weights = np.linalg.solve(x.T @ x + np.eye(x.shape[1]), x.T @ (scores - scores.mean()))
    assert ridge(Free().counts, nets, scores).weights == pytest.approx(weights)


def test_a_wide_beam_finds_the_best_of_all() -> None:
    _, scores = searched("pnas", 200, 0, beam=20, expansions=20)
    assert scores.max() == worth(Free().every()).max()
