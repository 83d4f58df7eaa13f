"""python -m tfnas.train subnet=RUN/subnet.json

Trains a found subnet by a recipe of conf/recipe/. Writes weights.safetensors and train.json; until
then train.ckpt, from which `resume=true` goes on. The top-1 is that of the last epoch, never the
best one on the test set, and carries its resolution.
"""

from __future__ import annotations

import logging
import shlex
from collections.abc import Callable
from pathlib import Path

import torch

from tfnas.app import job
from tfnas.app.command_line import is_sweep, output_dir, override
from tfnas.app.data import load_data
from tfnas.app.main import Work, main
from tfnas.app.resume import save_overrides
from tfnas.app.schemas import TrainConfig
from tfnas.data.images import Dataset
from tfnas.files import checkpoint
from tfnas.process.accelerator import cpu_threads, pick_accelerator
from tfnas.process.exits import DONE
from tfnas.process.progress import duration
from tfnas.process.ranks import Ranks, join
from tfnas.process.stopping import stop_on_signals
from tfnas.runs.folder import RunFolder
from tfnas.runs.scalars import check_trackers
from tfnas.runs.teachers import load_teacher
from tfnas.runs.trained import check_finished, finish
from tfnas.space.subnet import Subnet
from tfnas.training.loop import CHECKPOINT, Training, identity
from tfnas.training.task import CLASSIFICATION
from tfnas.training.teacher import Teacher

log = logging.getLogger("tfnas.train")


def prepare(config: TrainConfig) -> Work:
    """Check the input; of several ranks all get rank 0's subnet here."""
    ranks = join()
    if ranks.rank:  # rank 0 checks, and says what is wrong
        return lambda: job.follow(ranks, lambda: _agreed_training(config, ranks), _steps)
    pick_accelerator(config.accelerator, ranks)
    check_trackers(config.tensorboard, config.trackers)
    path = Path(config.subnet)
    subnet, dataset = Subnet.load(path), _images(config)
    out = path.parent if config.out is None else Path(config.out)
    if config.reset_classifier:
        subnet, path = _reset(subnet, dataset, path, out), RunFolder(out).subnet
    if config.out is None and is_sweep():
        out = output_dir()
    resume, begun = config.resume, checkpoint.exists(out / CHECKPOINT)
    if resume and RunFolder(out).trained.is_file() and not begun:
        teacher = _teacher(config, ranks)
        now = identity(subnet, dataset, config.recipe, config.seed, teacher, config.task)
        check_finished(out, now if config.weights is None else {**now, "weights": config.weights})
        return lambda: _finished(out)
    if resume and is_sweep():  # members that didn't get so far start
        resume = begun
    training = _training(config, subnet, dataset, out, resume, ranks)
    ranks.broadcast(subnet.to_json())
    ranks.agree(None)
    return lambda: _work(config, training, path, resume)


def _training(
    config: TrainConfig,
    subnet: Subnet,
    dataset: Dataset,
    out: Path,
    resume: bool,
    ranks: Ranks,
) -> Training:
    torch.set_num_threads(cpu_threads(config.threads, ranks))
    leads = ranks.rank == 0
    return Training(
        subnet,
        dataset,
        config.recipe,
        task=config.task,
        seed=config.seed,
        out=out,
        weights=Path(config.weights) if config.weights is not None and leads else None,
        teacher=_teacher(config, ranks),
        device=str(pick_accelerator(config.accelerator, ranks)),
        workers=config.data.workers,
        checkpoint_minutes=config.checkpoint_minutes,
        on_nonfinite=config.on_nonfinite,
        resume=resume,
        ranks=ranks,
    )


def _reset(subnet: Subnet, dataset: Dataset, path: Path, out: Path) -> Subnet:
    """With a classifier for the data's classes. Raises ValueError if another net lies in `out`."""
    changed, there = subnet.with_classes(len(dataset.classes)), RunFolder(out).subnet
    if there.exists() and Subnet.load(there) != changed:
        raise ValueError(
            f"reset_classifier=true: {there} is a net of other classes: give out=FOLDER, another "
            f"one than that of subnet={path}"
        )
    return changed


def _images(config: TrainConfig) -> Dataset:
    return load_data(config.data, config.recipe.max_train, by_class=config.task == CLASSIFICATION)


def _teacher(config: TrainConfig, ranks: Ranks) -> Teacher | None:
    if config.teacher is None:
        return None
    return load_teacher(config.teacher, pick_accelerator(config.accelerator, ranks))


def _agreed_training(config: TrainConfig, ranks: Ranks) -> Training:
    """The training of another rank than 0, once every rank has its own.

    Raises:
        ValueError: on all ranks, if one can't use what it is given.
        LostError: see `tfnas.process.ranks`.
    """
    text = ranks.broadcast(None)
    try:
        dataset = _images(config)
        training = _training(config, Subnet.from_json(text), dataset, Path(), False, ranks)
    except (ValueError, LookupError, OSError) as error:  # data or a GPU that aren't here
        ranks.agree(error)
        raise
    ranks.agree(None)
    return training


def _steps(training: Training, stop: Callable[[], bool]) -> None:
    """Train on another rank than 0."""
    training.meet()
    training.run(stop)
    training.ranks.leave()


def _finished(out: Path) -> int:
    log.info("%s is finished", out)
    return DONE


def _work(config: TrainConfig, training: Training, path: Path, resumed: bool) -> int:
    out, launcher = training.out, training.ranks.launcher

    def go_on() -> str:
        if not checkpoint.exists(out / CHECKPOINT):
            return ""
        return f"{launcher} -m tfnas.train {shlex.quote(override('resume', out))}"

    return job.run_alone(
        out,
        lambda: save_overrides(RunFolder(out).train_overrides, resumed),
        lambda _: _train(training, path, config),
        go_on=go_on,
    )


def _train(training: Training, path: Path, config: TrainConfig) -> int:
    subnet, recipe = training.subnet, training.recipe
    log.info(
        "%s: %.0f M multiply-adds at %s px, %d classes; data %s",
        path, subnet.macs / 1e6, subnet.resolution, subnet.classes, training.dataset.origin,
    )  # fmt: skip
    log.info(
        "recipe %s: %d epochs of %d batches of %d at %s px on %s, seed %d, from %s",
        recipe.name, recipe.epochs, len(training.train_batches), recipe.batch_size,
        training.resolution, training.device, training.seed, training.weights or "scratch",
    )  # fmt: skip
    if training.teacher is not None:
        log.info("with the soft labels of the teacher %s", training.teacher)
    if training.kept:
        log.info("not in these weights, initialized anew: %s", ", ".join(training.kept))
    with stop_on_signals(training.ranks) as stop:
        training.meet()
        result = finish(training, stop, config.tensorboard, config.trackers)
    log.info("%s (%s)", result.line, duration(result.seconds))
    log.info("wrote %s and %s", result.weights, RunFolder(training.out).trained)
    log.info(
        "next: python -m tfnas.export %s",
        shlex.join([override("subnet", path), override("weights", result.weights)]),
    )
    return DONE


if __name__ == "__main__":
    main(TrainConfig, "train", prepare)
