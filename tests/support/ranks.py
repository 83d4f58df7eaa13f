"""torchrun --standalone --nproc_per_node=2 -m tests.support.ranks FOLDER

What `tests.process.test_distributed` lets several processes do together: each leaves what it came
to in FOLDER/CASE_RANK.pt.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tests.strategies.test_strategies import make
from tests.support.nets import few_images, tiny_subnet
from tests.support.spaces import load_space, macs_table
from tests.test_train import recipe, stop_at
from tfnas.data.batches import Batches
from tfnas.data.images import stratified_split
from tfnas.data.sets import load_images
from tfnas.derive.architecture import Constraint
from tfnas.derive.menu import feasible_ms
from tfnas.process.errors import DisagreementError, DivergedError, StoppedError
from tfnas.process.ranks import ALONE, Ranks, join
from tfnas.strategies.contract import Budget, Found, Task
from tfnas.strategies.parts.evaluate import UniformTraining, WeightTraining
from tfnas.strategies.tfnas import TFNAS, Search
from tfnas.training.loop import Training

STEPS = 6  # of each epoch: the first one trains weights alone, the second the architecture too
LR, COOLING = 0.025, 0.9
IMAGES = few_images(train=200, test=70)  # the last test batch is of 6 images


@contextmanager
def default(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def new_task(ranks: Ranks = ALONE) -> Task:
    space = load_space("tiny")
    table = macs_table(space)
    low, high = feasible_ms(space, table)
    dataset = load_images("fashion_mnist", root="shipped", max_train=400)
    train, held_out = (
        Batches(
            dataset.train, indices, batch=32, size=16, mean=dataset.mean, std=dataset.std,
            seed=0, augment=augment, shuffle=True, drop_last=True, ranks=ranks,
        )
        for indices, augment in zip(
            stratified_split(dataset.train.labels, 0.5, 0), (True, False), strict=True
        )
    )  # fmt: skip
    return Task(
        space=space,
        constraints=(Constraint(table, (low + high) / 2),),
        train=train,
        held_out=held_out,
        budget=Budget("test", 2, 1, 32, 400, 16, 1.0, True, 0.5),
        seed=0,
        derive="constrained",
        device=torch.device("cpu"),
        ranks=ranks,
    )


def new_search(task: Task, **knobs: object) -> Search:
    # So small that every step is clipped, and so few that latencies count.
    strategy = make("tfnas", clip=0.05, latency_weight=1.0, arch_lr=0.1, **knobs)
    assert isinstance(strategy, TFNAS)
    return Search(strategy, task)


def steps(
    search: Search,
    weight_step: Callable[[Tensor, Tensor, Sequence[Sequence[int]]], None],
    arch_step: Callable[[Tensor, Tensor], None],
) -> dict[str, Any]:
    """Three epochs, the widths scaled after the last two; all that came of it."""
    records = []
    for warm_up in (True, False, False):
        batches = search.task.train.epoch(search.epoch)
        for _ in range(STEPS):
            x, y = (t.to(torch.get_default_dtype()) if t.is_floating_point() else t
                    for t in next(batches))  # fmt: skip
            weight_step(x, y, search.paths(single=warm_up))
            if not warm_up and search.index % 2 == 0:
                x, y = next(search.held_out)
                arch_step(x.to(torch.get_default_dtype()), y)
            search.index += 1
        records.append(replace(search.end_epoch(warm_up, LR, COOLING), held_out_top1=0.0))
    state = search.state()
    return {
        "net": state["net"],
        "momentum": [row["momentum_buffer"] for row in state["weights_sgd"]["state"].values()],
        "vectors": [*state["alphas"], *state["betas"]],
        "widths": state["widths"],
        "records": records,
        "passes": state["passes"],
        "architecture": search.architecture()[0].widths,
    }


def search_case(ranks: Ranks) -> dict[str, Any]:
    search = new_search(new_task(ranks))
    # Without its figures of held-out images: those come from float32 batches.
    search.held_out_top1 = lambda: 0.0  # type: ignore[method-assign]
    return steps(search, search.weight_step, search.arch_step)


class InDefaultType:
    """Batches whose images are of torch's default type."""

    def __init__(self, batches: Batches):
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        for x, y in self.batches.epoch(epoch, start):
            yield x.to(torch.get_default_dtype()), y


def new_training(out: Path, ranks: Ranks = ALONE, resume: bool = False) -> Training:
    training = Training(
        tiny_subnet(), IMAGES, recipe(ema=0.9, clip=0.5), seed=0, out=out, ranks=ranks,
        resume=resume and ranks.rank == 0,
    )  # fmt: skip
    training.train_batches = InDefaultType(training.train_batches)  # type: ignore[assignment]
    training.test_batches = InDefaultType(training.test_batches)  # type: ignore[assignment]
    return training


def trained(training: Training) -> dict[str, Any]:
    assert training.ema is not None
    rows = [replace(row, seconds=0.0) for row in training.history]
    return {
        "net": training.network.state_dict(), "ema": training.ema.state_dict(), "history": rows
    }  # fmt: skip


def training_case(ranks: Ranks, out: Path) -> dict[str, Any]:
    training = new_training(out, ranks)
    training.meet()
    training.run()
    return trained(training)


def resumed_case(ranks: Ranks, out: Path) -> dict[str, Any]:
    """Stopped by one rank alone, in the middle of an epoch."""
    training = new_training(out, ranks)
    training.meet()
    try:
        training.run(stop_at(4) if ranks.rank == 1 else lambda: False)
    except StoppedError:
        training = new_training(out, ranks, resume=True)
        training.meet()
        assert (training.epoch, training.batch) == (0, 3)
        training.run()
    return trained(training)


def random_case(ranks: Ranks) -> dict[str, Any]:
    *_, found = make("random").run(new_task(ranks))
    assert isinstance(found, Found)
    return {"derived": found.derived, "scores": found.scores}


def disagreement_case(ranks: Ranks) -> dict[str, Any]:
    search = new_search(new_task(ranks))
    if ranks.rank == 1:
        with torch.no_grad():
            search.alphas[2][0] += 1e-6
    x, y = next(search.task.train.epoch(0))
    try:
        search.weight_step(x, y, search.paths(single=True))
    except DisagreementError as error:
        return {"message": str(error)}
    return {"message": ""}


def nonfinite_case(ranks: Ranks) -> dict[str, Any]:
    """Only rank 1 has images that make the loss no number; both leave the step out."""
    search = new_search(replace(new_task(ranks), on_nonfinite="skip"))
    for index, (x, y) in enumerate(search.task.train.epoch(0)):
        bad = x.fill_(torch.nan) if ranks.rank == 1 and index == 1 else x
        search.weight_step(bad, y, search.paths(single=True))
        if index == 2:
            break
    return {
        "skipped": search.guard.skipped,
        "net": search.net.state_dict(),
        "loss": search.meter.loss,
    }


def diverged_case(ranks: Ranks) -> dict[str, Any]:
    """Only rank 1 has such images; both end at that step."""
    search = new_search(new_task(ranks))
    try:
        for index, (x, y) in enumerate(search.task.train.epoch(0)):
            bad = x.fill_(torch.nan) if ranks.rank == 1 and index == 1 else x
            search.weight_step(bad, y, search.paths(single=True))
            search.index += 1
    except DivergedError as error:
        return {"message": str(error)}
    return {"message": ""}


def unequal_case(ranks: Ranks) -> dict[str, Any]:
    """Weights that part are found at the epoch's end where no probabilities are learned."""
    training = UniformTraining(new_task(ranks), WeightTraining(LR, 0.9, 0.0, 5.0))
    if ranks.rank == 1:
        with torch.no_grad():
            next(training.net.parameters()).add_(1e-6)
    try:
        list(training.run(0, dict))
    except DisagreementError as error:
        return {"message": str(error), "epoch": training.epoch}
    return {"message": "", "epoch": training.epoch}


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    ranks = join()
    cases: dict[str, Callable[[], dict[str, Any]]] = {
        "search": lambda: search_case(ranks),
        "training": lambda: training_case(ranks, folder / "whole"),
        "resumed": lambda: resumed_case(ranks, folder / "stopped"),
        "random": lambda: random_case(ranks),
        "disagreement": lambda: disagreement_case(ranks),
        "nonfinite": lambda: nonfinite_case(ranks),
        "diverged": lambda: diverged_case(ranks),
        "unequal": lambda: unequal_case(ranks),
    }
    for name, case in cases.items():
        torch.save(case(), folder / f"{name}_{ranks.rank}.pt")
    with default(torch.float64):
        torch.save(search_case(ranks), folder / f"search64_{ranks.rank}.pt")
        content = training_case(ranks, folder / "whole64")
        torch.save(content, folder / f"training64_{ranks.rank}.pt")
    ranks.leave()
    names = [(task / "comm").read_text().strip() for task in Path("/proc/self/task").iterdir()]
    torch.save(names, folder / f"threads_{ranks.rank}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
