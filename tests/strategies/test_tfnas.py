"""One step of TF-NAS at a time, against hand-made recomputation."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from tests.strategies.test_strategies import run
from tests.support.searches import make, new_search
from tfnas.derive.architecture import argmax
from tfnas.derive.scaling import scale_widths
from tfnas.strategies.contract import Task
from tfnas.strategies.parts.sampling import gumbel_softmax


def batch(task: Task) -> tuple[torch.Tensor, torch.Tensor]:
    return next(iter(task.held_out.epoch(0)))


def test_an_arch_step_by_hand(task: Task) -> None:
    search = new_search(task)
    x, y = batch(task)
    knobs, space = search.knobs, search.space
    vectors = [v.detach().clone() for v in (*search.alphas, *search.betas)]

    # The same noise, and the loss from plain loops.
    generator = torch.Generator()
    generator.set_state(search.generator.get_state())
    leaves = [v.clone().requires_grad_() for v in vectors]
    alphas, betas = leaves[: len(search.alphas)], leaves[len(search.alphas) :]
    mix = [gumbel_softmax(a, knobs.temperature, generator) for a in alphas]
    sinks = [b.softmax(0) for b in betas]
    logits = search.net(x, mix, sinks, search.widths)
    latency, b = torch.tensor(search.table.fixed(space)), 0
    for stage, sink in zip(space.stages, sinks, strict=True):
        so_far = torch.zeros(())
        for depth in range(1, len(stage.blocks) + 1):
            for i, choice in enumerate(space.blocks[b]):
                so_far = so_far + mix[b][i] * search.table.ms(choice.at(search.widths[b][i]))
            if depth in stage.depths:
                latency = latency + sink[stage.depths.index(depth)] * so_far
            b += 1
    loss = F.cross_entropy(logits, y)
    loss = loss + knobs.latency_weight * (latency / search.target_ms - 1).abs()
    gradients = torch.autograd.grad(loss, leaves)
    norm = torch.sqrt(sum((g**2).sum() for g in gradients))  # type: ignore[arg-type]
    clipped = [g * min(1.0, knobs.clip / (float(norm) + 1e-6)) for g in gradients]
    # Adam's first step moves by lr * g / (|g| + eps), with its weight decay inside g.
    expected = []
    for vector, g in zip(vectors, clipped, strict=True):
        full = g + knobs.arch_decay * vector
        stepped = vector - knobs.arch_lr * full / (full.abs() + 1e-8)
        expected.append(stepped.log_softmax(0))

    before = [p.detach().clone() for p in search.net.parameters()]
    search.arch_step(x, y)
    for got, wanted in zip((*search.alphas, *search.betas), expected, strict=True):
        torch.testing.assert_close(got.detach(), wanted, rtol=1e-4, atol=1e-5)
    assert all(torch.equal(a, p) for a, p in zip(before, search.net.parameters(), strict=True))


def test_arch_gradients_are_clipped(task: Task) -> None:
    search = new_search(task, clip=1e-3)
    search.arch_step(*batch(task))
    vectors = [*search.alphas, *search.betas]
    norm = math.sqrt(sum(float((v.grad**2).sum()) for v in vectors if v.grad is not None))
    assert norm == pytest.approx(1e-3, rel=1e-2)


@pytest.mark.parametrize("kind", ["sample", "top"])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_an_arch_step_over_some_ops_runs_those_only(count: int, kind: str, task: Task) -> None:
    """The others learn from the latency alone."""
    search = new_search(task, arch_ops=count, arch_ops_by=kind)
    ran: set[tuple[int, int]] = set()
    for b, block in enumerate(search.space.blocks):
        for i in range(len(block)):
            op = search.net.candidate(b, i)
            op.branch = _noting(op.branch, ran, (b, i))  # type: ignore[method-assign]
    search.arch_step(*batch(task))
    assert len(ran) == count * len(search.space.blocks)
    assert all(a.grad is not None and bool((a.grad != 0).all()) for a in search.alphas)
    assert search.spent()["path_passes"] == count * task.held_out.batch
    whole = new_search(task, arch_ops=99)
    exact = new_search(task)
    for each in (whole, exact):
        each.arch_step(*batch(task))
    assert all(torch.equal(a, b) for a, b in zip(whole.alphas, exact.alphas, strict=True))


def _noting(  # type: ignore[no-untyped-def]
    branch: Callable[..., torch.Tensor], ran: set[tuple[int, int]], name: tuple[int, int]
):
    def noting(*arguments: object) -> torch.Tensor:
        ran.add(name)
        return branch(*arguments)

    return noting


def test_a_weight_step_trains_both_paths_and_nothing_else(task: Task) -> None:
    search = new_search(task)
    x, y = batch(task)
    paths = [[0, 1, 2, 3], [1, 2, 3, 0]]
    vectors = [v.detach().clone() for v in (*search.alphas, *search.betas)]
    before = {name: p.detach().clone() for name, p in search.net.named_parameters()}
    search.weight_step(x, y, paths)
    trained = {(b, path[b]) for path in paths for b in range(4)}
    for name, parameter in search.net.named_parameters():
        parts = name.split(".")
        moved = not torch.equal(before[name], parameter)
        if parts[0] == "blocks":
            assert moved == ((int(parts[1]), int(parts[2])) in trained), name
        else:
            assert moved, name
    for old, new in zip(vectors, (*search.alphas, *search.betas), strict=True):
        assert torch.equal(old, new)
        assert new.grad is None


def test_weight_step_is_momentum_sgd_on_the_clipped_sum_of_losses(task: Task) -> None:
    search = new_search(task, clip=0.5)
    x, y = batch(task)
    paths = [[0, 0, 0, 0], [1, 1, 1, 1]]
    depths = [beta.detach().softmax(0) for beta in search.betas]
    losses = [F.cross_entropy(search.net(x, p, depths, search.widths), y) for p in paths]
    parameters = list(search.net.parameters())
    gradients = torch.autograd.grad(losses[0] + losses[1], parameters, allow_unused=True)
    norm = math.sqrt(sum(float((g**2).sum()) for g in gradients if g is not None))
    factor = min(1.0, 0.5 / (norm + 1e-6))
    knobs = search.knobs
    expected = [
        p.detach() if g is None
        else p.detach() - knobs.weight_lr * (g * factor + knobs.weight_decay * p.detach())
        for p, g in zip(parameters, gradients, strict=True)
    ]  # fmt: skip
    search.weight_step(x, y, paths)
    for got, wanted in zip(parameters, expected, strict=True):
        torch.testing.assert_close(got.detach(), wanted, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("every", [1, 2, 3])
def test_arch_steps_come_every_so_many_weight_steps(every: int, task: Task) -> None:
    _, found = run(make("tfnas", arch_every=every), task)
    steps = math.ceil(len(task.train) / every)  # of the one epoch after the warm-up
    assert found.scores["arch_passes"] == steps * task.held_out.batch


def test_learning_rate_is_a_cosine_over_epochs(task: Task) -> None:
    budget = replace(task.budget, epochs=4, warmup_epochs=4)
    progress, _ = run(make("tfnas"), replace(task, budget=budget))
    rates = [p.record.learning_rate for p in progress if p.record is not None]
    lr = 0.025
    assert rates == pytest.approx([lr * (1 + math.cos(math.pi * e / 4)) / 2 for e in range(4)])


def test_rescale_changes_kept_ops_only_and_reorders_those(task: Task) -> None:
    search = new_search(task)
    with torch.no_grad():
        search.betas[1].copy_(torch.tensor([0.9, 0.1]).log())  # block 3 is cut off
        for b, alpha in enumerate(search.alphas):
            alpha[b] += 2.0
    search.weight_step(*batch(task), [[0, 1, 2, 3]])
    arch, order = search.architecture()
    depths, picks = argmax(search.space, arch)
    assert list(picks) == [0, 1, 2, 3]
    old = [list(row) for row in search.widths]
    current = [old[b][picks[b]] for b in range(4)]
    high = 1.5 * search.path_ms(order, depths, picks)
    wanted = scale_widths(search.space, search.table, depths, picks, current, high)
    before = {
        (b, i): search.net.candidate(b, i).depthwise.weight.detach().clone()
        for b in range(4)
        for i in range(4)
    }
    search.target_ms = high
    search.rescale(arch, order)
    for b in range(4):
        for i in range(4):
            new = wanted[b] if i == picks[b] else old[b][i]
            assert search.widths[b][i] == new
            weight = search.net.candidate(b, i).depthwise.weight
            assert torch.equal(weight, before[b, i]) == (new == old[b][i])
    assert search.widths[3] == old[3]
    assert any(search.widths[b] != old[b] for b in range(3))
    fixed = [list(row) for row in search.widths]
    search.knobs = replace(search.knobs, width="fixed")
    search.rescale(arch, order)
    assert search.widths == fixed
