"""TF-NAS: three freedoms of latency-constrained differentiable search (arXiv 2008.05314).

- operation: bi-sampling trains two paths a step, so that no op starves;
- depth: sink-connecting mixes the outputs of a stage's blocks by softmax(beta);
- width: elasticity-scaling scales the derived net's mid widths to the target.

Alphas and betas live on the CPU whatever the device: sampling needs no synchronization then.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tfnas.derive import argmax, derive_constrained, derive_greedy
from tfnas.strategies.contract import EpochRecord, Found, Progress, Task
from tfnas.strategies.depth import DEPTHS, DepthSearch, on_device
from tfnas.strategies.losses import LATENCY_LOSSES
from tfnas.strategies.sampling import (
    FIRST_PATHS,
    SECOND_PATHS,
    expected_ms,
    first_path,
    gumbel_softmax,
    log_uniform,
    op_latencies,
    second_path,
)
from tfnas.strategies.training import (
    Meter,
    count,
    live,
    new_supernet,
    path_ms,
    rescale,
    weights_of,
)

PAPER_ARCH_EPOCHS = 80
WIDTHS = ("greedy", "constrained", "fixed")


@dataclass(frozen=True)
class TFNAS:
    """Knobs of the search; values and sources stand in conf/strategy/tfnas.yaml."""

    first_path: str  # gumbel | uniform
    second_path: str  # random | none | gumbel | max | min
    depth: str  # sink | skip_op | separated_skip | fixed
    width: str  # greedy | constrained | fixed: what happens to widths after each epoch
    latency_loss: str  # see tfnas/strategies/losses.py
    latency_weight: float
    temperature: float  # of the soft Gumbel weights, at the start
    temperature_decay: float  # per epoch of the paper's 80, stretched over the budget's
    arch_every: int  # one architecture step every so many weight steps
    weight_lr: float
    weight_momentum: float
    weight_decay: float
    arch_lr: float
    arch_beta1: float
    arch_beta2: float
    arch_decay: float
    clip: float  # norm of a gradient

    def check(self) -> None:
        choices = {
            "first_path": FIRST_PATHS,
            "second_path": SECOND_PATHS,
            "depth": DEPTHS,
            "width": WIDTHS,
            "latency_loss": tuple(LATENCY_LOSSES),
        }
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise ValueError(
                    f"strategy.{name}={getattr(self, name)!r}: expected one of {', '.join(known)}"
                )
        for name in ("temperature", "temperature_decay", "weight_lr", "arch_lr", "clip"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ValueError(f"strategy.{name}={getattr(self, name)}: expected above 0")
        if self.arch_every < 1:
            raise ValueError(f"strategy.arch_every={self.arch_every}: expected 1 or more")

    def run(self, task: Task) -> Iterator[Progress | Found]:
        """See `tfnas.strategies.contract.Strategy`."""
        space, budget = task.space, task.budget
        table, target_ms = task.constraints[0].table, task.constraints[0].target_ms
        generator = torch.Generator().manual_seed(task.seed)
        net = new_supernet(space, budget.channel_factor, task.seed, task.device)
        widths = [list(row) for row in net.initial_widths()]
        depth = DepthSearch(space, self.depth)
        alphas = [log_uniform(depth.ops(b)) for b in range(len(space.blocks))]
        betas = depth.betas()
        weights_sgd = torch.optim.SGD(
            net.parameters(), self.weight_lr, self.weight_momentum, weight_decay=self.weight_decay
        )
        arch_adam = torch.optim.Adam(
            [*alphas, *betas],
            self.arch_lr,
            (self.arch_beta1, self.arch_beta2),
            weight_decay=self.arch_decay,
        )
        arch_epochs = max(budget.epochs - budget.warmup_epochs, 1)
        cooling = self.temperature_decay ** (PAPER_ARCH_EPOCHS / arch_epochs)
        temperature = self.temperature
        held_out_epoch = 0
        held_out: Iterator[tuple[Tensor, Tensor]] = iter(())
        steps = budget.epochs * len(task.train)

        for epoch in range(budget.epochs):
            warm_up = epoch < budget.warmup_epochs
            lr = self.weight_lr * (1 + np.cos(np.pi * epoch / budget.epochs)) / 2
            weights_sgd.param_groups[0]["lr"] = lr
            op_ms = op_latencies(space, table, widths)
            sampled = [[0] * len(alpha) for alpha in alphas]
            meter, arch_meter = Meter(task.device), Meter(task.device)

            for index, (x, y) in enumerate(task.train.epoch(epoch)):
                x, y = x.to(task.device), y.to(task.device)
                paths = [first_path(self.first_path, alphas, generator)]
                if not warm_up and self.second_path != "none":
                    paths.append(second_path(self.second_path, paths[0], alphas, generator))
                count(sampled, paths)
                with torch.no_grad():  # weight steps give no gradient to betas
                    depths = on_device(depth.depths(betas), task.device)
                    gates = depth.gates(betas)
                stem = net.stem(x)  # shared by both paths
                logits = [net.body(stem, path, depths, widths, gates) for path in paths]
                loss = torch.stack([F.cross_entropy(out, y) for out in logits]).sum()
                weights_sgd.zero_grad(set_to_none=True)
                loss.backward()
                nn.utils.clip_grad_norm_(live(net), self.clip)
                weights_sgd.step()
                meter.add(logits[0], y, loss / len(paths))

                if not warm_up and index % self.arch_every == 0:
                    batch = next(held_out, None)
                    if batch is None:
                        held_out = task.held_out.epoch(held_out_epoch)
                        held_out_epoch += 1
                        batch = next(held_out)
                    x, y = batch[0].to(task.device), batch[1].to(task.device)
                    mix = [gumbel_softmax(alpha, temperature, generator) for alpha in alphas]
                    sinks, gates = depth.depths(betas), depth.gates(betas)
                    with net.frozen():
                        out = net(
                            x,
                            [m.to(task.device) for m in mix],
                            on_device(sinks, task.device),
                            widths,
                            gates,
                        )
                        ce = F.cross_entropy(out, y)
                        ms = expected_ms(space, table.fixed_ms(space), mix, sinks, op_ms, gates)
                        loss = LATENCY_LOSSES[self.latency_loss](
                            ce, ms.to(task.device), target_ms, self.latency_weight
                        )
                        arch_adam.zero_grad()
                        loss.backward()
                    nn.utils.clip_grad_norm_([*alphas, *betas], self.clip)
                    arch_adam.step()
                    with torch.no_grad():
                        for vector in (*alphas, *betas):
                            vector.copy_(vector.log_softmax(0))
                    arch_meter.add(out, y, ce)
                step = epoch * len(task.train) + index + 1
                yield Progress(step, steps, epoch)

            arch, order = depth.architecture(alphas, betas, widths)
            at_place = [widths[block] for block in order]  # rows shared with `widths`
            depths_now, picks = argmax(space, arch)
            derived_ms = scaled_ms = path_ms(space, table, depths_now, picks, at_place)
            if not warm_up:
                temperature *= cooling
                rescale(self.width, net, task.constraints, arch, order, widths, weights_sgd)
                scaled_ms = path_ms(space, table, depths_now, picks, at_place)
            yield Progress(
                step,
                steps,
                epoch,
                record=EpochRecord(
                    epoch=epoch,
                    train_loss=meter.loss,
                    train_top1=meter.top1,
                    held_out_top1=None if warm_up else arch_meter.top1,
                    temperature=None if warm_up else temperature / cooling,
                    learning_rate=float(lr),
                    derived_ms=derived_ms,
                    scaled_ms=scaled_ms,
                    depths=tuple(depths_now),
                    entropy=tuple(float(-(np.exp(a) * a).sum()) for a in arch.alphas),
                    op_probs=tuple(tuple(np.exp(a).tolist()) for a in arch.alphas),
                    depth_probs=tuple(tuple(np.exp(b).tolist()) for b in arch.betas),
                    sampled=tuple(tuple(row) for row in sampled),
                    widths=tuple(tuple(row) for row in widths),
                ),
            )

        arch, order = depth.architecture(alphas, betas, widths)
        if task.derive == "greedy":
            derived = derive_greedy(space, arch, task.constraints[0])
        else:
            derived = derive_constrained(space, arch, task.constraints)
        yield Found(derived, arch, weights_of(net, derived.picks, order))
