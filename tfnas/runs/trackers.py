"""Where scalars go: TensorBoard's event files, MLflow, Weights & Biases.

TensorBoard's files lie in the run's folder. Where the others write is their own setting, by their
own variables of the environment; without any it is a file or folder in the current one, and
nothing leaves this machine.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

FOLDER = "tensorboard"  # in that of a run
PROJECT = "tfnas"  # or experiment, where the environment names none
TAG = "tfnas.run"
Scalar = tuple[str, float]
"""A tag, such as `latency_ms/derived`, and its value."""


@dataclass(frozen=True)
class Tracked:
    """What is told of.

    Attributes:
        folder: of the run.
        kind: search | train, which may share the folder.
        first_step: that comes next; of what goes on it isn't 1.
        about: options that tell it from others.
    """

    folder: Path
    kind: str
    first_step: int
    about: Mapping[str, str | float] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return f"{self.folder.resolve().name} {self.kind}"

    @property
    def key(self) -> str:
        """The same for what goes on there."""
        return hashlib.sha256(f"{self.folder.resolve()} {self.kind}".encode()).hexdigest()[:16]


class Tracker(Protocol):
    """Scalars of one run. It may raise anything, which ends no run.

    Attributes:
        shown_by: the command that shows them.
    """

    shown_by: str

    def add(self, step: int, scalars: Sequence[Scalar]) -> None:
        """Write what an epoch tells, at once."""

    def close(self, done: bool) -> None:
        """End it; not `done` is stopped or failed."""


class TensorBoard:
    def __init__(self, run: Tracked) -> None:
        from torch.utils.tensorboard import SummaryWriter

        # It forgets what stands there from the first step on.
        self._writer = SummaryWriter(str(run.folder / FOLDER / run.kind), purge_step=run.first_step)
        self._writer.flush()
        self.shown_by = f"tensorboard --logdir {run.folder}"

    def add(self, step: int, scalars: Sequence[Scalar]) -> None:
        for tag, value in scalars:
            self._writer.add_scalar(tag, value, step)
        self._writer.flush()

    def close(self, done: bool) -> None:
        """Nothing: all is written, and its thread may have died."""


class Mlflow:
    def __init__(self, run: Tracked) -> None:
        for key, value in (
            ("MLFLOW_DISABLE_TELEMETRY", "true"),
            ("MLFLOW_LOGGING_LEVEL", "WARNING"),
        ):
            os.environ.setdefault(key, value)
        from mlflow import MlflowClient
        from mlflow.entities import Param

        self._client = MlflowClient()
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        found = self._client.get_experiment_by_name(name)
        experiment = found.experiment_id if found else self._client.create_experiment(name)
        same = self._client.search_runs([experiment], f"tags.`{TAG}` = '{run.key}'")
        if same and run.first_step > 1:
            self._id = same[0].info.run_id  # the last one
            self._client.update_run(self._id, status="RUNNING")
        else:
            made = self._client.create_run(experiment, run_name=run.name, tags={TAG: run.key})
            self._id = made.info.run_id
            params = [Param(key, str(value)) for key, value in run.about.items()]
            self._client.log_batch(self._id, params=params)
        self.shown_by = f"mlflow ui --backend-store-uri {self._client.tracking_uri}"

    def add(self, step: int, scalars: Sequence[Scalar]) -> None:
        from mlflow.entities import Metric

        now_ms = time.time_ns() // 1_000_000  # a stamp for people, of which no interval is taken
        metrics = [Metric(tag, value, now_ms, step) for tag, value in scalars]
        self._client.log_batch(self._id, metrics=metrics)

    def close(self, done: bool) -> None:
        self._client.set_terminated(self._id, "FINISHED" if done else "KILLED")


class Wandb:
    def __init__(self, run: Tracked) -> None:
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        import wandb

        mode = os.environ.get("WANDB_MODE", "offline")
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT), name=run.name, id=run.key,
            config=dict(run.about), mode=mode, resume=None if mode == "offline" else "allow",
            reinit="create_new", settings=wandb.Settings(console="off", silent=True),
        )  # fmt: skip
        self.shown_by = f"wandb sync {Path(self._run.dir).parent}"
        if mode != "offline" and self._run.url:
            self.shown_by = self._run.url

    def add(self, step: int, scalars: Sequence[Scalar]) -> None:
        self._run.log(dict(scalars), step=step)

    def close(self, done: bool) -> None:
        self._run.finish(exit_code=0 if done else 1)


@dataclass(frozen=True)
class Kind:
    """A kind of tracker.

    Attributes:
        title: for messages.
        module: what it imports, of the package that has the tracker's name.
        start: opens one for a run.
    """

    title: str
    module: str
    start: Callable[[Tracked], Tracker]


TRACKERS: Mapping[str, Kind] = {
    "tensorboard": Kind("TensorBoard", "torch.utils.tensorboard", TensorBoard),
    "mlflow": Kind("MLflow", "mlflow", Mlflow),
    "wandb": Kind("Weights & Biases", "wandb", Wandb),
}
