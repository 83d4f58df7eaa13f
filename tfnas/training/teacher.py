"""A net that another one learns from: whether it fits the images, and how it is asked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from tfnas.data.images import Dataset, some
from tfnas.nets.distillation import Lesson
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
    teacher: Teacher,
    dataset: Dataset,
    resolution: Size,
    device: torch.device,
    *,
    temperature: float,
    weight: float,
) -> Lesson:
    """What the teacher says of batches of these images, normalized as the data says.

    Args:
        resolution: that it is asked at, unless it has its own; other images are resized.

    Raises:
        ValueError: if it has other classes, or can't be asked about such images.
    """
    if teacher.classes not in (None, dataset.classes):
        raise ValueError(
            f"teacher={teacher.name} tells the classes {some(teacher.classes or ())}, the data "
            f"{dataset.name} has {some(dataset.classes)}: give one of the same classes, in order"
        )
    size = sides(resolution if teacher.resolution is None else teacher.resolution)
    mean, std, its_mean, its_std = (
        torch.tensor(values, device=device).view(1, -1, 1, 1)
        for values in (
            dataset.mean, dataset.std, teacher.mean or dataset.mean, teacher.std or dataset.std
        )
    )  # fmt: skip
    scale, shift = std / its_std, (mean - its_mean) / its_std

    @torch.no_grad()
    def logits(images: Tensor) -> Tensor:
        images = images * scale + shift
        if images.shape[2:] != size:
            images = F.interpolate(images, size, mode="bilinear", antialias=True)
        return teacher.logits(images)

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
    return Lesson(logits, temperature, weight)
