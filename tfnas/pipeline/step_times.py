"""How long the steps of a search and of a training take here: a few are done and thrown away."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from tfnas.data.batches import reading
from tfnas.data.images import Dataset
from tfnas.files import checkpoint
from tfnas.pipeline.planner import Proxy, SearchCosts, TrainingCosts
from tfnas.process.errors import DivergedError, StoppedError
from tfnas.space.size import scaled
from tfnas.strategies.contract import Found, Strategy, Task
from tfnas.strategies.parts.evaluate import Genome
from tfnas.training.loop import TRAIN_COST, Training
from tfnas.training.recipe import Recipe

FIRST = 3  # steps that find memory, and aren't counted
LEAST_STEPS, MOST_STEPS = 8, 48  # of an epoch that is measured
PROBE_SHARE = 0.01  # of the time, for each of two epochs, for scores, and for the trainings
MOST_PROBE_S = 8.0  # for each of them
SCORES = 26
NETS = 4  # whose trainings are measured
TRIMMED = 0.1  # of the steps at either end: other work on the machine
CLEARLY = 1.5  # times too slow, by a few steps


def probe_seconds(minutes: float) -> float:
    """How long each part is measured: more than the fewest steps only where there is time."""
    return min(MOST_PROBE_S, PROBE_SHARE * 60 * minutes)


def search_costs(
    strategy: Strategy, task: Task, proxy: Proxy, most_step_s: float, probe_s: float
) -> SearchCosts | None:
    """What the strategy's steps take on a proxy; None where they are clearly too slow.

    The strategy runs as in a search, for an epoch of warm-up and one after it, on few batches.

    Args:
        task: of the search; its budget's epochs and proxy don't count.
        probe_s: see `probe_seconds`.

    Raises:
        ValueError: if the search diverges at once.
    """
    begun = time.monotonic()
    few = _probe(task, proxy, FIRST)
    times: list[float] = []
    try:
        with reading():
            last = begun
            for _, event in zip(range(FIRST), strategy.run(few), strict=False):
                last = _lap(times, last, task.device)
                del event
            step_s = min(times[1:] or times)
            if step_s > CLEARLY * most_step_s:
                return None
            batches = min(max(LEAST_STEPS, math.ceil(probe_s / step_s)), MOST_STEPS)
            return _measured(strategy, _probe(task, proxy, FIRST + batches), probe_s)
    except DivergedError as error:
        raise ValueError(str(error)) from None


def _probe(task: Task, proxy: Proxy, batches: int) -> Task:
    budget = replace(
        task.budget, epochs=2, warmup_epochs=1, resolution=proxy.resolution,
        channel_factor=proxy.channel_factor,
    )  # fmt: skip
    size = scaled(task.space.resolution, proxy.resolution)
    train = task.train.like(size, batches)
    return replace(task, budget=budget, train=train, held_out=task.held_out.like(size))


def _measured(strategy: Strategy, task: Task, probe_s: float) -> SearchCosts:
    epochs: list[list[float]] = [[]]
    ends: list[float] = []
    scores: list[float] = []
    after = 0
    last = time.monotonic()
    with TemporaryDirectory() as folder:
        for event in strategy.run(task):
            if isinstance(event, Found):
                break
            after = event.steps - 2 * len(task.train)
            if event.record is not None:
                checkpoint.write_checkpoint(Path(folder) / "search", {"search": event.state()})
                last = _lap(ends, last, task.device)
                epochs.append([])
            elif len(ends) < 2:
                last = _lap(epochs[-1], last, task.device)
            else:
                last = _lap(scores, last, task.device)
                if len(scores) >= SCORES or (len(scores) > FIRST and sum(scores) > probe_s):
                    break
            if len(ends) == 2 and after == 0:
                break
    warm_step, step = (trimmed_mean(epoch[FIRST:] or epoch) for epoch in epochs[:2])
    score = float(np.mean(scores[1:] or scores or [0.0]))  # some are asked for in batches
    once = max(0.0, epochs[0][0] - warm_step)
    if scores:
        once += max(0.0, scores[0] - score)
    return SearchCosts(once, warm_step, step, ends[-1], score, after)


def _lap(times: list[float], last: float, device: torch.device) -> float:
    """Add the seconds since `last`, when all is computed; now."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    now = time.monotonic()
    times.append(now - last)
    return now


def training_costs(
    task: Task, dataset: Dataset, recipe: Recipe, workers: int, threads: int, probe_s: float
) -> TrainingCosts:
    """What a step takes in the training of a net at the target: the mean over random ones.

    Args:
        threads: that a training has.

    Raises:
        ValueError: if no training can begin.
    """
    rng = np.random.default_rng((task.seed, 6))  # a stream of its own
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        nets = (Genome.random(task, rng).meet_target(task, rng).subnet for _ in range(NETS))
        steps = []
        for subnet in nets:
            times: list[float] = []

            def stop(times: list[float] = times) -> bool:
                times.append(time.monotonic())
                done = len(times) > FIRST + LEAST_STEPS
                return done or (len(times) > 2 * FIRST and times[-1] - times[0] > probe_s / NETS)

            with TemporaryDirectory() as folder:
                training = Training(
                    subnet, dataset, recipe, seed=task.seed, out=Path(folder),
                    device=str(task.device), workers=workers,
                )  # fmt: skip
                with suppress(StoppedError, DivergedError):
                    training.run(stop, until=1)
            laps = np.diff(times).tolist()
            steps.append(trimmed_mean(laps[FIRST:] or laps))
    finally:
        torch.set_num_threads(before)
    step = float(np.mean(steps))
    return TrainingCosts(step, step / TRAIN_COST)


def trimmed_mean(times: Sequence[float]) -> float:
    """Without the shortest and longest: a pause of the machine is no step."""
    ordered = sorted(times)
    cut = int(TRIMMED * len(ordered))
    return float(np.mean(ordered[cut : len(ordered) - cut]))
