"""python -m tfnas.train subnet=RUN/subnet.json

Trains a found subnet by a recipe of conf/recipe/. Writes weights.safetensors and train.json; until
then train.ckpt, from which `resume=true` goes on. The top-1 is that of the last epoch, never the
best one on the test set, and carries its resolution.
"""

from __future__ import annotations

import logging
import os
import shlex
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import torch

from tfnas.app.command_line import is_sweep, output_dir, override, refuse
from tfnas.app.data import load_data
from tfnas.app.main import Work, main
from tfnas.app.resume import save_overrides
from tfnas.app.schemas import TrainConfig
from tfnas.data.images import Dataset
from tfnas.files import checkpoint
from tfnas.process.accelerator import cpu_threads, pick_accelerator
from tfnas.process.checks import check_choice, check_positive
from tfnas.process.errors import DisagreementError, DivergedError, LostError, StoppedError
from tfnas.process.exits import DONE, FAILED, INTERRUPTED
from tfnas.process.progress import duration
from tfnas.process.ranks import Ranks, join
from tfnas.process.stopping import locked, stop_on_signals
from tfnas.runs.folder import TRAIN_OVERRIDES
from tfnas.runs.run import TRAIN_RESULT
from tfnas.runs.scalars import check_tensorboard
from tfnas.runs.trained import check_finished, finish
from tfnas.space.subnet import Subnet
from tfnas.training.loop import CHECKPOINT, Training, identity

log = logging.getLogger("tfnas.train")


def prepare(config: TrainConfig) -> Work:
    ranks = join()
    if ranks.rank:  # rank 0 checks, and says what is wrong
        return lambda: _follow(config, ranks)
    pick_accelerator(config.accelerator, ranks)
    check_positive(threads=config.threads, checkpoint_minutes=config.checkpoint_minutes)
    check_choice("on_nonfinite", config.on_nonfinite, ("stop", "skip"))
    check_tensorboard(config.tensorboard)
    path = Path(config.subnet)
    subnet, dataset = Subnet.load(path), load_data(config.data, config.recipe)
    out = None if config.out is None else Path(config.out)
    if out is None:
        out = output_dir() if is_sweep() else path.parent
    resume = config.resume
    if resume and (out / TRAIN_RESULT).is_file() and not checkpoint.exists(out / CHECKPOINT):
        now = identity(subnet, dataset, config.recipe, config.seed)
        check_finished(out, now if config.weights is None else {**now, "weights": config.weights})
        return lambda: _finished(out)
    if resume and is_sweep():  # members that didn't get so far start
        resume = checkpoint.exists(out / CHECKPOINT)
    training = _training(config, subnet, dataset, out, resume, ranks)
    return lambda: _work(training, path, resume, config.tensorboard)


def _training(
    config: TrainConfig,
    subnet: Subnet,
    dataset: Dataset,
    out: Path,
    resume: bool,
    ranks: Ranks,
) -> Training:
    torch.set_num_threads(cpu_threads(config.threads, os.cpu_count() or 1, ranks))
    leads = ranks.rank == 0
    return Training(
        subnet,
        dataset,
        config.recipe,
        seed=config.seed,
        out=out,
        weights=Path(config.weights) if config.weights is not None and leads else None,
        device=str(pick_accelerator(config.accelerator, ranks)),
        workers=config.data.workers,
        checkpoint_minutes=config.checkpoint_minutes,
        on_nonfinite=config.on_nonfinite,
        resume=resume,
        ranks=ranks,
    )


def _follow(config: TrainConfig, ranks: Ranks) -> int:
    """What another rank than 0 does: the steps, and nothing before or after."""
    with stop_on_signals(ranks) as stop:
        try:
            training = _training_of_all(config, ranks)
        except (LostError, ValueError):
            ranks.wait_for_end()
            return DONE  # rank 0 had nothing to train, or can't, and says why
        return _follow_steps(training, stop)


def _training_of_all(config: TrainConfig, ranks: Ranks) -> Training:
    """This rank's training, once every rank has its own.

    Raises:
        ValueError: on all ranks, if one can't use what it is given.
        LostError: see `tfnas.process.ranks`.
    """
    text = ranks.told(None)
    try:
        subnet = Subnet.from_json(text)
        training = _training(
            config, subnet, load_data(config.data, config.recipe), Path(), False, ranks
        )
    except (ValueError, LookupError, OSError) as error:  # data or a GPU that aren't here
        ranks.agree(error)
        raise
    ranks.agree(None)
    return training


def _follow_steps(training: Training, stop: Callable[[], bool]) -> int:
    ranks = training.ranks
    try:
        training.meet()
        training.run(stop)
    except StoppedError:
        return INTERRUPTED
    except LostError as error:  # which rank 0 says, or has reason to end for
        log.debug("", exc_info=error)
        return FAILED
    except (DivergedError, DisagreementError):  # as on rank 0
        ranks.wait_for_end()
        return FAILED
    except (OSError, LookupError, ValueError) as error:  # an unreadable image
        log.error("error: %s", error)
        return FAILED
    ranks.leave()
    return DONE


def _finished(out: Path) -> int:
    log.info("%s is finished", out)
    return DONE


def _work(training: Training, path: Path, resumed: bool, tensorboard: bool | None) -> int:
    with ExitStack() as stack:
        try:
            stack.enter_context(locked(training.out))
            save_overrides(training.out / TRAIN_OVERRIDES, resumed)
        except (ValueError, OSError) as error:
            return refuse(error)
        return _train(training, path, tensorboard)


def _train(training: Training, path: Path, tensorboard: bool | None) -> int:
    subnet, recipe = training.subnet, training.recipe
    log.info(
        "%s: %.0f M multiply-adds at %d px, %d classes; data %s",
        path, subnet.macs / 1e6, subnet.resolution, subnet.classes, training.dataset.origin,
    )  # fmt: skip
    log.info(
        "recipe %s: %d epochs of %d batches of %d at %d px on %s, seed %d, from %s",
        recipe.name, recipe.epochs, len(training.train_batches), recipe.batch_size,
        training.resolution, training.device, training.seed, training.weights or "scratch",
    )  # fmt: skip
    if training.kept:
        log.info("not in these weights, initialized anew: %s", ", ".join(training.kept))
    try:
        with stop_on_signals(training.ranks) as stop:
            training.ranks.told(subnet.to_json())
            try:
                training.ranks.agree(None)
            except ValueError as error:
                return refuse(error)
            training.meet()
            result = finish(training, stop, tensorboard)
    except StoppedError:
        log.info(
            "stopped after epoch %d, batch %d, and saved; go on with: %s -m tfnas.train %s",
            training.epoch, training.batch, training.ranks.launcher,
            shlex.quote(override("resume", training.out)),
        )  # fmt: skip
        return INTERRUPTED
    except (DivergedError, DisagreementError, LostError, OSError, ValueError) as error:
        # ValueError: an unreadable image
        saved = training.out / CHECKPOINT
        tail = f"; the last good checkpoint is {saved}" if checkpoint.exists(saved) else ""
        log.error("error: %s%s", error, tail)
        log.debug("", exc_info=error)
        return FAILED
    log.info("%s (%s)", result.line, duration(result.seconds))
    log.info("wrote %s and %s", result.weights, training.out / TRAIN_RESULT)
    log.info(
        "next: python -m tfnas.export %s",
        shlex.join([override("subnet", path), override("weights", result.weights)]),
    )
    return DONE


if __name__ == "__main__":
    main(TrainConfig, "train", prepare)
