"""Every strategy through the one contract."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.support.searches import make, values
from tests.support.spaces import load_space
from tfnas.derive.architecture import argmax
from tfnas.derive.methods import draw_constrained
from tfnas.nets.blocks import Network
from tfnas.nets.distillation import Lesson
from tfnas.process.errors import DivergedError
from tfnas.space.search_space import SearchSpace
from tfnas.strategies import STRATEGIES, strategy_class
from tfnas.strategies.contract import EpochRecord, Found, Progress, Strategy, Task
from tfnas.strategies.parts.skips import DEPTHS, SeparatedSkip, SkipOp
from tfnas.strategies.parts.training import momentum_sgd, new_supernet, weights_of

pytestmark = pytest.mark.slow


def run(strategy: Strategy, task: Task) -> tuple[list[Progress], Found]:
    *progress, found = strategy.run(task)
    assert isinstance(found, Found)
    assert all(isinstance(p, Progress) for p in progress)
    return progress, found  # type: ignore[return-value]


Uninterrupted = Callable[[str], tuple[list[Progress], Found]]


@pytest.fixture(scope="module")
def uninterrupted(task: Task) -> Uninterrupted:
    """By a strategy's name, its small search from beginning to end."""
    return cache(lambda name: run(make(name), task))


@pytest.mark.parametrize("name", list(STRATEGIES))
def test_result_is_in_the_space_and_meets_the_target(
    name: str, task: Task, uninterrupted: Uninterrupted
) -> None:
    progress, found = uninterrupted(name)
    assert found.derived.subnet in task.space
    assert found.derived.reached
    constraint = task.constraints[0]
    assert constraint.met_by(constraint.table.total(found.derived.subnet))
    steps = [p.step for p in progress]
    assert steps == sorted(steps)
    assert steps[-1] <= progress[-1].steps
    records = [p.record for p in progress if p.record is not None]
    assert [r.epoch for r in records] == [0, 1]


@pytest.mark.parametrize("name", list(STRATEGIES))
def test_same_seed_same_result(name: str, task: Task, uninterrupted: Uninterrupted) -> None:
    torch.manual_seed(1)
    _, one = uninterrupted(name)
    torch.manual_seed(2)
    _, two = run(make(name), task)
    assert one.derived == two.derived
    assert one.scores == two.scores
    assert one.weights is not None
    assert two.weights is not None
    a, b = one.weights(one.derived.subnet), two.weights(two.derived.subnet)
    assert a.keys() == b.keys()
    assert all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize("share", [0.0, 0.55, 0.99])
@pytest.mark.parametrize("name", list(STRATEGIES))
def test_gone_on_with_equals_uninterrupted(
    name: str, share: float, task: Task, uninterrupted: Uninterrupted
) -> None:
    progress, whole = uninterrupted(name)
    first = make(name).run(task)
    taken = 1 + int(share * (len(progress) - 1))
    for _ in range(taken):
        event = next(first)
    assert isinstance(event, Progress)
    file = io.BytesIO()
    torch.save(event.state(), file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    list(first)  # what the first run still does changes nothing in what was saved
    *rest, found = make(name).run(task, state)
    assert isinstance(found, Found)
    assert found.derived == whole.derived
    assert found.scores == whole.scores
    assert [p.record for p in rest if isinstance(p, Progress)] == [
        p.record for p in progress[taken:]
    ]
    assert whole.weights is not None
    assert found.weights is not None
    a, b = whole.weights(whole.derived.subnet), found.weights(found.derived.subnet)
    assert all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize("name", ["surrogate", "tfnas"])
def test_weights_learn_from_a_teacher(name: str, task: Task, uninterrupted: Uninterrupted) -> None:
    asked = []

    def teacher(images: Tensor) -> Tensor:
        asked.append(len(images))
        return torch.eye(task.space.classes)[images.sum(dim=(1, 2, 3)).long() % 7]

    progress, _ = uninterrupted(name)
    plain = [p.record for p in progress if p.record is not None]
    for weight in (0.0, 0.5):
        asked.clear()
        taught, _ = run(make(name), replace(task, lesson=Lesson(teacher, 4.0, weight)))
        records = [p.record for p in taught if p.record is not None]
        assert len(asked) == 2 * len(task.train)  # in each weight step of both epochs
        assert (records == plain) == (weight == 0)


@pytest.mark.parametrize("name", list(STRATEGIES))
def test_a_state_of_another_search_is_refused(name: str, task: Task) -> None:
    with pytest.raises(ValueError, match="doesn't fit this search"):
        list(make(name).run(task, {"epoch": 1}))


@pytest.mark.parametrize("name", list(STRATEGIES))
def test_an_infinite_loss_stops_at_once_or_is_skipped(name: str, task: Task) -> None:
    class Spoilt:
        """Training batches of which the second holds an infinite pixel."""

        batch, seed, size = task.train.batch, 0, 16

        def __len__(self) -> int:
            return len(task.train)

        def epoch(self, epoch: int, start: int = 0) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
            for index, (x, y) in enumerate(task.train.epoch(epoch, start), start):
                if index == 1:
                    x[0, 0, 0, 0] = float("inf")
                yield x, y

    spoilt = replace(task, train=Spoilt())  # type: ignore[arg-type]
    seen = []
    with pytest.raises(DivergedError, match="batch 2 of epoch 1, seed 0"):
        seen += list(make(name).run(spoilt))
    progress, found = run(make(name), replace(spoilt, on_nonfinite="skip"))
    assert found.scores["skipped_steps"] == 2  # one in each epoch
    assert all(np.isfinite(p.record.train_loss) for p in progress if p.record)


@pytest.mark.parametrize("name", list(STRATEGIES))
def test_weights_start_the_subnet(name: str, uninterrupted: Uninterrupted) -> None:
    _, found = uninterrupted(name)
    extracted(found)


def extracted(found: Found) -> Network:
    """The found subnet with the supernet's weights, using batch statistics."""
    assert found.weights is not None
    network = Network(found.derived.subnet)
    missing, unexpected = network.load_state_dict(
        dict(found.weights(found.derived.subnet)), strict=False
    )
    assert not unexpected
    assert all(".bn." in key for key in missing)
    return network.train()


@pytest.mark.parametrize("name", ["random", "spos", "surrogate"])
def test_weights_are_those_that_were_scored(
    name: str, task: Task, uninterrupted: Uninterrupted
) -> None:
    _, found = uninterrupted(name)
    network = extracted(found)
    hits = total = 0
    for x, y in task.held_out.epoch(0):
        if total < 64:
            hits += int((network(x).argmax(1) == y).sum())
            total += len(y)
    assert 100 * hits / total == pytest.approx(found.scores["supernet_top1"])


def test_weights_of_trained_widths_are_left_in_their_order(task: Task) -> None:
    space = task.space
    net = new_supernet(space, 1.0, 0, task.device, alike=False)
    widths = net.initial_widths()
    picks, order = [0] * len(space.blocks), range(len(space.blocks))
    picked = [row[0] for row in widths]
    picked[1] += 8
    subnet = space.subnet([2, 2], picks, picked)
    before = [net.candidate(b, 0).depthwise.weight.clone() for b in range(4)]
    weights = weights_of(net, picks, order, widths)
    assert weights is not None
    state = weights(subnet)
    first = 1  # the stem is layer 0
    for b in (0, 2, 3):
        trained = before[b][: widths[b][0]]
        assert torch.equal(state[f"layers.{first + b}.depthwise.conv.weight"], trained)
    norms = state[f"layers.{first + 1}.depthwise.conv.weight"].abs().sum((1, 2, 3))
    assert torch.equal(norms, norms.sort(descending=True).values)
    # taking one subnet out changes nothing for the next
    for b, was in enumerate(before):
        assert torch.equal(net.candidate(b, 0).depthwise.weight, was)


@pytest.mark.parametrize("name", ["random", "spos", "surrogate"])
def test_strategies_without_probabilities_refuse_greedy(name: str) -> None:
    with pytest.raises(ValueError, match="constrained"):
        make(name).check("greedy")


def test_divergence_is_said(task: Task) -> None:
    with pytest.raises(DivergedError, match="the search diverged: no finite loss"):
        run(make("tfnas", weight_lr=1e6, clip=1e9), task)


@pytest.mark.parametrize("name", list(STRATEGIES))
def test_registry_yaml_and_check_agree(name: str) -> None:
    assert values("strategy", name)["name"] == name
    knob = "clip"
    with pytest.raises(ValueError, match=knob):
        make(name, **{knob: -1.0})


def test_unknown_strategy_names_the_known_ones() -> None:
    with pytest.raises(LookupError, match="tfnas, random, spos, surrogate"):
        strategy_class("darts")


@pytest.mark.parametrize("second", ["random", "none"])
def test_sampling_counts(second: str, task: Task) -> None:
    progress, _ = run(make("tfnas", second_path=second), task)
    steps = len(task.train)
    for record, paths in zip(
        (p.record for p in progress if p.record), (1, 1 if second == "none" else 2), strict=True
    ):
        assert all(sum(row) == steps * paths for row in record.sampled)
        assert all(max(row) <= steps for row in record.sampled)


def test_records_tell_the_expected_latency(task: Task) -> None:
    progress, _ = run(make("tfnas", width="fixed"), task)
    table = task.constraints[0].table
    for record in (p.record for p in progress if p.record is not None):
        block, expected = 0, table.fixed(task.space)
        for stage, of_depth in zip(task.space.stages, record.depth_probs, strict=True):
            so_far = 0.0
            for place in range(1, len(stage.blocks) + 1):
                row = zip(record.op_probs[block], stage.blocks[place - 1], strict=True)
                widths = record.widths[block]
                so_far += sum(
                    p * table.ms(choice.at(w)) for (p, choice), w in zip(row, widths, strict=True)
                )
                if place in stage.depths:
                    expected += of_depth[stage.depths.index(place)] * so_far
                block += 1
        assert record.expected_ms == pytest.approx(expected, rel=1e-5)


def test_the_best_of_the_candidates_is_taken(task: Task) -> None:
    _, plain = run(make("tfnas", candidates=1), task)
    progress, found = run(make("tfnas", candidates=6, score_images=64), task)
    last = progress[-1].steps
    assert [p.step for p in progress][-6:] == list(range(last - 5, last + 1))
    assert found.architecture is not None
    assert plain.architecture is not None
    for one, other in zip(found.architecture.alphas, plain.architecture.alphas, strict=True):
        assert np.array_equal(one, other)  # learned before

    rng = np.random.default_rng(task.seed)
    arch = found.architecture
    drawn = [draw_constrained(task.space, arch, task.constraints, rng) for _ in range(5)]
    nets = {net.subnet: net for net in [plain.derived, *drawn]}
    assert found.derived == nets[found.derived.subnet]
    assert found.derived.reached
    assert found.scores["subnets"] == len(nets) > 1
    assert found.scores["scored_images"] == 64 * len(nets)
    assert found.scores["supernet_top1"] > found.scores["mean_supernet_top1"]
    extra = found.scores["path_passes"] - plain.scores["path_passes"]
    assert extra == pytest.approx(64 * len(nets) / 3)


@pytest.mark.parametrize("done", [1, 3, 6])
def test_scoring_goes_on_where_it_was(done: int, task: Task) -> None:
    strategy = make("tfnas", candidates=6, score_images=64)
    progress, whole = run(strategy, task)
    first = strategy.run(task)
    for _ in range(len(progress) - 6 + done):
        event = next(first)
    assert isinstance(event, Progress)
    state = copy.deepcopy(event.state())
    *rest, found = strategy.run(task, state)
    assert len(rest) == 6 - done
    assert isinstance(found, Found)
    assert found.derived == whole.derived
    assert found.scores == whole.scores


@pytest.mark.parametrize("depth", ["skip_op", "separated_skip"])
def test_candidates_need_depths_that_the_supernet_has(depth: str) -> None:
    with pytest.raises(ValueError, match=r"strategy\.depth=.* give strategy\.candidates=1"):
        make("tfnas", candidates=2, depth=depth)


def test_candidates_are_none_of_the_published_derivation() -> None:
    strategy = make("tfnas", candidates=2)
    with pytest.raises(ValueError, match=r"derive=greedy .* strategy\.candidates=1"):
        strategy.check("greedy")


def test_warm_up_leaves_the_architecture_alone(task: Task) -> None:
    warm = replace(task, budget=replace(task.budget, warmup_epochs=2))
    progress, found = run(make("tfnas"), warm)
    assert found.architecture is not None
    for alpha in found.architecture.alphas:
        np.testing.assert_allclose(alpha, -np.log(len(alpha)), rtol=1e-6)
    last = progress[-1].record
    assert last is not None
    assert last.temperature is None
    assert last.derived_ms == last.scaled_ms


def test_temperature_ends_where_the_papers_ends(task: Task) -> None:
    budget = replace(task.budget, epochs=5, warmup_epochs=1)
    progress, _ = run(make("tfnas"), replace(task, budget=budget))
    temperatures = [p.record.temperature for p in progress if p.record]
    assert temperatures[:2] == [None, 5.0]
    ratio = 0.96 ** (80 / 4)
    assert temperatures[2:] == pytest.approx([5 * ratio, 5 * ratio**2, 5 * ratio**3])


@pytest.mark.parametrize("kind", DEPTHS)
@pytest.mark.parametrize("width", ["greedy", "constrained", "fixed"])
def test_every_depth_and_width_choice_searches(kind: str, width: str, task: Task) -> None:
    progress, found = run(make("tfnas", depth=kind, width=width), task)
    assert found.derived.reached
    assert found.derived.subnet in task.space
    record = progress[-1].record
    assert isinstance(record, EpochRecord)
    if width == "fixed":
        initial = tuple(tuple(c.op.c_mid for c in block) for block in task.space.blocks)
        assert record.widths == initial


def skip_space() -> SearchSpace:
    return load_space("tfnas")


def test_skip_as_an_op_derives_the_blocks_that_are_left() -> None:
    space = skip_space()
    depth = SkipOp(space)
    alphas = [torch.zeros(ops) for ops in depth.ops()]
    for b, alpha in enumerate(alphas):
        alpha[b % 8] = 3.0  # block b prefers op b % 8
    skipped = [3, 7, 8]  # the middle of stage 2, and two blocks of stage 3
    for b in skipped:
        assert depth.ops()[b] == 9
        alphas[b][8] = 9.0
    widths = [[c.op.c_mid for c in block] for block in space.blocks]
    arch, order = depth.architecture([a.log_softmax(0) for a in alphas], [], widths)
    assert order[2:9] == [2, 4, 3, 5, 6, 7, 8]
    depths, picks = argmax(space, arch)
    assert depths == (2, 2, 2, 4, 4, 1)
    assert [picks[i] for i in (2, 3)] == [2, 4]
    for vector in (*arch.alphas, *arch.betas):
        assert np.exp(vector).sum() == pytest.approx(1)


def test_separated_skip_counts_gates() -> None:
    space = skip_space()
    depth = SeparatedSkip(space)
    betas = depth.betas()
    gates = depth.depths(betas)
    blocks = [b for b, gate in enumerate(gates) if isinstance(gate, torch.Tensor)]
    assert len(blocks) == 12  # all but the six first blocks of a stage
    with torch.no_grad():
        betas[blocks.index(1)].copy_(torch.tensor([0.1, 0.9]).log())
    alphas = [torch.zeros(8).log_softmax(0) for _ in space.blocks]
    arch, _ = depth.architecture(alphas, betas, [[c.op.c_mid for c in b] for b in space.blocks])
    assert argmax(space, arch)[0] == (1, 3, 4, 4, 4, 1)


def test_one_pass_sgd_is_sgd() -> None:
    """Where only some parameters have a gradient, and after a state was loaded."""
    layers = [nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 1)]
    ours = nn.ModuleList(layers).to(memory_format=torch.channels_last)
    theirs = copy.deepcopy(ours)
    sgd = momentum_sgd(ours, 0.1, 0.9, 1e-2)
    plain = torch.optim.SGD(theirs.parameters(), 0.1, 0.9, weight_decay=1e-2, foreach=False)
    x = torch.randn(2, 3, 5, 5)
    for step in range(4):
        for net, optimizer in ((ours, sgd), (theirs, plain)):
            optimizer.zero_grad()
            out = net[0](x)
            (out if step % 2 else net[1](out)).square().sum().backward()
            nn.utils.clip_grad_norm_([p for p in net.parameters() if p.grad is not None], 1.0)
            optimizer.step()
        state = sgd.state_dict()
        sgd = momentum_sgd(ours, 0.1, 0.9, 1e-2)
        sgd.load_state_dict(state)
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b)
