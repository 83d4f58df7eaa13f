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

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tfnas.derive.architecture import Architecture, argmax, expected_depths
from tfnas.derive.methods import derive_constrained, derive_greedy, draw_constrained
from tfnas.nets.steps import Guard, Meter, average_step, check_finite, live, to_device
from tfnas.nets.supernet import Depth, Mix
from tfnas.strategies.contract import EpochRecord, Found, Progress, State, Task
from tfnas.strategies.parts.depth import DEPTHS, DepthSearch, on_device
from tfnas.strategies.parts.losses import LATENCY_LOSSES
from tfnas.strategies.parts.sampling import (
    FIRST_PATHS,
    SECOND_PATHS,
    SOME_OPS,
    entropy,
    expected_ms,
    first_path,
    gumbel_softmax,
    log_uniform,
    op_latencies,
    probabilities,
    second_path,
    some_ops,
)
from tfnas.strategies.parts.scoring import Scores
from tfnas.strategies.parts.training import (
    Endless,
    autocast,
    check_knobs,
    cosine,
    count,
    momentum_sgd,
    new_supernet,
    rescale,
    restoring,
    some_batches,
    top1,
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
    arch_ops: int | None  # of each block, that an architecture step runs; None: all, exact
    arch_ops_by: str  # sample | top: which
    weight_lr: float
    weight_momentum: float
    weight_decay: float
    arch_lr: float
    arch_beta1: float
    arch_beta2: float
    arch_decay: float
    clip: float  # norm of a gradient
    candidates: int  # subnets that are scored before one is taken; 1: the most probable one is
    score_images: int  # held-out images for each of them

    def check(self, derive: str) -> None:
        choices = {
            "first_path": FIRST_PATHS,
            "second_path": SECOND_PATHS,
            "depth": DEPTHS,
            "width": WIDTHS,
            "latency_loss": tuple(LATENCY_LOSSES),
            "arch_ops_by": SOME_OPS,
        }
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise ValueError(
                    f"strategy.{name}={getattr(self, name)!r}: expected one of {', '.join(known)}"
                )
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
        if self.arch_ops is not None and self.arch_ops < 1:
            raise ValueError(f"strategy.arch_ops={self.arch_ops}: expected null or 1 and more")
        check_knobs(
            self,
            above_0=(
                "temperature", "temperature_decay", "weight_lr", "arch_lr", "clip", "arch_every",
                "candidates", "score_images",
            ),
            at_least_0=("latency_weight", "weight_decay", "arch_decay"),
            below_1=("weight_momentum", "arch_beta1", "arch_beta2"),
        )  # fmt: skip

    def run(self, task: Task, state: State | None = None) -> Iterator[Progress | Found]:
        """See `tfnas.strategies.contract.Strategy`."""
        budget = task.budget
        search = Search(self, task)
        if state is not None:
            with restoring():
                search.load(state)
        arch_epochs = max(budget.epochs - budget.warmup_epochs, 1)
        cooling = self.temperature_decay ** (PAPER_ARCH_EPOCHS / arch_epochs)
        trained = budget.epochs * len(task.train)
        steps = trained + (self.candidates if self.candidates > 1 else 0)

        while search.epoch < budget.epochs:
            epoch = search.epoch
            warm_up = epoch < budget.warmup_epochs
            lr = cosine(self.weight_lr, epoch, budget.epochs)
            search.weights_sgd.param_groups[0]["lr"] = lr
            for x, y in task.train.epoch(epoch, search.index):
                arch_step = not warm_up and search.index % self.arch_every == 0
                # Before any step: where it can't be read, what was done so far can be saved.
                held_out = next(search.held_out) if arch_step else None
                search.weight_step(x, y, search.paths(single=warm_up))
                if held_out is not None:
                    search.arch_step(*held_out)
                search.index += 1
                step = epoch * len(task.train) + search.index
                yield Progress(step, steps, epoch, search.state)

            record = search.end_epoch(warm_up, lr, cooling)
            yield Progress(search.epoch * len(task.train), steps, epoch, search.state, record)

        arch, order = search.architecture()
        if task.derive == "greedy":
            derived = derive_greedy(task.space, arch, task.constraints[0])
        else:
            derived = derive_constrained(task.space, arch, task.constraints)
        figures = search.spent()
        if self.candidates > 1:
            scores = Scores(search.net, task, self.score_images, known=search.scored)
            rng = np.random.default_rng(task.seed)
            for number in range(self.candidates):
                if number > 0:
                    derived = draw_constrained(task.space, arch, task.constraints, rng)
                scores.add(derived)
                if number >= search.drawn:  # by this run, not before an interruption
                    search.drawn, search.scored = number + 1, scores.values()
                    step = trained + search.drawn
                    yield Progress(step, steps, budget.epochs - 1, search.state)
            derived = scores.best()
            told = scores.figures()
            figures |= told
            figures["path_passes"] += told["scored_images"] / 3  # forward alone
        weights = weights_of(search.net, derived.picks, order, search.widths)
        yield Found(derived, arch, weights, figures)


class Search:
    """One search in the making: all that its steps read and change.

    Attributes:
        widths: of every block and op of the supernet, current.
        alphas, betas: log-probabilities; see `tfnas.strategies.parts.sampling` and `.depth`.
    """

    def __init__(self, knobs: TFNAS, task: Task):
        space = task.space
        self.knobs, self.task, self.space = knobs, task, space
        self.generator = torch.Generator().manual_seed(task.seed)
        budget = task.budget
        self.net = new_supernet(
            space, budget.channel_factor, task.seed, task.device, alike=budget.start_alike
        )
        self.widths = [list(row) for row in self.net.initial_widths()]
        self.depth = DepthSearch(space, knobs.depth)
        self.alphas = [log_uniform(self.depth.ops(b)) for b in range(len(space.blocks))]
        self.betas = self.depth.betas()
        self.temperature = knobs.temperature
        self.weights_sgd = momentum_sgd(
            self.net, knobs.weight_lr, knobs.weight_momentum, knobs.weight_decay
        )
        self.arch_adam = torch.optim.Adam(
            [*self.alphas, *self.betas],
            knobs.arch_lr,
            (knobs.arch_beta1, knobs.arch_beta2),
            weight_decay=knobs.arch_decay,
        )
        self.table, self.target_ms = task.constraints[0].table, task.constraints[0].target_ms
        self.weight_passes = self.arch_passes = 0  # images through one path, through all ops
        self.guard = Guard(task.on_nonfinite, task.seed, task.device)
        self.held_out = Endless(task.held_out)
        self.epoch = self.index = 0  # the next batch
        self.drawn, self.scored = 0, list[float]()  # candidates; top-1 of the distinct ones
        self.start_epoch()
        self.refresh_latencies()

    def start_epoch(self) -> None:
        device = self.task.device
        self.sampled = [[0] * len(alpha) for alpha in self.alphas]
        self.meter, self.arch_meter = Meter(device), Meter(device)

    def end_epoch(self, warm_up: bool, lr: float, cooling: float) -> EpochRecord:
        """Scale the widths of what would be derived now, cool down, and go on to the next epoch."""
        check_finite(self.epoch, self.meter.loss, *self.alphas, *self.betas)
        self.check_ranks(weights=list(self.net.parameters()))
        temperature = self.temperature
        arch, order = self.architecture()
        depths, picks = argmax(self.space, arch)
        derived_ms = scaled_ms = self.path_ms(order, depths, picks)
        mean_ms = self.mean_ms()
        if not warm_up:
            check_finite(self.epoch, self.arch_meter.loss)
            self.temperature *= cooling
            rescale(
                self.knobs.width, self.net, self.task.constraints, arch, order, self.widths,
                self.weights_sgd,
            )  # fmt: skip
            scaled_ms = self.path_ms(order, depths, picks)
            self.refresh_latencies()
        record = EpochRecord(
            epoch=self.epoch,
            train_loss=self.meter.loss,
            train_top1=self.meter.top1,
            held_out_top1=self.held_out_top1() if warm_up else self.arch_meter.top1,
            temperature=None if warm_up else temperature,
            learning_rate=lr,
            derived_ms=derived_ms,
            scaled_ms=scaled_ms,
            expected_ms=mean_ms,
            depths=tuple(depths),
            entropy=tuple(entropy(alpha) for alpha in self.alphas),
            op_probs=tuple(probabilities(alpha) for alpha in self.alphas),
            depth_probs=tuple(probabilities(beta) for beta in self.betas),
            expected_depths=expected_depths(self.space, arch),
            sampled=tuple(tuple(row) for row in self.sampled),
            widths=tuple(tuple(row) for row in self.widths),
        )
        self.epoch, self.index = self.epoch + 1, 0
        self.start_epoch()
        return record

    def state(self) -> State:
        """All that changes, as a checkpoint can hold it."""
        self.guard.settle()
        return {
            "net": self.net.state_dict(),
            "weights_sgd": self.weights_sgd.state_dict(),
            "arch_adam": self.arch_adam.state_dict(),
            "alphas": [alpha.detach() for alpha in self.alphas],
            "betas": [beta.detach() for beta in self.betas],
            "widths": self.widths,
            "temperature": self.temperature,
            "generator": self.generator.get_state(),
            "held_out": self.held_out.state(),
            "epoch": self.epoch,
            "index": self.index,
            "sampled": self.sampled,
            "meters": [self.meter.state(), self.arch_meter.state()],
            "passes": [self.weight_passes, self.arch_passes, self.guard.skipped],
            "drawn": self.drawn,
            "scored": self.scored,
        }

    def load(self, state: State) -> None:
        """Take over what `state` gave."""
        self.net.load_state_dict(state["net"])
        self.weights_sgd.load_state_dict(state["weights_sgd"])
        self.arch_adam.load_state_dict(state["arch_adam"])
        with torch.no_grad():
            vectors = (*self.alphas, *self.betas)
            for vector, saved in zip(vectors, (*state["alphas"], *state["betas"]), strict=True):
                vector.copy_(saved)
        self.widths = state["widths"]
        self.temperature = state["temperature"]
        self.generator.set_state(state["generator"])
        self.held_out.load(state["held_out"])
        self.epoch, self.index, self.sampled = state["epoch"], state["index"], state["sampled"]
        for meter, saved in zip((self.meter, self.arch_meter), state["meters"], strict=True):
            meter.load(saved)
        self.weight_passes, self.arch_passes, self.guard.skipped = state["passes"]
        self.drawn, self.scored = state["drawn"], state["scored"]
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
        device, ranks = self.task.device, self.task.ranks
        self.check_ranks(paths=paths)
        x, y = to_device(x, device), to_device(y, device)
        depths, gates = self.sinks()
        with autocast(self.task):
            stem = self.net.stem(x)  # shared by both paths
            logits = [self.net.body(stem, path, depths, self.widths, gates) for path in paths]
            loss = torch.stack([F.cross_entropy(out, y) for out in logits]).sum()
        self.weights_sgd.zero_grad(set_to_none=True)
        loss.backward()
        parameters = live(self.net)
        loss, hits = average_step(parameters, logits[0], y, loss, ranks)
        norm = nn.utils.clip_grad_norm_(parameters, self.knobs.clip)
        self.weight_passes += len(y) * len(paths) * ranks.size
        if self.guard.passes(loss, norm, self.epoch, self.index, "weight"):
            self.weights_sgd.step()
            count(self.sampled, paths)
            self.meter.add(loss / len(paths), hits, len(y))

    def check_ranks(self, **others: object) -> None:
        """Make sure that all ranks search the same, and do `others` the same."""
        if self.task.ranks.size > 1:
            same = {"alphas": self.alphas, "betas": self.betas, "widths": self.widths, **others}
            self.task.ranks.check_same(same)

    @torch.no_grad()
    def mean_ms(self) -> float:
        """Expected latency in ms by all probabilities, on the table."""
        mix = [alpha.softmax(0) for alpha in self.alphas]
        depths, gates = self.depth.depths(self.betas), self.depth.gates(self.betas)
        fixed_ms = self.table.fixed_ms(self.space)
        return float(expected_ms(self.space, fixed_ms, mix, depths, self.op_ms, gates))

    @torch.no_grad()
    def sinks(self) -> tuple[list[Depth], list[Tensor | None] | None]:
        """Depths and gates on the device, without a gradient."""
        depths, gates = self.depth.depths(self.betas), self.depth.gates(self.betas)
        sent = on_device([*depths, *(gates or [])], self.task.device)
        return sent[: len(depths)], None if gates is None else sent[len(depths) :]

    def arch_step(self, x: Tensor, y: Tensor) -> None:
        """One step of alphas and betas on held-out images; weights stay."""
        device, vectors = self.task.device, [*self.alphas, *self.betas]
        x, y = to_device(x, device), to_device(y, device)
        mix = [gumbel_softmax(a, self.temperature, self.generator) for a in self.alphas]
        depths, gates = self.depth.depths(self.betas), self.depth.gates(self.betas)
        fixed_ms = self.table.fixed_ms(self.space)
        with self.net.frozen():
            on = [self.run_ops(m, a) for m, a in zip(mix, self.alphas, strict=True)]
            if device.type == "cpu":
                logits = self.net(x, on, depths, self.widths, gates)
                ce = F.cross_entropy(logits, y)
                ms = expected_ms(self.space, fixed_ms, mix, depths, self.op_ms, gates)
            else:  # by one copy, the latency too, so that one brings all gradients back
                ms = expected_ms(self.space, fixed_ms, mix, depths, self.op_ms, gates)
                on, depths, gates, ms = self.sent(on, depths, gates, ms)
                with autocast(self.task):
                    logits = self.net(x, on, depths, self.widths, gates)
                    ce = F.cross_entropy(logits, y)
            loss = LATENCY_LOSSES[self.knobs.latency_loss](
                ce, ms, self.target_ms, self.knobs.latency_weight
            )
            self.arch_adam.zero_grad()
            loss.backward()
        ce, hits = average_step(vectors, logits, y, ce, self.task.ranks)
        norm = nn.utils.clip_grad_norm_(vectors, self.knobs.clip)
        norm = norm.to(device, non_blocking=True)
        self.arch_passes += len(y) * self.task.ranks.size
        if not self.guard.passes(ce, norm, self.epoch, self.index, "architecture"):
            return
        self.arch_adam.step()
        with torch.no_grad():
            for vector in vectors:
                vector.copy_(vector.log_softmax(0))
        self.arch_meter.add(ce, hits, len(y))

    def sent(
        self,
        on: Sequence[Mix],
        depths: Sequence[Depth],
        gates: Sequence[Tensor | None] | None,
        ms: Tensor,
    ) -> tuple[list[Mix], list[Depth], list[Tensor | None] | None, Tensor]:
        """The same on the device."""
        values = [*(mix.weights for mix in on), *depths, *(gates or []), ms.view(1)]
        sent = on_device(values, self.task.device)
        ops, blocks = len(on), len(on) + len(depths)
        mixes = [Mix(m.picks, w) for m, w in zip(on, sent[:ops], strict=True)]
        return mixes, sent[ops:blocks], None if gates is None else sent[blocks:-1], sent[-1][0]

    def run_ops(self, mix: Tensor, alpha: Tensor) -> Mix:
        """What an architecture step runs of a block; its latency is that of all ops anyway."""
        knobs = self.knobs
        if knobs.arch_ops is None or knobs.arch_ops >= len(mix):
            return Mix(range(len(mix)), mix)
        return some_ops(mix, alpha, knobs.arch_ops, knobs.arch_ops_by)

    def architecture(self) -> tuple[Architecture, list[int]]:
        return self.depth.architecture(self.alphas, self.betas, self.widths)

    def path_ms(self, order: Sequence[int], depths: Sequence[int], picks: Sequence[int]) -> float:
        """Latency in ms of the net that these choices derive, on the table."""
        widths = [self.widths[block][pick] for block, pick in zip(order, picks, strict=True)]
        return self.table.subnet_ms(self.space.subnet(depths, picks, widths))

    def held_out_top1(self) -> float:
        """Percent, of the most probable path on some held-out batches."""
        path = [int(alpha.argmax()) for alpha in self.alphas]
        depths, gates = self.sinks()
        ranks, batches = self.task.ranks, some_batches(self.task)
        return top1(self.net, batches, path, depths, self.widths, gates, ranks)

    def spent(self) -> dict[str, float]:
        """What the search cost, in images through the supernet, forward and backward."""
        ops = max(len(alpha) for alpha in self.alphas)
        ops = min(ops, self.knobs.arch_ops or ops)
        return {
            "weight_passes": self.weight_passes,
            "arch_passes": self.arch_passes,
            "path_passes": self.weight_passes + self.arch_passes * ops,
            "skipped_steps": self.guard.skipped,
        }
