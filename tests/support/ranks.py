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

from tests.support import searches
from tests.support.nets import few_images, tiny_subnet
from tests.support.searches import make
from tests.test_train import recipe, stop_at
from tfnas.data.batches import Batches
from tfnas.process.errors import DisagreementError, DivergedError, StoppedError
from tfnas.process.ranks import ALONE, Ranks, join
from tfnas.strategies.contract import Found, Task
from tfnas.strategies.parts.evaluate import SampledSearch
from tfnas.strategies.parts.training import WeightKnobs
from tfnas.strategies.tfnas import Search
from tfnas.training.loop import Training

STEPS = 6  # of each epoch: the first one trains weights alone, the second the architecture too
COOLING = 0.9
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
    return searches.new_task(ranks, arch_fraction=0.5)


def new_search(task: Task, **knobs: object) -> Search:
    # So small that every step is clipped, and so few that latencies count.
    search = searches.new_search(task, clip=0.05, latency_weight=1.0, arch_lr=0.1, **knobs)
    search.cooling = COOLING
    return search


def steps(
    search: Search,
    weight_step: Callable[[Tensor, Tensor, Sequence[Sequence[int]]], None],
    arch_step: Callable[[Tensor, Tensor], None],
) -> dict[str, Any]:
    """Three epochs, the widths scaled after the last two; all that came of it."""
    records = []
    for warm_up in (True, False, False):
        batches = search.task.train.epoch(search.weights.epoch)
        for _ in range(STEPS):
            x, y = (t.to(torch.get_default_dtype()) if t.is_floating_point() else t
                    for t in next(batches))  # fmt: skip
            weight_step(x, y, search.paths(single=warm_up))
            if not warm_up and search.weights.index % 2 == 0:
                x, y = next(search.held_out)
                arch_step(x.to(torch.get_default_dtype()), y)
            search.weights.index += 1
        records.append(replace(search.end_epoch(warm_up), held_out_top1=0.0))
    state = search.state()
    weights = state["weights"]
    return {
        "net": weights["net"],
        "momentum": [row["momentum_buffer"] for row in weights["sgd"]["state"].values()],
        "vectors": [*state["alphas"], *state["betas"]],
        "widths": state["widths"],
        "records": records,
        "passes": [weights["passes"], state["arch_passes"], weights["guard"]["skipped"]],
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
        "skipped": search.weights.guard.skipped,
        "net": search.net.state_dict(),
        "loss": search.weights.meter.loss,
    }


def diverged_case(ranks: Ranks) -> dict[str, Any]:
    """Only rank 1 has such images; both end at that step."""
    search = new_search(new_task(ranks))
    try:
        for index, (x, y) in enumerate(search.task.train.epoch(0)):
            bad = x.fill_(torch.nan) if ranks.rank == 1 and index == 1 else x
            search.weight_step(bad, y, search.paths(single=True))
            search.weights.index += 1
    except DivergedError as error:
        return {"message": str(error)}
    return {"message": ""}


def unequal_case(ranks: Ranks) -> dict[str, Any]:
    """Weights that part are found at the epoch's end where no probabilities are learned."""
    search = SampledSearch(new_task(ranks), WeightKnobs(0.025, 0.9, 0.0, 5.0), images=64, then=0)
    if ranks.rank == 1:
        with torch.no_grad():
            next(search.net.parameters()).add_(1e-6)
    try:
        list(search.train())
    except DisagreementError as error:
        return {"message": str(error), "epoch": search.weights.epoch}
    return {"message": "", "epoch": search.weights.epoch}


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
