"""Distillation (arXiv 1503.02531): a net learns what another one says of the same images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from tfnas.data.images import Dataset, some
from tfnas.space.size import Size, sides


@dataclass(frozen=True)
class Teacher:
    """A net that is ready to be asked; see `tfnas.runs.teachers` for where one comes from.

    Attributes:
        name: as errors call it.
        identity: tells it from others, wherever it lies.
        logits: float32 (N, channels, H, W) to (N, classes).
        classes: None: it doesn't tell.
        mean, std: of each channel in 0..1, that its images are normalized by; None: the data's.
    """

    name: str
    identity: str
    logits: Callable[[Tensor], Tensor]
    classes: tuple[str, ...] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    resolution: Size | None = None  # that it was trained at or is made for; None: any


def lesson(
    teacher: Teacher, dataset: Dataset, resolution: Size, device: torch.device
) -> Callable[[Tensor], Tensor]:
    """What the teacher says of batches of these images, normalized as the data says: its logits.

    Raises:
        ValueError: if it has other classes, or can't be asked about such images.
    """
    if teacher.classes not in (None, dataset.classes):
        raise ValueError(
            f"teacher={teacher.name} tells the classes {some(teacher.classes or ())}, the data "
            f"{dataset.name} has {some(dataset.classes)}: give one of the same classes, in order"
        )
    if teacher.resolution not in (None, resolution):
        raise ValueError(
            f"teacher={teacher.name} takes images of {teacher.resolution} px, this training has "
            f"{resolution} px: give recipe.resolution or another teacher"
        )
    mean, std, its_mean, its_std = (
        torch.tensor(values, device=device).view(1, -1, 1, 1)
        for values in (
            dataset.mean, dataset.std, teacher.mean or dataset.mean, teacher.std or dataset.std
        )
    )  # fmt: skip
    scale, shift = std / its_std, (mean - its_mean) / its_std

    @torch.no_grad()
    def logits(images: Tensor) -> Tensor:
        return teacher.logits(images * scale + shift)

    shape, classes = (2, dataset.channels, *sides(resolution)), len(dataset.classes)
    try:
        found = logits(torch.zeros(shape, device=device))
    except Exception as error:  # whatever a user's module or onnxruntime raises
        reason = str(error).strip().partition("\n")[0]
        raise ValueError(
            f"teacher={teacher.name} can't be asked about images {shape}: {reason}"
        ) from error
    if not isinstance(found, Tensor) or found.shape != (2, classes):
        told = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise ValueError(
            f"teacher={teacher.name} gives {told} for images {shape}: expected logits "
            f"(2, {classes}), for the classes of the data {dataset.name}"
        )
    return logits


def distillation(logits: Tensor, teachers: Tensor, temperature: float) -> Tensor:
    """Kullback-Leibler divergence of softened outputs, times the temperature squared.

    So its gradients are as large at any temperature.

    Args:
        logits, teachers: (N, classes).
    """
    ours, theirs = (F.log_softmax(x / temperature, dim=1) for x in (logits, teachers))
    return temperature**2 * F.kl_div(ours, theirs, reduction="batchmean", log_target=True)
