"""TF-NAS: three freedoms of latency-constrained differentiable search (arXiv 2008.05314).

- operation: bi-sampling trains two paths a step, so that no op starves;
- depth: sink-connecting mixes the outputs of a stage's blocks by softmax(beta);
- width: elasticity-scaling scales the derived net's mid widths to the target.

Alphas and betas live on the CPU whatever the device: sampling needs no synchronization then. On a
GPU a weight step waits for nothing, and an architecture step once, for their gradients.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from tfnas.derive.architecture import Architecture, argmax, expected_depths
from tfnas.derive.methods import derive_constrained, derive_greedy, draw_constrained
from tfnas.derive.scaling import scale_widths
from tfnas.files.state import fitting, restore, state_of
from tfnas.nets.steps import Meter, guarded_step, loss_and_hits, to_device
from tfnas.nets.supernet import Depth, Depths, Mix
from tfnas.process.checks import (
    ABOVE_0,
    AT_LEAST_0,
    FROM_0_BELOW_1,
    Allowed,
    check_fields,
    one_of,
)
from tfnas.strategies.contract import Candidate, EpochRecord, Found, Progress, State, Task
from tfnas.strategies.parts.depth import on_device
from tfnas.strategies.parts.losses import LATENCY_LOSSES
from tfnas.strategies.parts.sampling import (
    FIRST_PATHS,
    SECOND_PATHS,
    SOME_OPS,
    entropy,
    first_path,
    gumbel_softmax,
    log_uniform,
    op_latencies,
    probabilities,
    second_path,
    some_ops,
)
from tfnas.strategies.parts.scoring import Scores
from tfnas.strategies.parts.skips import DEPTHS
from tfnas.strategies.parts.training import (
    Endless,
    WeightKnobs,
    WeightTraining,
    autocast,
    check_finite,
    weights_of,
)

PAPER_ARCH_EPOCHS = 80
NULL_OR_1 = Allowed("null or 1 and more", lambda v: v >= 1)


@dataclass(frozen=True)
class TFNAS(WeightKnobs):
    """Knobs of the search; values and sources stand in conf/strategy/tfnas.yaml."""

    first_path: Annotated[str, one_of(FIRST_PATHS)]
    second_path: Annotated[str, one_of(SECOND_PATHS)]
    depth: Annotated[str, one_of(DEPTHS)]
    # What happens to widths after each epoch.
    width: Annotated[str, one_of(("greedy", "constrained", "fixed"))]
    latency_loss: Annotated[str, one_of(LATENCY_LOSSES)]
    latency_weight: Annotated[float, AT_LEAST_0]
    temperature: Annotated[float, ABOVE_0]  # of the soft Gumbel weights, at the start
    # Per epoch of the paper's 80, stretched over the budget's.
    temperature_decay: Annotated[float, ABOVE_0]
    arch_every: Annotated[int, ABOVE_0]  # one architecture step every so many weight steps
    # Of each block, that an architecture step runs; null: all, exact.
    arch_ops: Annotated[int | None, NULL_OR_1]
    arch_ops_by: Annotated[str, one_of(SOME_OPS)]  # which
    arch_lr: Annotated[float, ABOVE_0]
    arch_beta1: Annotated[float, FROM_0_BELOW_1]
    arch_beta2: Annotated[float, FROM_0_BELOW_1]
    arch_decay: Annotated[float, AT_LEAST_0]
    # Subnets that are scored before one is taken; 1: the most probable one is.
    candidates: Annotated[int, ABOVE_0]
    score_images: Annotated[int, ABOVE_0]  # held-out images for each of them

    def check(self, derive: str) -> None:
        check_fields("strategy", self)
        if self.candidates > 1 and self.depth not in ("sink", "fixed"):
            raise ValueError(
                f"strategy.depth={self.depth}: its supernet can't score subnets of other depths; "
                f"give strategy.candidates=1 instead of {self.candidates}"
            )
        if self.candidates > 1 and derive == "greedy":
            raise ValueError(
                "derive=greedy takes the most probable subnet: give strategy.candidates=1 instead "
                f"of {self.candidates}"
            )

    def run(self, task: Task, state: State | None = None) -> Iterator[Progress | Found]:
        """See `tfnas.strategies.contract.Strategy`."""
        search = Search(self, task)
        if state is not None:
            search.load(state)
        weights = search.weights
        for epoch, batches in weights.epochs():
            warm_up = epoch < task.budget.warmup_epochs
            for x, y in batches:
                arch_step = not warm_up and weights.index % self.arch_every == 0
                # Before any step: where it can't be read, what was done so far can be saved.
                held_out = next(search.held_out) if arch_step else None
                # Operation level: the weights of two paths that share no op; of one in the warm-up.
                search.weight_step(x, y, search.paths(single=warm_up))
                if held_out is not None:
                    # Depth level: alphas and betas, by accuracy and expected latency of all depths.
                    search.arch_step(*held_out)
                weights.index += 1
                yield weights.progress(search.state)
            # Width level: the widths of what would be derived now are scaled to the target.
            record = search.end_epoch(warm_up)
            yield weights.progress(search.state, record)

        arch, order = search.architecture()
        if task.derive == "greedy":
            derived = derive_greedy(task.space, arch, task.constraints[0])
        else:
            derived = derive_constrained(task.space, arch, task.constraints)
        figures = search.spent()
        candidates: tuple[Candidate, ...] = ()
        if self.candidates > 1:
            while search.drawn < self.candidates:
                if search.drawn > 0:
                    derived = draw_constrained(task.space, arch, task.constraints, search.rng)
                search.scores.add(derived)
                search.drawn += 1
                yield weights.progress(search.state, after=search.drawn)
            candidates = search.scores.candidates()
            derived = candidates[0].derived
            figures |= search.scores.figures()
            figures["path_passes"] += figures["scored_images"] / 3  # forward alone
        extract = weights_of(search.net, derived.picks, order, search.widths)
        yield Found(derived, arch, extract, figures, candidates)


class Search:
    """One search in the making: all that its steps read and change.

    Attributes:
        weights: the training of the supernet `net`.
        alphas, betas: log-probabilities; see `tfnas.strategies.parts.sampling` and `.depth`.
        widths: of every block and op of the supernet, current.
        op_ms: latencies at these widths, see `refresh_latencies`.
        arch_passes: images through all ops so far.
        rng: what candidates are drawn with.
        drawn, scores: how many candidates so far, and what the distinct ones are worth.
    """

    STATE = (
        "weights", "arch_adam", "alphas", "betas", "widths", "temperature", "generator",
        "held_out", "arch_meter", "arch_passes", "rng", "drawn", "scores",
    )  # fmt: skip

    def __init__(self, knobs: TFNAS, task: Task):
        self.knobs, self.task, self.space = knobs, task, task.space
        self.table, self.target_ms = task.constraints[0].table, task.constraints[0].target
        budget, self.depth = task.budget, DEPTHS[knobs.depth](self.space)
        then = knobs.candidates if knobs.candidates > 1 else 0
        self.weights = WeightTraining(task, knobs, self.depth.supernet, self.depth.ops(), then)
        self.net = self.weights.net
        self.alphas = tuple(log_uniform(ops) for ops in self.depth.ops())
        self.betas = self.depth.betas()
        self.arch_adam = torch.optim.Adam(
            [*self.alphas, *self.betas],
            knobs.arch_lr,
            (knobs.arch_beta1, knobs.arch_beta2),
            weight_decay=knobs.arch_decay,
        )
        self.widths = [list(row) for row in self.net.initial_widths()]
        self.refresh_latencies()
        arch_epochs = max(budget.epochs - budget.warmup_epochs, 1)
        self.temperature = knobs.temperature
        self.cooling = knobs.temperature_decay ** (PAPER_ARCH_EPOCHS / arch_epochs)
        self.generator = torch.Generator().manual_seed(task.seed)
        self.held_out = Endless(task.held_out)
        self.arch_meter = Meter(task.device)
        self.arch_passes = self.drawn = 0
        self.rng = np.random.default_rng(task.seed)
        self.scores = Scores(self.net, task, knobs.score_images)

    def state(self) -> State:
        """All that changes, as a checkpoint can hold it. Raises DivergedError."""
        self.weights.guard.settle()
        return state_of(self)

    def load(self, state: State) -> None:
        """Take over what `state` gave. Raises ValueError if it can't be this search's."""
        with fitting("the saved state doesn't fit this search"):
            restore(self, state)
            self.refresh_latencies()

    def refresh_latencies(self) -> None:
        """Read the table anew, after widths have changed."""
        self.op_ms = op_latencies(self.space, self.table, self.widths)

    def paths(self, single: bool) -> list[list[int]]:
        """The ops that the next weight step trains: one path, or two that share no op."""
        paths = [first_path(self.knobs.first_path, self.alphas, self.generator)]
        if not single and self.knobs.second_path != "none":
            kind = self.knobs.second_path
            paths.append(second_path(kind, paths[0], self.alphas, self.generator))
        return paths

    def weight_step(self, x: Tensor, y: Tensor, paths: Sequence[Sequence[int]]) -> None:
        """One step of the weights on the sum of the paths' losses; alphas and betas stay."""
        self.check_ranks(paths=paths)
        x, y = to_device(x, self.task.device), to_device(y, self.task.device)
        depths = self.sinks()
        with autocast(self.task):
            stem = self.net.stem(x)  # shared by both paths
            logits = [self.net.body(stem, path, depths, self.widths) for path in paths]
            loss = self.weights.loss(x, y, logits)
        self.weights.step(loss, logits[0], y, paths)

    def arch_step(self, x: Tensor, y: Tensor) -> None:
        """One step of alphas and betas on held-out images; weights stay."""
        knobs, task, weights = self.knobs, self.task, self.weights
        x, y = to_device(x, task.device), to_device(y, task.device)
        mix = [gumbel_softmax(a, self.temperature, self.generator) for a in self.alphas]
        depths = self.depth.depths(self.betas)
        ms = self.expected_ms(mix, depths)
        with self.net.frozen():
            run = [self.run_ops(m, a) for m, a in zip(mix, self.alphas, strict=True)]
            run, depths, ms = self.sent(run, depths, ms)
            with autocast(task):
                logits = self.net(x, run, depths, self.widths)
                ce = F.cross_entropy(logits, y)
            latency_loss = LATENCY_LOSSES[knobs.latency_loss]
            loss = latency_loss(ce, ms, self.target_ms, knobs.latency_weight)
            figures, where = loss_and_hits(ce, logits, y), weights.where("architecture")
            self.arch_passes += len(y) * task.ranks.size
            if not guarded_step(
                self.arch_adam, loss, figures, weights.guard, where,
                clip=knobs.clip, ranks=task.ranks,
            ):  # fmt: skip
                return
        with torch.no_grad():
            for vector in (*self.alphas, *self.betas):
                vector.copy_(vector.log_softmax(0))
        self.arch_meter.add(figures[0], figures[1], len(y))

    def run_ops(self, mix: Tensor, alpha: Tensor) -> Mix:
        """What an architecture step runs of a block; its latency is that of all ops anyway."""
        knobs = self.knobs
        if knobs.arch_ops is None or knobs.arch_ops >= len(mix):
            return Mix(range(len(mix)), mix)
        return some_ops(mix, alpha, knobs.arch_ops, knobs.arch_ops_by)

    def sent(
        self, run: Sequence[Mix], depths: Depths, ms: Tensor
    ) -> tuple[list[Mix], list[Depth], Tensor]:
        """The same on the device, by one copy, so that one brings all gradients back."""
        values = [*(mix.weights for mix in run), *depths, ms.view(1)]
        *vectors, sent_ms = on_device(values, self.task.device)
        mixes = [Mix(mix.picks, sent) for mix, sent in zip(run, vectors, strict=False)]
        return mixes, vectors[len(run) :], sent_ms[0]

    @torch.no_grad()
    def sinks(self) -> list[Depth]:
        """Depths on the device, without a gradient."""
        return on_device(self.depth.depths(self.betas), self.task.device)

    def expected_ms(self, mix: Sequence[Tensor], depths: Depths) -> Tensor:
        """Expected latency in ms, a scalar, by the table."""
        return self.depth.expected_ms(self.table.fixed(self.space), mix, depths, self.op_ms)

    def check_ranks(self, **others: object) -> None:
        """Make sure that all ranks search the same, and do `others` the same."""
        same = {"alphas": self.alphas, "betas": self.betas, "widths": self.widths, **others}
        self.task.ranks.check_same(same)

    def end_epoch(self, warm_up: bool) -> EpochRecord:
        """Scale the widths of what would be derived now, cool down, and go on to the next epoch."""
        weights, space = self.weights, self.space
        check_finite(weights.epoch, weights.meter.loss, *self.alphas, *self.betas)
        self.check_ranks(weights=list(self.net.parameters()))
        temperature, mean_ms = self.temperature, self.mean_ms()
        arch, order = self.architecture()
        depths, picks = argmax(space, arch)
        derived_ms = self.path_ms(order, depths, picks)
        if not warm_up:
            check_finite(weights.epoch, self.arch_meter.loss)
            self.temperature *= self.cooling
            self.rescale(arch, order)
        record = EpochRecord(
            epoch=weights.epoch,
            train_loss=weights.meter.loss,
            train_top1=weights.meter.top1,
            held_out_top1=self.held_out_top1() if warm_up else self.arch_meter.top1,
            temperature=None if warm_up else temperature,
            learning_rate=weights.lr,
            derived_ms=derived_ms,
            scaled_ms=self.path_ms(order, depths, picks),
            expected_ms=mean_ms,
            depths=tuple(depths),
            entropy=tuple(entropy(alpha) for alpha in self.alphas),
            op_probs=tuple(probabilities(alpha) for alpha in self.alphas),
            depth_probs=tuple(probabilities(beta) for beta in self.betas),
            expected_depths=expected_depths(space, arch),
            sampled=tuple(tuple(row) for row in weights.sampled),
            widths=tuple(tuple(row) for row in self.widths),
        )
        weights.end_epoch()
        self.arch_meter = Meter(self.task.device)
        return record

    def rescale(self, arch: Architecture, order: Sequence[int]) -> None:
        """Scale the widths of the argmax net to the target (TF-NAS, width level).

        Only ops of kept blocks change width; those that do pick their channels anew.

        Args:
            arch, order: what `architecture` gives.
        """
        if self.knobs.width == "fixed":
            return
        space, constraints = self.space, self.task.constraints
        depths, picks = argmax(space, arch)
        current = [row[pick] for row, pick in zip(arch.widths, picks, strict=True)]
        scaled = scale_widths(space, self.table, depths, picks, current, self.target_ms)
        if self.knobs.width == "constrained":  # the same, then on to the exact target
            derived = derive_constrained(space, arch, constraints)
            if (derived.depths, derived.picks) == (depths, picks):
                scaled = derived.widths
        for block, pick, old, new in zip(order, picks, current, scaled, strict=True):
            if new != old:
                self.net.order_channels(block, pick, self.weights.sgd)
                self.widths[block][pick] = new
        self.refresh_latencies()

    def architecture(self) -> tuple[Architecture, list[int]]:
        """What was learned, and which block stands at each of its places."""
        return self.depth.architecture(self.alphas, self.betas, self.widths)

    def path_ms(self, order: Sequence[int], depths: Sequence[int], picks: Sequence[int]) -> float:
        """Latency in ms of the net that these choices derive, on the table."""
        widths = [self.widths[block][pick] for block, pick in zip(order, picks, strict=True)]
        return self.table.total(self.space.subnet(depths, picks, widths))

    @torch.no_grad()
    def mean_ms(self) -> float:
        """Expected latency in ms by all probabilities."""
        mix = [alpha.softmax(0) for alpha in self.alphas]
        return float(self.expected_ms(mix, self.depth.depths(self.betas)))

    def held_out_top1(self) -> float:
        """Top-1 of the most probable path on some held-out batches, percent."""
        path = [int(alpha.argmax()) for alpha in self.alphas]
        return self.weights.held_out_top1(path, self.sinks(), self.widths)

    def spent(self) -> dict[str, float]:
        """What the search cost, in images through the supernet, forward and backward."""
        ops = max(len(alpha) for alpha in self.alphas)
        ops = min(ops, self.knobs.arch_ops or ops)
        return {
            "weight_passes": self.weights.passes,
            "arch_passes": self.arch_passes,
            "path_passes": self.weights.passes + self.arch_passes * ops,
            "skipped_steps": self.weights.guard.skipped,
        }
