"""The training of one subnet: momentum SGD, cosine with linear warm-up, all values from a recipe.

`Training` is the loop and what a checkpoint of it holds; `tfnas.train` turns it into files.
"""

from __future__ import annotations

import copy
import logging
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tfnas.data.augment import EVAL_FRACTION
from tfnas.data.batches import Batches, reading
from tfnas.data.images import ArrayImages, Dataset, Images
from tfnas.files.checkpoint import State, exists, read_checkpoint, write_checkpoint
from tfnas.files.decode import Fraction, convert
from tfnas.files.state import fitting, restore, state_of
from tfnas.nets.blocks import Network
from tfnas.nets.fake_quant import FakeQuantized
from tfnas.nets.steps import Guard, guarded_step
from tfnas.nets.weights import WEIGHTS, Score, Trained, fingerprint, load_weights, told
from tfnas.process.errors import DivergedError, StoppedError
from tfnas.process.progress import duration
from tfnas.process.ranks import ALONE, Ranks, check_batch
from tfnas.space.size import scaled, sides
from tfnas.space.subnet import Subnet
from tfnas.training.mixing import mixed, mixing_rng
from tfnas.training.qat import calibrate, check_start, trainable
from tfnas.training.recipe import Recipe, check_recipe, learning_rate, options
from tfnas.training.task import CLASSIFICATION, TASKS, check_task, class_weights
from tfnas.training.teacher import Teacher, lesson

log = logging.getLogger(__name__)

CHECKPOINT = "train.ckpt"
TRAIN_COST = 4.5  # time of training on an image / of testing on it, CPU, 224 and 64 px


@dataclass(frozen=True)
class EpochResult:
    """One epoch; accuracies are those of the averaged weights where the recipe averages."""

    epoch: int  # from 1
    lr: float  # of its last step
    train_loss: float  # with label smoothing, and the part of a teacher
    loss: float  # test set
    top1: Fraction | None  # of the test set; None: there is no one class for each image
    top5: Fraction | None
    seconds: float
    scores: tuple[Score, ...] = ()  # what tells it then

    @property
    def accuracy(self) -> float:
        """The top-1 of a net that tells classes."""
        assert self.top1 is not None
        return self.top1

    @property
    def values(self) -> dict[str, Any]:
        """All of it, scores only where there are some: as files of before have it."""
        values = asdict(self)
        return values if self.scores else {k: v for k, v in values.items() if k != "scores"}


def step_seed(seed: int, step: int, rank: int) -> int:
    """The seed of what is random in the network in one step on one of several ranks."""
    return int(np.random.SeedSequence((seed, step, rank)).generate_state(1, np.uint64)[0])


def identity(
    subnet: Subnet,
    dataset: Dataset,
    recipe: Recipe,
    seed: int,
    teacher: Teacher | None = None,
    task: str = CLASSIFICATION,
) -> dict[str, Any]:
    """What a resumed training must have in common with the one that was stopped."""
    return {
        "subnet": fingerprint(subnet),
        "data.name": dataset.name,
        "data.images": dataset.identity,
        "seed": seed,
        **{f"recipe.{name}": value for name, value in options(recipe).items()},
        **({} if teacher is None else {"teacher": teacher.identity}),
        **({} if task == CLASSIFICATION else {"task": task}),
    }


class Training:
    """A training of one subnet on one set of images, from its checks to its files.

    All that can be refused is refused in the constructor. A run that is stopped and resumed gives
    the same weights, bit for bit on a CPU with the same number of threads.

    Of several ranks each takes its part of every batch. Gradients are averaged before they are
    clipped, running statistics of batch norm after each step, so that networks are the same on all
    of them; each draws its own dropout. Only rank 0 writes files, and `meet` gives the others what
    it has.

    Args:
        recipe: see conf/recipe/; its batch is that of all ranks together.
        task: one of `tfnas.training.task.TASKS`.
        seed: of initialization, order, augmentation, dropout.
        out: folder for weights.safetensors, train.json, train.ckpt.
        weights: what to start from; batch norm and classifier may be missing there, but not for
            quantization-aware training.
        device: "cpu" or "cuda".
        workers: processes that decode image files.
        checkpoint_minutes: the most that a crash can lose; every epoch is saved besides.
        on_nonfinite: stop | skip: what becomes of a step whose loss is no finite number, or whose
            gradient explodes.
        teacher: whose soft labels are learned beside those of the images; on `device`.
        resume: go on from train.ckpt in `out`.
        ranks: the processes that train together; `weights`, `out` and `resume` count on rank 0.

    Raises:
        ValueError: if subnet, data, recipe, weights, teacher and checkpoint don't fit together, or
            the batch can't be shared evenly.
    """

    STATE = (
        "weights", "kept", "network", "ema", "optimizer", "scaler", "guard", "epoch", "batch",
        "loss_sum", "rows", "seconds", "epoch_seconds", "rng",
    )  # fmt: skip

    def __init__(
        self,
        subnet: Subnet,
        dataset: Dataset,
        recipe: Recipe,
        *,
        task: str = CLASSIFICATION,
        seed: int,
        out: Path,
        weights: Path | None = None,
        teacher: Teacher | None = None,
        device: str = "cpu",
        workers: int = 0,
        checkpoint_minutes: float = 5.0,
        on_nonfinite: str = "stop",
        resume: bool = False,
        ranks: Ranks = ALONE,
    ):
        check_recipe(recipe)
        if not (resume or ranks.rank):
            check_start(recipe, weights)
        check_batch("recipe.batch_size", recipe.batch_size, ranks)
        _check_classes(subnet, dataset)
        check_task(task, dataset, recipe, ranks)
        if teacher is not None and task != CLASSIFICATION:
            raise ValueError(f"teacher={teacher.name} with task={task}: it teaches classes alone")
        dataset = dataset.fed_as(subnet.in_channels)
        self.subnet, self.dataset, self.recipe, self.ranks = subnet, dataset, recipe, ranks
        who = identity(subnet, dataset, recipe, seed, teacher, task)
        self.identity = {**who, "processes": ranks.size}
        self.seed, self.out, self.task = seed, out, task
        self.device = torch.device(device)
        self.checkpoint_s = 60 * checkpoint_minutes
        self.guard = Guard(on_nonfinite, self.device)
        own = min(sides(subnet.resolution))
        self.resolution = scaled(subnet.resolution, min(recipe.resolution or own, own))
        self.class_weights = class_weights(recipe, dataset, self.device)
        self.teacher = self.lesson = None
        if teacher is not None:
            self.teacher = teacher.identity
            self.lesson = lesson(
                teacher, dataset, self.resolution, self.device,
                temperature=recipe.teacher_temperature, weight=recipe.teacher_weight,
            )  # fmt: skip
        self.train_batches = self._batches(dataset.train, True, workers)
        self.test_batches = self._batches(dataset.test, False, workers)
        with torch.random.fork_rng(devices=self._gpus):
            torch.manual_seed(seed)
            network = Network(subnet, recipe.dropout, recipe.drop_connect)
            self.kept: list[str] = []
            if weights is not None and not resume:
                self.kept = list(load_weights(network, weights, complete=recipe.qat).kept)
            model = trainable(network, recipe)
            self.network = model.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
            self.rng = self._rng_states()
        self.weights = None if weights is None else str(weights)
        self.ema = copy.deepcopy(self.network).requires_grad_(False) if recipe.ema else None
        self.optimizer = torch.optim.SGD(
            self.network.parameters(),
            recipe.lr,
            momentum=recipe.momentum,
            weight_decay=recipe.weight_decay,
        )
        self.scaler = torch.amp.GradScaler("cuda", enabled=self._amp)
        self.epoch, self.batch, self.tested = 0, 0, 0
        self.loss_sum = 0.0
        self._pending: Tensor | None = None
        self.history: list[EpochResult] = []
        self.seconds = self.epoch_seconds = 0.0
        if ranks.rank:
            return
        out.mkdir(parents=True, exist_ok=True)
        if resume:
            self._take_over(read_checkpoint(out / CHECKPOINT, self.identity))
            log.info("going on at epoch %d, batch %d", self.epoch + 1, self.batch)
        elif exists(out / CHECKPOINT):
            raise ValueError(
                f"{out / CHECKPOINT} holds an unfinished training: resume=true goes on with it; "
                "give another out=FOLDER, or delete that file, to start anew"
            )
        elif (out / WEIGHTS).exists():
            raise ValueError(
                f"{out / WEIGHTS} holds the weights of a finished training: give another "
                "out=FOLDER, or move them away"
            )

    @property
    def _gpus(self) -> list[int]:
        return [torch.cuda.current_device()] if self.device.type == "cuda" else []

    @property
    def _amp(self) -> bool:
        return self.recipe.amp and self.device.type == "cuda" and not self.recipe.qat

    def _rng_states(self) -> list[Tensor]:
        """Those of torch's generators: of the CPU, and of the GPU where it trains on one."""
        return [torch.get_rng_state(), *(torch.cuda.get_rng_state(gpu) for gpu in self._gpus)]

    def _batches(self, images: Images, train: bool, workers: int) -> Batches:
        data, recipe, low = self.dataset, self.recipe, self.recipe.crop_scale_min
        return Batches(
            images, np.arange(len(images)), batch=recipe.batch_size, size=self.resolution,
            mean=data.mean, std=data.std, seed=self.seed, augment=train, workers=workers,
            drop_last=train, crop_scale=None if low is None else (low, 1.0),
            jitter=recipe.color_jitter, rand_augment=recipe.rand_augment,
            erasing=recipe.random_erasing, ranks=self.ranks,
        )  # fmt: skip

    def meet(self) -> None:
        """Give the other ranks the state of rank 0, and make sure that all train the same.

        Raises:
            DisagreementError, LostError: see `tfnas.process.ranks`.
        """
        ranks = self.ranks
        if ranks.size == 1:
            return
        labels = torch.from_numpy(self.dataset.train.labels)
        accelerator = self.device.type
        ranks.check_same({"options": self.identity, "accelerator": accelerator, "labels": labels})
        state = ranks.broadcast(state_of(self) if ranks.rank == 0 else None)
        if ranks.rank:
            self._take_over(state)
        ranks.check_same({"weights": list(self.network.parameters())})

    def run(
        self,
        stop: Callable[[], bool] = lambda: False,
        on_epoch: Callable[[EpochResult], None] = lambda result: None,
        until: int | None = None,
    ) -> None:
        """Train to the end, or until `stop()` is true between two batches.

        Args:
            on_epoch: called with what an epoch gave, before it is saved.
            until: the epochs after which to stop for now, saved; None: all of the recipe's.

        Raises:
            StoppedError: after saving, if it was stopped.
            DivergedError: if the loss is no finite number; the last checkpoint is left as it is.
            OSError: if a file can't be written, or a process that reads images died; the last
                checkpoint is left as it is.
            DisagreementError, LostError: see `tfnas.process.ranks`.
        """
        asked, ranks = stop, self.ranks
        if ranks.size > 1:  # all stop at the same step

            def stop() -> bool:
                return ranks.any(asked())[0]

        with torch.random.fork_rng(devices=self._gpus):
            torch.set_rng_state(self.rng[0])
            for gpu, state in zip(self._gpus, self.rng[1:], strict=False):
                torch.cuda.set_rng_state(state, gpu)
            try:
                with reading():
                    if not self.epoch and not self.batch:
                        self._calibrate()
                    while self.epoch < (self.recipe.epochs if until is None else until):
                        self._train_epoch(stop)
                        self._save()  # a test image that can't be read costs no epoch
                        on_epoch(self._finish_epoch(stop))
                        self._save()
            except StoppedError:
                self._save()
                ranks.wait()  # who ended first would have rank 0 killed while it saves
                raise

    def _calibrate(self) -> None:
        """Give a net that is trained for int8 the ranges that it starts from."""
        if not isinstance(self.network, FakeQuantized):
            return
        calibrate(
            self.network, self.dataset, self.resolution, self.recipe.batch_size, self.seed,
            self.device,
        )  # fmt: skip
        if self.ema is not None:
            self.ema.load_state_dict(self.network.state_dict())

    def _train_epoch(self, stop: Callable[[], bool]) -> None:
        """Batches `self.batch` to the last of this epoch."""
        self.network.train()
        steps = len(self.train_batches)
        started = saved = time.monotonic()
        before_s, before_epoch_s = self.seconds, self.epoch_seconds
        for images, labels in _until(self.train_batches.epoch(self.epoch, self.batch), stop):
            self._settle()  # only now: the GPU worked while this batch was made
            self._step(images, labels, self.epoch * steps + self.batch)
            self.batch += 1
            now = time.monotonic()
            self.seconds = before_s + now - started
            self.epoch_seconds = before_epoch_s + now - started
            if now - saved > self.checkpoint_s:
                saved = now
                self._save()
        self._settle()

    def _step(self, images: Tensor, labels: Tensor, step: int) -> None:
        """One step on (N, channels, H, W) and (N,) or (N, numbers)."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(step, len(self.train_batches), self.recipe)
        images = images.to(self.device, non_blocking=True)
        labels = labels.to(self.device, non_blocking=True)
        recipe, mixes = self.recipe, self.recipe.mixup or self.recipe.cutmix
        if labels.ndim == 1 and (mixes or self.class_weights is not None):
            labels = F.one_hot(labels, self.subnet.classes).float()
        if mixes:
            rng = mixing_rng(self.seed, step)
            images, labels = mixed(images, labels, rng, mixup=recipe.mixup, cutmix=recipe.cutmix)
        buffers = list(self.network.buffers())
        before = [buffer.clone() for buffer in buffers] if self.guard.skips else []
        if self.ranks.size > 1:
            # Other dropout on each rank, and none of their states for a checkpoint to hold.
            torch.manual_seed(step_seed(self.seed, step, self.ranks.rank))
        with torch.autocast(self.device.type, torch.float16, enabled=self._amp):
            logits = self.network(images)
            loss = TASKS[self.task].loss(logits, labels, recipe.label_smoothing, self.class_weights)
            if self.lesson is not None:
                loss = self.lesson.mixed_in(loss[None], images, [logits])[0]
        figures = loss.detach().clone().view(1)
        if guarded_step(
            self.optimizer, loss, figures, self.guard, self._where(), clip=self.recipe.clip,
            ranks=self.ranks, statistics=[b for b in buffers if b.is_floating_point()],
            scaler=self.scaler,
        ):  # fmt: skip
            self._pending = figures
            if self.ema is not None:
                _average(self.ema, self.network, self.recipe.ema, step)
            return
        for buffer, value in zip(buffers, before, strict=True):
            buffer.copy_(value)  # the running statistics have seen it already

    def _where(self) -> str:
        """What the guard says of a bad step here."""
        return (
            "the loss is {loss:g} and its gradient's norm {norm:g} "
            f"at epoch {self.epoch + 1}, batch {self.batch + 1} (seed {self.seed}); try a lower "
            f"recipe.lr than {self.recipe.lr:g}, a longer recipe.warmup_epochs or a smaller "
            "recipe.clip, or skip such steps with on_nonfinite=skip"
        )

    def _settle(self) -> None:
        """Wait for the last step's figures and add up its loss; raises DivergedError."""
        self.guard.settle()
        if self._pending is not None:
            self.loss_sum += float(self._pending)
            self._pending = None

    def _finish_epoch(self, stop: Callable[[], bool]) -> EpochResult:
        """Test what was trained."""
        started = time.monotonic()
        model = self._tested_model
        batches = self._tested(_until(self.test_batches.epoch(0), stop))
        found = TASKS[self.task].test(model, batches, self.ranks)
        if not math.isfinite(found.loss):
            raise DivergedError(
                f"the loss on the test set is {found.loss} after epoch {self.epoch + 1}; try a "
                f"lower recipe.lr than {self.recipe.lr:g}"
            )
        steps, spent = len(self.train_batches), time.monotonic() - started
        result = EpochResult(
            epoch=self.epoch + 1,
            lr=learning_rate((self.epoch + 1) * steps - 1, steps, self.recipe),
            train_loss=self.loss_sum / steps,
            loss=found.loss,
            top1=found.top1,
            top5=found.top5,
            seconds=self.epoch_seconds + spent,
            scores=found.scores,
        )
        self.history.append(result)
        self.seconds += spent
        self.epoch, self.batch, self.tested = self.epoch + 1, 0, 0
        self.loss_sum = self.epoch_seconds = 0.0
        log.info(
            "epoch %d/%d: train loss %.3f, test loss %.3f, %s at %s px, %s",
            result.epoch, self.recipe.epochs, result.train_loss, result.loss,
            told(result.top1, result.scores), self.resolution, duration(result.seconds),
        )  # fmt: skip
        self.ranks.check_same({"weights": list(model.state_dict().values())})
        return result

    def _tested(self, batches: Iterator[tuple[Tensor, Tensor]]) -> Iterator[tuple[Tensor, Tensor]]:
        for images, labels in batches:
            yield images, labels
            self.tested += 1

    def progress(self) -> tuple[float, str]:
        """The fraction done of all, and where it is."""
        train, test = TRAIN_COST * len(self.train_batches), len(self.test_batches)
        done = self.epoch * (train + test) + TRAIN_COST * self.batch + self.tested
        where = f"batch {self.batch}/{len(self.train_batches)}"
        if self.batch == len(self.train_batches):
            where = f"test batch {self.tested}/{test}"
        if self.batch > 1 and self.loss_sum:
            where += f", loss {self.loss_sum / self.batch:.3f}"
        share = done / (self.recipe.epochs * (train + test))
        return share, f"epoch {self.epoch + 1}/{self.recipe.epochs}, {where}"

    def _save(self) -> None:
        self._settle()
        if self.ranks.rank == 0:
            self.rng = self._rng_states()
            write_checkpoint(self.out / CHECKPOINT, {"identity": self.identity, **state_of(self)})

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The history, as a checkpoint can hold it."""
        return [result.values for result in self.history]

    @rows.setter
    def rows(self, rows: list[dict[str, Any]]) -> None:
        self.history = convert(rows, list[EpochResult], older=("scores",))

    def _take_over(self, state: State) -> None:
        """What `state_of` gave. Raises ValueError if it can't be of this training."""
        with fitting(f"can't go on from {self.out / CHECKPOINT}"):
            if self.weights is not None and self.weights != state["weights"]:
                raise ValueError(f"it started from weights={state['weights']}")
            restore(self, state)
            if not (
                0 <= self.epoch == len(self.history) <= self.recipe.epochs
                and 0 <= self.batch <= len(self.train_batches)
            ):
                raise ValueError(f"it is at epoch {self.epoch}, batch {self.batch}")
            torch.Generator().set_state(self.rng[0])

    @property
    def trained(self) -> Trained:
        """What the last finished epoch gave."""
        data, last, model = self.dataset, self.history[-1], self._tested_model
        return Trained(
            data=f"{data.name}: {data.origin}",
            classes=data.classes,
            mean=data.mean,
            std=data.std,
            crop_fraction=1.0 if isinstance(data.test, ArrayImages) else EVAL_FRACTION,
            resolution=self.resolution,
            top1=last.top1,
            top5=last.top5,
            scores=last.scores,
            quantized=model.trained_ranges if isinstance(model, FakeQuantized) else None,
        )

    @property
    def _tested_model(self) -> nn.Module:
        """What is tested and kept: the averaged weights where the recipe averages."""
        return self.network if self.ema is None else self.ema

    @property
    def state(self) -> dict[str, Tensor]:
        """The weights that are kept, of a `Network`."""
        model = self._tested_model
        return (model.network if isinstance(model, FakeQuantized) else model).state_dict()


def _check_classes(subnet: Subnet, dataset: Dataset) -> None:
    if subnet.classes != len(dataset.classes):
        raise ValueError(
            f"the subnet has {subnet.classes} classes, the data {dataset.name} has "
            f"{len(dataset.classes)} ({dataset.origin}): give the data it was searched for, or "
            "reset_classifier=true and out=FOLDER"
        )


@torch.no_grad()
def _average(averaged: nn.Module, network: nn.Module, decay: float, step: int) -> None:
    """Exponential moving average of weights and statistics, faster in the first steps.

    With the full decay from the start, the initial running variances of 1 weigh for hundreds of
    steps and shrink the signal from layer to layer: top-1 10 % after an epoch that reaches 80 %.
    """
    rate = 1 - min(decay, (1 + step) / (10 + step))
    pairs = zip(averaged.state_dict().values(), network.state_dict().values(), strict=True)
    for mean, value in pairs:
        if mean.is_floating_point():
            mean.lerp_(value, rate)
        else:
            mean.copy_(value)


def _until(
    batches: Iterator[tuple[Tensor, Tensor]], stop: Callable[[], bool]
) -> Iterator[tuple[Tensor, Tensor]]:
    """The batches; raises StoppedError before the next one once `stop()` is true."""
    while True:
        if stop():
            raise StoppedError
        try:
            batch = next(batches)
        except StopIteration:
            return
        yield batch
