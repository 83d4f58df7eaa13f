"""The search itself: one loop over the strategy's steps on every rank, which rank 0 writes down.

A part of `tfnas.search`.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, replace
from typing import Any

import torch

from tfnas.app import job
from tfnas.app.schemas import SearchConfig
from tfnas.costs.contract import Cost
from tfnas.data.batches import reading
from tfnas.derive.architecture import Constraint
from tfnas.files import checkpoint
from tfnas.files.atomic import write_atomically
from tfnas.latency.table import LatencyTable
from tfnas.pipeline.inputs import Inputs, Prepared, agreed_inputs
from tfnas.process.accelerator import cpu_threads
from tfnas.process.errors import StoppedError
from tfnas.process.progress import heartbeat
from tfnas.process.ranks import Ranks
from tfnas.runs.scalars import ScalarWriter, search_figures, search_scalars
from tfnas.space.search_space import SearchSpace
from tfnas.strategies.contract import EpochRecord, Found, Progress, State, Strategy, Task

log = logging.getLogger(__name__)


class Seconds(dict[str, float]):
    """Wall seconds by stage."""

    def __init__(self) -> None:
        super().__init__(profile=0.0, search=0.0, derive=0.0, loop=0.0, export=0.0, verify=0.0)
        self._last = time.monotonic()

    @property
    def since(self) -> float:
        """Seconds since the last stage was done."""
        return time.monotonic() - self._last

    def done(self, stage: str) -> None:
        """Count all since the last call (or since the start) to this stage."""
        now = time.monotonic()
        self[stage] = self.get(stage, 0.0) + now - self._last
        self._last = now


class Journal:
    """What rank 0 leaves of a search as it goes: lines, history, scalars and checkpoints.

    Args:
        latencies: their digest.
        seconds: of this run; those of `search` are saved.
    """

    def __init__(self, p: Prepared, task: Task, latencies: str, seconds: Seconds) -> None:
        self._p, self._task, self._seconds = p, task, seconds
        self._fixed = {
            "identity": p.who,
            "device": task.constraints[0].table.device.fingerprint,
            "latencies": latencies,
            "threads": torch.get_num_threads(),
        }
        self._history: list[str] = [] if p.saved is None else p.saved["history"]
        self._target_ms = task.constraints[0].target
        self._share, self._figures = 0.0, ""
        self._text = f"epoch 1/{task.budget.epochs}"
        self._saved = time.monotonic()
        write_atomically(p.folder.history, "".join(self._history))
        cfg = p.inputs.cfg
        self.scalars = ScalarWriter(
            cfg.tensorboard, p.folder.path, "search", len(self._history) + 1, cfg.trackers,
            {"target_ms": cfg.target_ms, "space": cfg.space.name, "seed": cfg.seed,
             "strategy": cfg.strategy["name"], "data": cfg.data.name, "budget": cfg.budget.name,
             "epochs": cfg.budget.epochs, "device": task.constraints[0].table.device.name},
        )  # fmt: skip

    @property
    def is_due(self) -> bool:
        """Whether the last checkpoint is as old as one may be."""
        return time.monotonic() - self._saved >= 60 * self._p.inputs.cfg.checkpoint_minutes

    def shown(self) -> AbstractContextManager[None]:
        """How far the search is, on a bar or in a line every few seconds."""
        if self._p.inputs.cfg.reuse is not None:  # there are no steps
            return nullcontext()
        return heartbeat(log, "search", lambda: (self._share, self._text), lambda: self._figures)

    def note(self, event: Progress) -> None:
        """Write down an epoch that is finished."""
        epochs = self._task.budget.epochs
        self._text = f"epoch {event.epoch + 1}/{epochs}"
        self._share = event.step / event.steps
        if (record := event.record) is None:
            return
        self._history.append(json.dumps(asdict(record), allow_nan=False) + "\n")
        with self._p.folder.history.open("a", encoding="utf-8") as lines:
            lines.write(self._history[-1])
        scalars = search_scalars(record, self._task.space, self._target_ms)
        self.scalars.add(record.epoch + 1, scalars)
        self._figures = search_figures(record, self._target_ms)
        log.info("%s", describe(record, epochs))

    def save(self, event: Progress, state: State) -> None:
        """Write a checkpoint."""
        self._saved = time.monotonic()
        values: State = {
            **self._fixed,
            "search": state,
            "history": self._history,
            "epoch": event.epoch,
            "step": event.step,
            "seconds": self._seconds["search"] + self._seconds.since,
        }
        checkpoint.write_checkpoint(self._p.folder.checkpoint, values)


def run_strategy(
    strategy: Strategy,
    task: Task,
    state: State | None = None,
    stop: Callable[[], bool] = lambda: False,
    journal: Journal | None = None,
    on_progress: Callable[[Progress], None] = lambda progress: None,
) -> Found:
    """Search to the end; of several ranks all do the same, and the one with a journal writes.

    Args:
        state: what to go on from.
        on_progress: called after every step.

    Raises:
        StoppedError: after saving, once `stop()` is true on any rank between two steps.
        DivergedError, DisagreementError, LostError, OSError: the last checkpoint is left as it is;
            an OSError for an unreadable image too.
        ValueError: for a state that makes no sense.
    """
    ranks = task.ranks
    with nullcontext() if journal is None else journal.shown(), reading():
        for event in strategy.run(task, state):
            if isinstance(event, Found):
                ranks.check_same({"the derived net": event.derived})
                ranks.leave()  # the last thing that they do together
                return event
            on_progress(event)
            if journal is not None:
                journal.note(event)
            stopped, due = ranks.any(stop(), journal is not None and journal.is_due)
            if stopped or due or event.record is not None or event.step == event.steps:
                values = event.state()  # on all ranks: it may raise for a step that diverged
                if journal is not None:
                    journal.save(event, values)
            if stopped:
                ranks.wait()  # who ended first would have rank 0 killed while it saves
                raise StoppedError
    raise AssertionError("a strategy must end with what it found")


def search(
    p: Prepared,
    space: SearchSpace,
    constraint: Constraint,
    latencies: str,
    seconds: Seconds,
    stop: Callable[[], bool],
) -> Found:
    """Give the other ranks what they need, run the strategy, and write down what it does.

    Args:
        latencies: their digest.

    Raises:
        What `run_strategy` raises.
    """
    cfg, saved, ranks = p.inputs.cfg, p.saved, p.inputs.ranks
    task = new_task(p.inputs, space, constraint)
    state: State | None = None
    if saved is not None:
        threads, state = torch.get_num_threads(), saved["search"]
        seconds["search"] += saved["seconds"]
        log.info("going on after step %d, in epoch %d", saved["step"], saved["epoch"] + 1)
        if saved["threads"] != threads:
            log.warning(
                "warning: %d threads until now, %d from here on: the result will differ in the "
                "last digits from the uninterrupted run's; cores=%d keeps them",
                saved["threads"], threads, saved["threads"],
            )  # fmt: skip
    elif cfg.resume is not None:
        log.info("no checkpoint there: the search starts anew")
    ranks.broadcast({"constraint": packed(constraint), "state": state})
    if cfg.reuse is not None:
        log.info("taking the net for %g ms by the scores in %s", cfg.target_ms, cfg.reuse)
    else:
        log.info(
            "searching with %s: %d epochs of %d steps on %s, %s px, target %g ms",
            cfg.strategy["name"],
            cfg.budget.epochs,
            len(task.train),
            task.device if ranks.size == 1 else f"{ranks.size} x {task.device.type}",
            task.train.size,
            cfg.target_ms,
        )
    journal = Journal(p, task, latencies, seconds)
    with journal.scalars:
        return run_strategy(p.inputs.strategy, task, state, stop, journal)


def follow(cfg: SearchConfig, ranks: Ranks) -> int:
    """Search with rank 0, as another rank; the exit status."""

    def begin() -> tuple[Inputs, Mapping[str, Any]]:
        mine = agreed_inputs(cfg, ranks)
        return mine, ranks.broadcast(None)

    def steps(begun: tuple[Inputs, Mapping[str, Any]], stop: Callable[[], bool]) -> None:
        mine, start = begun
        constraint = unpacked(start["constraint"])
        space = mine.spec.build(constraint.table.device.quantum)
        run_strategy(mine.strategy, new_task(mine, space, constraint), start["state"], stop)

    return job.follow(ranks, begin, steps)


def packed(constraint: Constraint) -> dict[str, Any]:
    """What `unpacked` makes a constraint of again, as it can be sent."""
    table = constraint.table
    return {**vars(constraint), "cost": [table.to_json(), table.source, table.space]}


def unpacked(values: Mapping[str, Any]) -> Constraint:
    """The constraint that was packed. Raises ValueError if it is none."""
    text, source, space = values["cost"]
    table = replace(LatencyTable.from_json(text, source), space=space)
    return Constraint(**{**values, "cost": table})


def new_task(mine: Inputs, space: SearchSpace, constraint: Constraint) -> Task:
    """What the strategy gets; the same on all ranks, but for their parts of the batches.

    The process computes with the threads that are its own from here on.
    """
    cfg = mine.cfg
    torch.set_num_threads(cpu_threads(cfg.cores, mine.ranks))
    return Task(
        space=space,
        constraints=(constraint, *mine.beside),
        train=mine.train,
        held_out=mine.held_out,
        budget=cfg.budget,
        seed=cfg.seed,
        derive=cfg.derive.method,
        device=mine.accelerator,
        on_nonfinite=cfg.on_nonfinite,
        amp=cfg.amp,
        ranks=mine.ranks,
        lesson=mine.lesson,
    )


def digest(space: SearchSpace, costs: Sequence[Cost]) -> str:
    """A digest of all costs that a search reads: a table may be measured anew meanwhile."""
    every = [
        [cost.fixed(space), *(cost.curve(c).tolist() for block in space.blocks for c in block)]
        for cost in costs
    ]
    text = json.dumps(every)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def describe(r: EpochRecord, epochs: int) -> str:
    """One line an epoch."""
    parts = [f"epoch {r.epoch + 1}/{epochs}", f"loss {r.train_loss:.3f}"]
    parts.append(f"supernet top-1 {r.train_top1:.1f} %, held out {r.held_out_top1:.1f} %")
    if r.derived_ms is not None and r.scaled_ms is not None:
        parts.append(f"derived {r.derived_ms:.2f} → {r.scaled_ms:.2f} ms")
    if r.depths:
        parts.append("depths " + " ".join(map(str, r.depths)))
    return " · ".join(parts)
