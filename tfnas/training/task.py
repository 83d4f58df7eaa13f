"""What a net learns to tell of an image: the loss on labels, and the score on the test set.

- classification: one class of several. Labels int64 (N,), or their shares (N, classes).
- multi_label: of each class whether it is there. Labels (N, classes), 0 to 1.
- regression: numbers. Labels (N, numbers).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tfnas.data.images import Dataset, FileImages, Images
from tfnas.nets.weights import Score
from tfnas.process.checks import check_choice
from tfnas.process.ranks import Ranks
from tfnas.training.accuracy import accuracy
from tfnas.training.recipe import Recipe

CLASSIFICATION = "classification"
Batched = Iterable[tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Tested:
    """What a test set says of a net.

    Attributes:
        loss: without smoothing.
        top1, top5: fractions; None: there is no one class for each image.
        scores: what tells it then.
    """

    loss: float
    top1: float | None = None
    top5: float | None = None
    scores: tuple[Score, ...] = ()


@dataclass(frozen=True)
class Task:
    """
    Attributes:
        loss: of outputs and labels, with label smoothing and weights of classes.
        test: in eval mode; of several ranks, of their parts of the batches together.
    """

    loss: Callable[[Tensor, Tensor, float, Tensor | None], Tensor]
    test: Callable[[nn.Module, Batched, Ranks], Tested]


def check_task(task: str, dataset: Dataset, recipe: Recipe, ranks: Ranks) -> None:
    """Raises ValueError where images, recipe or ranks aren't for it."""
    check_choice("task", task, TASKS)
    if task == CLASSIFICATION:
        dataset.check_by_class()
        return
    if dataset.by_class:
        raise ValueError(
            f"task={task}: data {dataset.name} has one class for each image, expected a row of "
            "numbers, as data=npz and data=list have it"
        )
    if ranks.size > 1 or recipe.class_weights is not None:
        what = "several processes" if ranks.size > 1 else "recipe.class_weights"
        raise ValueError(f"{what} with task={task}: only with task={CLASSIFICATION}")
    tested = dataset.test.labels
    if task == "multi_label":
        for images in (dataset.train, dataset.test):
            _check_shares(dataset.name, images)
        if not (tested == tested.round()).all() or not tested.any():
            raise ValueError(
                f"task=multi_label: data {dataset.name} has test labels between 0 and 1, or none "
                "of 1: no precision could be told"
            )
    elif constant := [n for n, x in zip(dataset.classes, tested.T, strict=True) if np.ptp(x) == 0]:
        raise ValueError(
            f"task=regression: all test labels of {constant[0]} in data {dataset.name} are the "
            "same: no R2 could be told"
        )


def _check_shares(name: str, images: Images) -> None:
    """Raises ValueError, naming the image, for labels that say of no class how much it is there."""
    wrong = np.argwhere(~((images.labels >= 0) & (images.labels <= 1)))
    if len(wrong):
        row, column = wrong[0]
        which = images.paths[row] if isinstance(images, FileImages) else f"image {row}"
        raise ValueError(
            f"task=multi_label: data {name} has labels outside of 0 to 1, the first "
            f"{images.labels[row, column]:g} of {which}"
        )


def class_weights(recipe: Recipe, dataset: Dataset, device: torch.device) -> Tensor | None:
    """The weight of each class, float32 (classes,); None where all are 1.

    Balanced, all classes together have the same part in the loss, whose mean stays.

    Raises:
        ValueError: if they are not as many as the classes.
    """
    given, classes = recipe.class_weights, len(dataset.classes)
    if given is None:
        return None
    if given == "balanced":
        counts = np.bincount(dataset.train.labels, minlength=classes)
        return torch.from_numpy(len(dataset.train) / (classes * counts)).float().to(device)
    if len(given) != classes:
        raise ValueError(
            f"recipe.class_weights has {len(given)} numbers: expected {classes}, one for each "
            f"class of the data {dataset.name}"
        )
    return torch.tensor(given, dtype=torch.float32, device=device)


def _cross_entropy(
    logits: Tensor, labels: Tensor, smoothing: float, weights: Tensor | None
) -> Tensor:
    return F.cross_entropy(logits, labels, weights, label_smoothing=smoothing)


def _binary_cross_entropy(
    logits: Tensor, labels: Tensor, smoothing: float, _: Tensor | None
) -> Tensor:
    smoothed = labels * (1 - smoothing) + smoothing / 2
    return F.binary_cross_entropy_with_logits(logits.float(), smoothed)


def _squared_error(outputs: Tensor, labels: Tensor, *_: object) -> Tensor:
    return F.mse_loss(outputs.float(), labels)


def _classified(model: nn.Module, batches: Batched, ranks: Ranks) -> Tested:
    found = accuracy(model, batches, ranks)
    return Tested(found.loss, found.top1, found.top5)


def _labelled(model: nn.Module, batches: Batched, _: Ranks) -> Tested:
    logits, labels = _outputs(model, batches)
    loss = float(_binary_cross_entropy(logits, labels, 0.0, None))
    pairs = zip(logits.numpy().T, labels.numpy().T, strict=True)
    precisions = [average_precision(x, y) for x, y in pairs if y.any()]
    return Tested(loss, scores=(Score("mean average precision", float(np.mean(precisions))),))


def _measured(model: nn.Module, batches: Batched, _: Ranks) -> Tested:
    outputs, labels = _outputs(model, batches)
    off = (outputs - labels).double()
    spread = (labels - labels.mean(dim=0)).double()
    r2 = 1 - off.square().sum(dim=0) / spread.square().sum(dim=0)  # (numbers,)
    scores = Score("R2", float(r2.mean())), Score("mean absolute error", float(off.abs().mean()))
    return Tested(float(off.square().mean()), scores=scores)


def average_precision(scores: np.ndarray, labels: np.ndarray) -> float:
    """The mean of the precision at each of the positives, by falling score, equal ones together.

    Args:
        scores: (N,), of any scale.
        labels: (N,), 0 or 1, one of them 1.
    """
    order = np.argsort(-scores, kind="stable")
    last = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))  # of those that are equal
    found = np.cumsum(labels[order])[last]
    return float(np.diff(found, prepend=0) @ (found / (last + 1)) / found[-1])


def _outputs(model: nn.Module, batches: Batched) -> tuple[Tensor, Tensor]:
    """What a net gives in eval mode, and the labels: float32 (N, numbers) each, on the CPU."""
    device, was_training = next(model.parameters()).device, model.training
    model.eval()
    try:
        with torch.inference_mode():
            pairs = [(model(images.to(device)).float().cpu(), labels) for images, labels in batches]
    finally:
        model.train(was_training)
    outputs, labels = zip(*pairs, strict=True)
    return torch.cat(outputs), torch.cat(labels)


TASKS: Mapping[str, Task] = {
    CLASSIFICATION: Task(_cross_entropy, _classified),
    "multi_label": Task(_binary_cross_entropy, _labelled),
    "regression": Task(_squared_error, _measured),
}
