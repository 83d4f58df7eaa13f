"""The surrogate's model and its bridge to a space, against computations of another kind."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tests.support.searches import make
from tests.support.spaces import load_space, load_spec, macs_table
from tfnas.derive.architecture import Constraint
from tfnas.derive.menu import feasible
from tfnas.space.ops import OpSpec
from tfnas.space.search_space import Choice, SearchSpace, Stage
from tfnas.space.spec import ExpansionSpec, LayerSpec, SpaceSpec
from tfnas.strategies.contract import Evaluation, Task
from tfnas.strategies.parts.items import Items
from tfnas.strategies.parts.surrogate import FREE, Features, Floats, Genes, Search, Settings, fit
from tfnas.strategies.surrogate import Reused, Surrogate, SurrogateSearch, features_of


def small_space() -> SearchSpace:
    """Two stages of the tiny space with three widths an op."""
    tiny = load_space("tiny")
    stages = tuple(
        Stage(tuple(tuple(Choice(c.op, some_widths(c)) for c in b[:2]) for b in stage.blocks))
        for stage in tiny.stages
    )
    return SearchSpace("small", 32, tiny.stem, stages, tiny.head, tiny.quantum)


def some_widths(choice: Choice) -> tuple[int, ...]:
    others = [width for width in choice.widths if width != choice.op.c_mid]
    return tuple(sorted([choice.op.c_mid, others[0], others[-1]]))


def constraint(space: SearchSpace, *, at_most: bool) -> Constraint:
    table = macs_table(space)
    low, high = feasible(space, table)
    return Constraint(table, 0.6 * low + 0.4 * high, at_most, tol=0.02)


def test_the_mean_is_that_of_ridge_regression() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(12, 5))
    scores = x @ rng.normal(size=5) + 0.1 * rng.normal(size=12)
    posterior = fit(x, scores, 0.1, np.zeros(5))
    case = posterior.cases[int(posterior.probabilities.argmax())]
    # Weights and a free level, each with its prior variance, by the normal equations.
    unit = scores.var()
    design = np.concatenate([x, np.ones((12, 1))], axis=1)
    errors = case.errors + 1e-6 * unit
    prior = np.diag([*[1 / case.scale] * 5, 1 / (FREE * unit)])
    precise = design.T @ (design / errors[:, None]) + prior
    ridge = np.linalg.solve(precise, design.T @ ((scores - scores.mean()) / errors))
    np.testing.assert_allclose(posterior.mean(), ridge[:5], rtol=1e-6)
    # Draws lie around it.
    draws = np.array([posterior.draw(rng, 1.0) for _ in range(4000)])
    assert abs(draws.mean(axis=0) - ridge[:5]).max() < 0.05


def test_what_is_told_of_an_op_is_so_at_all_its_widths() -> None:
    kinds = (np.array([0, 0, 1]), np.array([0, 1, 1]))
    factors = (np.ones((3, 1)),) * 2
    genes = Genes(factors, (np.arange(3.0)[:, None],) * 2, kinds)
    first, second = genes.deviations()
    assert first.tolist() == [[1, 0, 0, 0], [1, 0, 0, 0], [0, 1, 0, 0]]
    assert second.tolist() == [[0, 0, 1, 0], [0, 0, 0, 1], [0, 0, 0, 1]]
    own = Genes(factors, genes.sizes).deviations()
    assert np.array_equal(np.concatenate(own), np.eye(6))


def test_sizes_that_the_target_fixes_are_not_blown_up() -> None:
    rng = np.random.default_rng(0)
    half = rng.integers(0, 9, (200, 1))
    reference = np.concatenate([half, 8 - half], axis=1)  # the sum of sizes is always 8
    genes = Genes((np.ones((9, 1)),) * 2, (np.arange(9.0)[:, None],) * 2)
    features = Features.of_genes(genes, reference, Settings())
    assert np.isfinite(features.items[0]).all()
    assert abs(features.items[0]).max() < 20


@pytest.mark.parametrize("at_most", [True, False])
def test_the_optimum_is_that_of_all_nets(at_most: bool) -> None:
    space = small_space()
    limit = constraint(space, at_most=at_most)
    items = Items(space, [limit])
    genes = items.genes()
    counts = [len(rows) for rows in genes.factors]
    assert counts == [6] * 4
    rng = np.random.default_rng(0)
    nets = np.array(
        [
            (*first, *second)
            for first, second in itertools.product(
                [(a, b) for a in range(6) for b in range(-1, 6)], repeat=2
            )
        ]
    )
    ms = [limit.table.total(items.derived(net).subnet) for net in nets]
    low, high = limit.window
    inside = [low + 1e-4 * high < one < high - 1e-4 * high for one in ms]
    met = [limit.met_by(one) for one in ms]
    assert 10 < sum(met) < len(nets)
    for _ in range(20):
        values: list[Floats] = [rng.normal(size=n) for n in counts]
        worth = np.array([sum(v[i] for v, i in zip(values, net, strict=True) if i >= 0)
                          for net in nets])  # fmt: skip
        found = items.optimum(values, nets[:0])
        index = int((nets == found).all(axis=1).argmax())
        assert met[index]
        assert worth[index] >= worth[inside].max() - 1e-9


def test_items_are_read_back() -> None:
    space = load_space("tiny")
    items = Items(space, [constraint(space, at_most=False)])
    rng = np.random.default_rng(0)
    drawn = items.random(5, rng)
    assert len({tuple(net) for net in drawn}) > 1
    genes = items.genes()
    for net in drawn:
        derived = items.derived(net)
        assert derived.reached
        assert derived.subnet in space
        assert derived.given_up(space) == ()
        assert np.array_equal(items.of(derived), net)
        kept = [(b, i) for b, i in enumerate(net) if i >= 0]
        assert [int(genes.factors[b][i][1]) for b, i in kept] == [
            op.kernel for op in derived.subnet.blocks
        ]


def test_nets_that_chance_hardly_finds_are_solved_for(monkeypatch: pytest.MonkeyPatch) -> None:
    space = load_space("tiny")
    monkeypatch.setattr("tfnas.derive.uniform.AT_ONCE", 1)
    monkeypatch.setattr("tfnas.derive.uniform.MOST_ROUNDS", 1)
    items = Items(space, [replace(constraint(space, at_most=False), tol=1e-3)])
    drawn = items.random(4, np.random.default_rng(0))
    assert drawn.shape == (4, len(space.blocks))
    assert all(items.derived(net).reached for net in drawn)


def test_ops_without_width_and_fixed_depths_have_items_too() -> None:
    tiny = load_space("tiny")
    block = tiny.stages[0].blocks[1]
    conv = OpSpec("conv", 16, 16, 0, 0, 16, 3, 1, "relu")
    blocks = (tiny.stages[0].blocks[0], (*block, Choice(conv, (0,))))
    space = SearchSpace(
        "plain", 32, tiny.stem, (Stage(blocks, 2), Stage(tiny.stages[1].blocks, 2)), tiny.head
    )
    limit = constraint(space, at_most=True)
    items = Items(space, [limit])
    rng = np.random.default_rng(0)
    reference = items.random(40, rng)
    features = Features.of_genes(items.genes(), reference, Settings())
    search = Search(features, items.optimum, Settings(), rng)
    nets = search.ask(4)
    search.tell(nets, rng.normal(size=4))
    assert np.isfinite(search.posterior().mean()).all()
    plain = len(items.genes().factors[1]) - 1
    assert any(net[1] == plain for net in reference)
    assert (reference >= 0).all()


def test_nets_that_hardly_differ_are_not_asked_for() -> None:
    features = Features((np.array([[0.0], [0.01], [2.0]]),), np.zeros(1))
    order = iter([0, 1, 2])
    search = Search(
        features,
        lambda _values, _nets: np.array([next(order)]),
        Settings(apart=0.02),
        np.random.default_rng(0),
    )
    assert search.ask(2).ravel().tolist() == [0, 2]


@pytest.mark.slow
@pytest.mark.parametrize("score", ["loss", "top1"])
@pytest.mark.parametrize("paths", ["target", "uniform", "fair"])
def test_candidates_are_what_was_scored(paths: str, score: str, task: Task) -> None:
    strategy = make("surrogate", paths=paths, score=score)
    assert isinstance(strategy, Surrogate)
    *progress, found = strategy.run(task)
    assert len(found.candidates) == found.scores["subnets"] >= 4
    assert found.candidates[0].derived == found.derived
    scores = [candidate.score for candidate in found.candidates]
    assert scores == sorted(scores, reverse=True)
    assert all(candidate.derived.reached for candidate in found.candidates)
    assert len({candidate.derived.subnet for candidate in found.candidates}) == len(scores)
    sampled = progress[-1].record or next(p.record for p in progress if p.record)
    steps = len(task.train)
    for row in sampled.sampled:
        if paths == "fair":
            assert row == (steps,) * len(row)
        else:
            assert sum(row) == steps


@pytest.mark.slow
def test_the_optimum_of_what_random_nets_tell_is_taken(task: Task) -> None:
    strategy = make("surrogate", evaluations=12, optima=4)
    assert isinstance(strategy, Surrogate)
    search = SurrogateSearch(task, strategy)
    list(search.train())
    while search.drawn < strategy.evaluations:
        if not search.pending:
            search.ask(8)
        search.score_next()
    assert search.generation <= 8 < len(search.scored)
    values = np.array(search.scores.values())[: search.generation]
    nets = np.stack([search.items.of(d) for _, d in search.scored.values()])[: search.generation]
    told = Settings(apart=0.02, noise=search.scores.noise(search.generation))
    features = features_of(task, search.items)
    model = Search(features, search.items.optimum, told, np.random.default_rng(0))
    model.tell(nets, values)
    best = search.items.optimum(features.values(model.posterior().mean()), nets)
    found = search.ended()
    assert found.derived.subnet == search.items.derived(best).subnet


def test_optima_need_others_to_be_told_by(task: Task) -> None:
    with pytest.raises(ValueError, match=r"strategy.optima=6: expected fewer than"):
        make("surrogate", optima=6).check("constrained")


@pytest.mark.slow
def test_the_noise_is_that_of_the_images(task: Task) -> None:
    strategy = make("surrogate")
    assert isinstance(strategy, Surrogate)
    search = SurrogateSearch(task, strategy)
    search.ask(random=2)
    search.score_next()
    ((score, _),) = search.scored.values()
    assert search.scores.noise() == pytest.approx(score.loss_sd / 8)  # 64 images
    assert score.error("top1") == pytest.approx((score.top1 * (100 - score.top1)) ** 0.5 / 8)


@pytest.mark.slow
def test_the_supernet_trains_on_nets_that_meet_the_target(task: Task) -> None:
    strategy = make("surrogate")
    assert isinstance(strategy, Surrogate)
    assert strategy.paths == "target"
    search = SurrogateSearch(task, strategy)
    nets = set()
    for _ in range(20):
        next(search.train())
        picks, depths, widths = search.last
        net = task.space.subnet(depths, picks, [row[0] for row in widths])
        assert task.constraints[0].met_by(task.constraints[0].table.total(net))
        nets.add(net)
    assert len(nets) > 10


def spec(**changes: Any) -> SpaceSpec:
    return replace(load_spec("tiny"), **changes)


def scored(space: SearchSpace) -> Reused:
    """Two of its nets, as a finished search leaves them."""
    nets = [
        Evaluation(
            tuple(depth for _ in space.stages),
            tuple(0 for _ in space.blocks),
            tuple(block[0].widths[-1] for block in space.blocks),
            float(depth),
            0.1,
        )
        for depth in (1, 2)
    ]
    return Reused(space.skeleton, tuple(nets), 1, None, space.key, space.fixed)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"in_channels": 1}, "images of 3 channels, space.in_channels is 1 now"),
        ({"resolution": 64}, "its nets are of tiny@32-.*, this space is tiny@64-"),
        ({"name": "small"}, "its nets are of tiny@32-.*, this space is small@32-"),
        ({"kernels": [3]}, "this space is tiny@32-"),
        ({"squeeze_excite": [False]}, "this space is tiny@32-"),
        ({"classes": 9}, "another stem or head than tiny now"),
        (
            {"stem": [LayerSpec("conv", 16, 3, 2, "swish")]},
            "another stem or head than tiny now",
        ),
        ({"expansions": [ExpansionSpec(3, 2, 6)]}, r"other widths \(ratio, min_ratio, max_ratio\)"),
        ({"expansions": [ExpansionSpec(3, 2, 4, 0.5)]}, "this space is tiny@32-"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_scores_of_another_space_are_refused(changes: dict[str, Any], message: str) -> None:
    reused = scored(spec().build(1))
    reused.check_nets(spec().build(1))
    with pytest.raises(ValueError, match=message):
        reused.check_nets(spec(**changes).build(1))


def test_scores_of_before_tell_less() -> None:
    """They are of a time when nets took three channels alone."""
    older = replace(scored(spec().build(1)), key=None, fixed=None)
    older.check_nets(spec(expansions=[ExpansionSpec(3, 2, 6)]).build(1))
    with pytest.raises(ValueError, match=r"images of 3 channels, space\.in_channels is 1 now"):
        older.check_nets(spec(in_channels=1).build(1))
