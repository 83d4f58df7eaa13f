"""A training of one subnet from its checks to weights.safetensors and train.json."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from msgspec import Meta

from tfnas.data.images import Dataset
from tfnas.files import checkpoint
from tfnas.files.atomic import write_atomically
from tfnas.files.decode import Fraction, load
from tfnas.nets.weights import WEIGHTS, Trained, fingerprint, save_weights, told
from tfnas.process.progress import heartbeat
from tfnas.process.versions import versions
from tfnas.runs.folder import RunFolder
from tfnas.runs.result import MAX_BYTES
from tfnas.runs.run import TRAIN_HEADER
from tfnas.runs.scalars import ScalarWriter, training_figures, training_scalars
from tfnas.space.size import Size
from tfnas.space.subnet import Subnet
from tfnas.training.loop import CHECKPOINT, EpochResult, Training
from tfnas.training.recipe import Recipe, options
from tfnas.training.task import CLASSIFICATION
from tfnas.training.teacher import Teacher

log = logging.getLogger("tfnas.train")


@dataclass(frozen=True)
class TrainResult:
    """A finished training; `trained` tells resolution, data and accuracy."""

    subnet: Subnet
    weights: Path
    trained: Trained
    epochs: tuple[EpochResult, ...]
    seconds: float
    deployed_resolution: Size  # of the subnet's latency

    @property
    def line(self) -> str:
        """The accuracy, marked where it isn't that of the net whose latency is known."""
        t = self.trained
        top5 = "" if t.top5 is None else f", top-5 {100 * t.top5:.1f} %"
        int8 = "" if t.quantized is None else " in int8, simulated,"
        text = f"{told(t.top1, t.scores)}{top5}{int8} at {t.resolution} px"
        if t.resolution == self.deployed_resolution:
            return f"{text}, the deployed resolution"
        return f"{text}; the latency is that of {self.deployed_resolution} px"


def train(
    subnet: Subnet,
    dataset: Dataset,
    recipe: Recipe,
    *,
    seed: int,
    out: Path,
    task: str = CLASSIFICATION,
    weights: Path | None = None,
    teacher: Teacher | None = None,
    device: str = "cpu",
    workers: int = 0,
    checkpoint_minutes: float = 5.0,
    on_nonfinite: str = "stop",
    resume: bool = False,
    stop: Callable[[], bool] = lambda: False,
) -> TrainResult:
    """Train a subnet and write weights.safetensors and train.json into `out`.

    Arguments and errors are those of `tfnas.training.loop.Training` and its `run`. The result is a
    function of subnet, data, recipe, seed, starting weights and teacher, bit for bit on a CPU with
    the same number of threads, whether it was stopped and resumed or not.
    """
    training = Training(
        subnet, dataset, recipe, task=task, seed=seed, out=out, weights=weights,
        teacher=teacher, device=device, workers=workers, checkpoint_minutes=checkpoint_minutes,
        on_nonfinite=on_nonfinite, resume=resume,
    )  # fmt: skip
    return finish(training, stop)


def finish(
    training: Training,
    stop: Callable[[], bool] = lambda: False,
    tensorboard: bool | None = False,
    trackers: Sequence[str] = (),
) -> TrainResult:
    """Run a training to its end and write its files; then its checkpoint has had its use."""
    about: dict[str, str | float] = {
        "space": training.subnet.space, "subnet": fingerprint(training.subnet),
        "recipe": training.recipe.name, "epochs": training.recipe.epochs, "seed": training.seed,
        "data": training.dataset.name,
    }  # fmt: skip
    step = len(training.history) + 1
    scalars = ScalarWriter(tensorboard, training.out, "train", step, trackers, about)

    def on_epoch(result: EpochResult) -> None:
        scalars.add(result.epoch, training_scalars(result))

    def figures() -> str:
        return training_figures(training.history[-1]) if training.history else ""

    with scalars, heartbeat(log, "training", training.progress, figures):
        training.run(stop, on_epoch)
    training.ranks.leave()
    result = leave(training, training.out, training.trained)
    checkpoint.remove(training.out / CHECKPOINT)
    return result


def leave(training: Training, out: Path, trained: Trained) -> TrainResult:
    """Write weights.safetensors and train.json of a training that is done into a folder.

    The subnet goes there too, if none is: `tfnas.load` takes the folder, wherever it was found.
    """
    path = out / WEIGHTS
    if not RunFolder(out).subnet.exists():
        training.subnet.save(RunFolder(out).subnet)
    save_weights(training.state, training.subnet, path, trained)
    result = TrainResult(
        training.subnet, path, trained, tuple(training.history), training.seconds,
        training.subnet.resolution,
    )  # fmt: skip
    write_atomically(RunFolder(out).trained, _to_json(training, result))
    return result


def _to_json(training: Training, result: TrainResult) -> str:
    trained, scores = result.trained, [asdict(score) for score in result.trained.scores]
    record = {
        **TRAIN_HEADER,
        "top1": trained.top1,
        "top5": trained.top5,
        **({} if training.task == CLASSIFICATION else {"task": training.task, "scores": scores}),
        "resolution": trained.resolution,
        "deployed_resolution": result.deployed_resolution,
        "subnet": fingerprint(training.subnet),
        "space": training.subnet.space,
        "classes": training.subnet.classes,
        "data": {
            "name": training.dataset.name,
            "origin": training.dataset.origin,
            "images": training.dataset.identity,
        },
        "recipe": options(training.recipe),
        "seed": training.seed,
        "weights": training.weights,
        "not_in_weights": training.kept,
        **({} if training.teacher is None else {"teacher": training.teacher}),
        "device": training.device.type,
        "threads": torch.get_num_threads(),
        "processes": training.ranks.size,
        "skipped_steps": training.guard.skipped,
        "seconds": round(training.seconds, 1),
        "epochs": [epoch.values for epoch in result.epochs],
        "versions": versions(),
    }
    return json.dumps(record, indent=1) + "\n"


@dataclass(frozen=True)
class Versions:
    """What must be the same for all trainings of a comparison."""

    tfnas: str
    torch: str


@dataclass(frozen=True)
class Finished:
    """What is read again of train.json.

    Attributes:
        skipped_steps: None in files of before they were counted.
        teacher: its identity; None where there was none.
    """

    subnet: str
    seed: int
    data: Mapping[str, Any]
    recipe: Mapping[str, Any]
    weights: str | None
    top1: Fraction | None
    top5: Fraction | None
    seconds: float
    device: str
    threads: int
    versions: Versions
    epochs: Annotated[tuple[EpochResult, ...], Meta(min_length=1)]
    skipped_steps: int | None = None
    teacher: str | None = None
    task: str = CLASSIFICATION


def load_finished(out: Path) -> Finished:
    """Raises ValueError if what lies there is no result of a training."""
    file = RunFolder(out).trained
    return load(file, Finished, "result of a training", MAX_BYTES, TRAIN_HEADER, partly=True)


def check_finished(out: Path, now: dict[str, Any]) -> None:
    """Raises ValueError if what is asked for now is another training than the finished one."""
    found = load_finished(out)
    there = {"subnet": found.subnet, "seed": found.seed, "teacher": found.teacher}
    there["task"] = None if found.task == CLASSIFICATION else found.task  # as `identity` has it
    data = {name: value for name, value in found.data.items() if name != "origin"}
    for group, values in (("data", data), ("recipe", found.recipe)):
        there |= {f"{group}.{name}": value for name, value in values.items()}
    if "images" not in data:  # in files of before it was written
        now = {name: value for name, value in now.items() if name != "data.images"}
    if "weights" in now:
        there["weights"] = found.weights
    if changed := checkpoint.changes(there, now):
        raise ValueError(
            f"{out} is finished, and with other options ({changed}): give another out=FOLDER"
        )
