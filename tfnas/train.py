"""python -m tfnas.train subnet=RUN/subnet.json

Trains a found subnet by a recipe of conf/recipe/. Writes weights.safetensors and train.json; until
then train.ckpt, from which `resume=true` goes on. The top-1 is that of the last epoch, never the
best one on the test set, and carries its resolution.
"""

from __future__ import annotations

import json
import logging
import os
import shlex
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from tfnas import checkpoint
from tfnas import config as cfg
from tfnas.accelerator import cpu_threads, pick_accelerator
from tfnas.accuracy import Accuracy, accuracy
from tfnas.data import Dataset, load
from tfnas.distributed import DisagreementError, LostError, Ranks, join
from tfnas.files import write_atomically
from tfnas.progress import duration, heartbeat
from tfnas.result import MAX_BYTES, versions
from tfnas.resume import TRAIN, save_overrides
from tfnas.scalars import ScalarWriter, check_tensorboard, training_figures, training_scalars
from tfnas.space import Subnet
from tfnas.stopping import StoppedError, locked, stop_on_signals
from tfnas.strategies.contract import DivergedError
from tfnas.training import CHECKPOINT, EpochResult, Training, identity
from tfnas.untrusted import parse_json, read_bytes
from tfnas.weights import WEIGHTS, Trained, fingerprint, save_weights

__all__ = ["Accuracy", "DivergedError", "StoppedError", "TrainResult", "accuracy", "train"]

log = logging.getLogger("tfnas.train")

RESULT = "train.json"
RESULT_FORMAT = "tfnas.train/1"


@dataclass(frozen=True)
class TrainResult:
    """A finished training; `trained` tells resolution, data and accuracy."""

    weights: Path
    trained: Trained
    epochs: tuple[EpochResult, ...]
    seconds: float
    deployed_resolution: int  # pixels, what the subnet's latency is told for

    @property
    def line(self) -> str:
        """The accuracy, marked where it isn't that of the net whose latency is told."""
        t = self.trained
        text = f"top-1 {100 * t.top1:.1f} %, top-5 {100 * t.top5:.1f} % at {t.resolution} px"
        if t.resolution == self.deployed_resolution:
            return f"{text}, the deployed resolution"
        return f"{text}; the latency is that of {self.deployed_resolution} px"


def train(
    subnet: Subnet,
    dataset: Dataset,
    recipe: cfg.Recipe,
    *,
    seed: int,
    out: Path,
    weights: Path | None = None,
    device: str = "cpu",
    workers: int = 0,
    checkpoint_minutes: float = 5.0,
    on_nonfinite: str = "stop",
    resume: bool = False,
    stop: Callable[[], bool] = lambda: False,
) -> TrainResult:
    """Train a subnet and write weights.safetensors and train.json into `out`.

    Arguments and errors are those of `tfnas.training.Training` and its `run`. The result is a
    function of subnet, data, recipe, seed and starting weights, bit for bit on a CPU with the same
    number of threads, whether it was stopped and resumed or not.
    """
    training = Training(
        subnet, dataset, recipe, seed=seed, out=out, weights=weights, device=device,
        workers=workers, checkpoint_minutes=checkpoint_minutes, on_nonfinite=on_nonfinite,
        resume=resume,
    )  # fmt: skip
    return finish(training, stop)


def finish(
    training: Training,
    stop: Callable[[], bool] = lambda: False,
    tensorboard: bool | None = False,
) -> TrainResult:
    """Run a training to its end and write its files; then its checkpoint has had its use."""
    scalars = ScalarWriter(tensorboard, training.out, "train", len(training.history) + 1)

    def on_epoch(result: EpochResult) -> None:
        scalars.add(result.epoch, training_scalars(result))

    def figures() -> str:
        return training_figures(training.history[-1]) if training.history else ""

    with heartbeat(log, "training", training.progress, figures):
        training.run(stop, on_epoch)
    training.ranks.leave()
    path = training.out / WEIGHTS
    save_weights(training.state, training.subnet, path, training.trained)
    result = TrainResult(
        path, training.trained, tuple(training.history), training.seconds,
        training.subnet.resolution,
    )  # fmt: skip
    write_atomically(training.out / RESULT, _to_json(training, result))
    checkpoint.remove(training.out / CHECKPOINT)
    return result


def _to_json(training: Training, result: TrainResult) -> str:
    trained = result.trained
    record = {
        "format": RESULT_FORMAT,
        "top1": trained.top1,
        "top5": trained.top5,
        "resolution": trained.resolution,
        "deployed_resolution": result.deployed_resolution,
        "subnet": fingerprint(training.subnet),
        "space": training.subnet.space,
        "classes": training.subnet.classes,
        "data": {"name": training.dataset.name, "origin": training.dataset.origin},
        "recipe": asdict(training.recipe),
        "seed": training.seed,
        "weights": training.weights,
        "not_in_weights": list(training.kept),
        "device": training.device.type,
        "threads": torch.get_num_threads(),
        "processes": training.ranks.size,
        "skipped_steps": training.skipped,
        "seconds": round(training.seconds, 1),
        "epochs": [asdict(epoch) for epoch in result.epochs],
        "versions": versions(),
    }
    return json.dumps(record, indent=1) + "\n"


def prepare(config: cfg.TrainConfig) -> cfg.Work:
    ranks = join()
    if ranks.rank:  # rank 0 checks, and says what is wrong
        return lambda: _follow(config, ranks)
    pick_accelerator(config.accelerator, ranks)
    cfg.check_positive(threads=config.threads, checkpoint_minutes=config.checkpoint_minutes)
    cfg.check_choice("on_nonfinite", config.on_nonfinite, ("stop", "skip"))
    check_tensorboard(config.tensorboard)
    path = Path(config.subnet)
    subnet, dataset = Subnet.load(path), load_data(config.data, config.recipe)
    out = None if config.out is None else Path(config.out)
    if out is None:
        out = cfg.output_dir() if cfg.is_sweep() else path.parent
    resume = config.resume
    if resume and (out / RESULT).is_file() and not checkpoint.exists(out / CHECKPOINT):
        now = identity(subnet, dataset, config.recipe, config.seed)
        check_finished(out, now if config.weights is None else {**now, "weights": config.weights})
        return lambda: _finished(out)
    if resume and cfg.is_sweep():  # members that didn't get so far start
        resume = checkpoint.exists(out / CHECKPOINT)
    training = _training(config, subnet, dataset, out, resume, ranks)
    return lambda: _work(training, path, resume, config.tensorboard)


def load_data(d: cfg.DataConfig, recipe: cfg.Recipe) -> Dataset:
    """The images that a recipe trains on. Raises as `tfnas.data.load`, ValueError for classes."""
    dataset = load(
        d.name,
        root=d.root,
        train_list=d.train_list,
        test_list=d.test_list,
        max_train=cfg.smallest(d.max_train, recipe.max_train),
    )
    if d.classes is not None and d.classes != len(dataset.classes):
        raise ValueError(f"data.classes={d.classes}, but {d.name} has {len(dataset.classes)}")
    return dataset


def _training(
    config: cfg.TrainConfig,
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


def _follow(config: cfg.TrainConfig, ranks: Ranks) -> int:
    """What another rank than 0 does: the steps, and nothing before or after."""
    with stop_on_signals(ranks) as stop:
        try:
            training = _training_of_all(config, ranks)
        except (LostError, ValueError):
            ranks.wait_for_end()
            return cfg.DONE  # rank 0 had nothing to train, or can't, and says why
        return _follow_steps(training, stop)


def _training_of_all(config: cfg.TrainConfig, ranks: Ranks) -> Training:
    """This rank's training, once every rank has its own.

    Raises:
        ValueError: on all ranks, if one can't use what it is given.
        LostError: see `tfnas.distributed`.
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
        return cfg.INTERRUPTED
    except LostError as error:  # which rank 0 says, or has reason to end for
        log.debug("", exc_info=error)
        return cfg.FAILED
    except (DivergedError, DisagreementError):  # as on rank 0
        ranks.wait_for_end()
        return cfg.FAILED
    except (OSError, LookupError, ValueError) as error:  # an unreadable image
        log.error("error: %s", error)
        return cfg.FAILED
    ranks.leave()
    return cfg.DONE


def check_finished(out: Path, now: dict[str, Any]) -> None:
    """Raises ValueError if what is asked for now is another training than the finished one."""
    try:
        record = parse_json(read_bytes(out / RESULT, MAX_BYTES).decode())
        there = {"subnet": record["subnet"], "seed": record["seed"]}
        for group in ("data", "recipe"):
            there |= {f"{group}.{name}": value for name, value in record[group].items()}
        if "weights" in now:
            there["weights"] = record["weights"]
        changed = checkpoint.changes(there, now)
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise ValueError(f"{out / RESULT} is no result of a training: {error}") from None
    if changed:
        raise ValueError(
            f"{out} is finished, and with other options ({changed}): give another out=FOLDER"
        )


def _finished(out: Path) -> int:
    log.info("%s is finished", out)
    return cfg.DONE


def _work(training: Training, path: Path, resumed: bool, tensorboard: bool | None) -> int:
    with ExitStack() as stack:
        try:
            stack.enter_context(locked(training.out))
            save_overrides(training.out / TRAIN, resumed)
        except (ValueError, OSError) as error:
            return cfg.refuse(error)
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
                return cfg.refuse(error)
            training.meet()
            result = finish(training, stop, tensorboard)
    except StoppedError:
        log.info(
            "stopped after epoch %d, batch %d, and saved; go on with: %s -m tfnas.train %s",
            training.epoch, training.batch, training.ranks.launcher,
            shlex.quote(cfg.override("resume", training.out)),
        )  # fmt: skip
        return cfg.INTERRUPTED
    except (DivergedError, DisagreementError, LostError, OSError, ValueError) as error:
        # ValueError: an unreadable image
        saved = training.out / CHECKPOINT
        tail = f"; the last good checkpoint is {saved}" if checkpoint.exists(saved) else ""
        log.error("error: %s%s", error, tail)
        log.debug("", exc_info=error)
        return cfg.FAILED
    log.info("%s (%s)", result.line, duration(result.seconds))
    log.info("wrote %s and %s", result.weights, training.out / RESULT)
    log.info(
        "next: python -m tfnas.export %s",
        shlex.join([cfg.override("subnet", path), cfg.override("weights", result.weights)]),
    )
    return cfg.DONE


if __name__ == "__main__":
    cfg.main(cfg.TrainConfig, "train", prepare)
