"""Jobs of finals for tests, and ones that lose their process."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path

from tests.support.nets import tiny_subnet
from tfnas.app.schemas import DataConfig
from tfnas.app.values import load
from tfnas.pipeline.rung import Job, Outcome, Split, run_job
from tfnas.runs.folder import RunFolder

DATA = DataConfig("fashion_mnist", "shipped", None, None, None, None, 0)
SPLIT = Split(tuple(asdict(DATA).items()), searched=400, trained=100, held_out=0.2, seed=0)


def new_job(folder: Path, name: str, until: int = 1) -> Job:
    """A training of the tiny net for some seconds."""
    out = folder / name
    out.mkdir(parents=True, exist_ok=True)
    tiny_subnet().save(RunFolder(out).subnet)
    return Job(
        folder=str(out), split=SPLIT, recipe=load("recipe", "test", max_train=100), until=until,
        seed=0, device="cpu", threads=1, checkpoint_minutes=5, on_nonfinite="stop",
        stop_file=str(folder / "stop"), owner=os.getpid(),
    )  # fmt: skip


def run_or_die(job: Job) -> Outcome:
    """The process dies of the job `once` the first time, and of `always` each time."""
    mark = Path(job.folder) / "died"
    if os.getpid() != job.owner and (
        job.name == "always" or (job.name == "once" and not mark.exists())
    ):
        mark.touch()
        os._exit(1)
    return run_job(job)
