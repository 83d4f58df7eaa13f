"""The search itself: running the strategy, on one process or on several.

What it yields is logged and written down as it comes; what other ranks than 0 do stands beside it.
A part of `tfnas.search`.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from typing import Any

import torch

from tfnas.app.schemas import SearchConfig
from tfnas.data.batches import Batches, reading
from tfnas.derive.architecture import Constraint
from tfnas.files import checkpoint
from tfnas.files.atomic import write_atomically
from tfnas.latency.table import LatencyTable
from tfnas.pipeline.folder import CHECKPOINT
from tfnas.pipeline.inputs import Inputs, Prepared, check_start, inputs
from tfnas.process.accelerator import cpu_threads
from tfnas.process.errors import DisagreementError, DivergedError, LostError, StoppedError
from tfnas.process.exits import DONE, FAILED, INTERRUPTED
from tfnas.process.progress import heartbeat
from tfnas.process.ranks import Ranks
from tfnas.process.stopping import stop_on_signals
from tfnas.runs.history import HISTORY
from tfnas.runs.scalars import ScalarWriter, search_figures, search_scalars
from tfnas.space.search_space import SearchSpace
from tfnas.strategies.contract import EpochRecord, Found, Progress, State, Task

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
        """All since the last call (or since the start) was this stage's."""
        now = time.monotonic()
        self[stage] += now - self._last
        self._last = now


def search(
    p: Prepared,
    space: SearchSpace,
    constraint: Constraint,
    seconds: Seconds,
    latencies: str,
    stop: Callable[[], bool],
) -> Found:
    """Run the strategy, log it, write its history and its checkpoints as it goes.

    Args:
        latencies: their digest.

    Raises:
        StoppedError: after saving, once `stop()` is true between two steps.
        DivergedError, DisagreementError, LostError, OSError: the last checkpoint is left as it is.
        ValueError: for a checkpoint that makes no sense, or an unreadable image.
    """
    cfg, out, saved, ranks = p.cfg, p.out, p.saved, p.ranks
    threads = cpu_threads(cfg.cores, os.cpu_count() or 1, ranks)
    torch.set_num_threads(threads)
    task = new_task(cfg, space, constraint, (p.train, p.held_out), p.accelerator, ranks)
    state: State | None = None
    history: list[str] = []
    if saved is not None:
        state, history = saved["search"], saved["history"]
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
    ranks.told({"constraint": packed(constraint), "latencies": latencies, "state": state})
    log.info(
        "searching with %s: %d epochs of %d steps on %s, %d px, target %g ms",
        cfg.strategy["name"],
        cfg.budget.epochs,
        len(task.train),
        task.device if ranks.size == 1 else f"{ranks.size} x {task.device.type}",
        task.train.size,
        cfg.target_ms,
    )
    write_atomically(out / HISTORY, "".join(history))
    scalars = ScalarWriter(cfg.tensorboard, out, "search", first_step=len(history) + 1)
    share, text, figures = 0.0, f"epoch 1/{cfg.budget.epochs}", ""
    written = time.monotonic()

    def save(event: Progress) -> None:
        values: State = {
            "identity": p.who,
            "device": constraint.table.device.fingerprint,
            "latencies": latencies,
            "search": event.state(),
            "history": history,
            "epoch": event.epoch,
            "step": event.step,
            "threads": threads,
            "seconds": seconds["search"] + seconds.since,
        }
        checkpoint.write_checkpoint(out / CHECKPOINT, values)

    with heartbeat(log, "search", lambda: (share, text), lambda: figures), reading():
        for event in p.strategy.run(task, state):
            if isinstance(event, Found):
                check_end(event, ranks)
                return event
            text = f"epoch {event.epoch + 1}/{cfg.budget.epochs}"
            share = event.step / event.steps
            if event.record is not None:
                history.append(json.dumps(asdict(event.record), allow_nan=False) + "\n")
                with (out / HISTORY).open("a") as lines:
                    lines.write(history[-1])
                told = search_scalars(event.record, space, cfg.target_ms)
                scalars.add(event.record.epoch + 1, told)
                figures = search_figures(event.record, cfg.target_ms)
                log.info("%s", describe(event.record, cfg.budget.epochs))
            due = time.monotonic() - written >= 60 * cfg.checkpoint_minutes
            stopped, due = ranks.any(stop(), due)
            if stopped or due or is_milestone(event):
                written = time.monotonic()
                save(event)
            if stopped:
                ranks.wait()  # who ended first would have this one killed while it saves
                raise StoppedError
    raise AssertionError("a strategy must end with what it found")


def packed(constraint: Constraint) -> dict[str, Any]:
    """As it can be sent."""
    table = constraint.table
    return {**vars(constraint), "table": [table.to_json(), table.source, table.space]}


def unpacked(values: Mapping[str, Any]) -> Constraint:
    """What `packed` gave. Raises ValueError if it is none."""
    text, source, space = values["table"]
    table = replace(LatencyTable.from_json(text, source), space=space)
    return Constraint(**{**values, "table": table})


def follow(cfg: SearchConfig, ranks: Ranks) -> int:
    """What another rank than 0 does: the steps of the search, and nothing before or after."""
    with stop_on_signals(ranks) as stop:
        try:
            mine = inputs_of_all(cfg, ranks)
            start = ranks.told(None)
        except (LostError, ValueError):
            ranks.wait_for_end()
            return DONE  # rank 0 had nothing to search, or can't, and says why
        return follow_steps(cfg, ranks, mine, start, stop)


def inputs_of_all(cfg: SearchConfig, ranks: Ranks) -> Inputs:
    """This rank's inputs, once every rank has its own.

    Raises:
        ValueError: on all ranks, if one can't use what it is given.
        LostError: see `tfnas.process.ranks`.
    """
    try:
        mine = inputs(cfg, ranks)
    except (ValueError, LookupError, OSError) as error:  # data or a GPU that aren't here
        ranks.agree(error)
        raise
    ranks.agree(None)
    check_start(cfg, mine.dataset, mine.accelerator, ranks)
    return mine


def follow_steps(
    cfg: SearchConfig,
    ranks: Ranks,
    mine: Inputs,
    start: Mapping[str, Any],
    stop: Callable[[], bool],
) -> int:
    """Take the steps of the search that rank 0 begins; the exit status."""
    try:
        torch.set_num_threads(cpu_threads(cfg.cores, os.cpu_count() or 1, ranks))
        constraint = unpacked(start["constraint"])
        space = mine.spec.build(constraint.table.device.quantum)
        if digest(space, constraint.table) != start["latencies"]:
            raise ValueError("the table that was sent has other latencies here")
        batches = mine.train, mine.held_out
        task = new_task(cfg, space, constraint, batches, mine.accelerator, ranks)
        with reading():
            for event in mine.strategy.run(task, start["state"]):
                if isinstance(event, Found):
                    check_end(event, ranks)
                    break
                stopped, due = ranks.any(stop(), False)
                if stopped or due or is_milestone(event):
                    event.state()  # as rank 0 does: it may raise for a step that diverged
                if stopped:
                    ranks.wait()
                    return INTERRUPTED
    except LostError as error:  # which rank 0 says, or has reason to end for
        log.debug("", exc_info=error)
        return FAILED
    except (DivergedError, DisagreementError):  # as on rank 0
        ranks.wait_for_end()
        return FAILED
    except (ValueError, LookupError, OSError) as error:  # an unreadable image
        log.error("error: %s", error)
        return FAILED
    return DONE


def new_task(
    cfg: SearchConfig,
    space: SearchSpace,
    constraint: Constraint,
    batches: tuple[Batches, Batches],
    accelerator: torch.device,
    ranks: Ranks,
) -> Task:
    """What the strategy gets; the same on all ranks, but for their parts of the batches."""
    return Task(
        space=space,
        constraints=(constraint,),
        train=batches[0],
        held_out=batches[1],
        budget=cfg.budget,
        seed=cfg.seed,
        derive=cfg.derive.method,
        device=accelerator,
        on_nonfinite=cfg.on_nonfinite,
        amp=cfg.amp,
        ranks=ranks,
    )


def is_milestone(event: Progress) -> bool:
    """Whether a search is saved after this step, whatever the time."""
    return event.record is not None or event.step == event.steps


def check_end(found: Found, ranks: Ranks) -> None:
    """Make sure that the ranks found the same net, the last thing that they do together."""
    ranks.check_same({"the derived net": found.derived})
    ranks.leave()


def digest(space: SearchSpace, table: LatencyTable) -> str:
    """Of all latencies that a search reads: the table may have been measured anew since."""
    latencies = [table.curve_ms(choice).tolist() for block in space.blocks for choice in block]
    text = json.dumps([table.fixed_ms(space), latencies])
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
