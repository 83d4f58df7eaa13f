"""Distillation (arXiv 1503.02531): a net learns what another one says of the same images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class Lesson:
    """What a teacher says of images, and what it counts.

    Attributes:
        logits: float32 (N, channels, H, W), normalized as the net gets them, to (N, classes).
        temperature: softens both sides.
        weight: its share of the loss.
    """

    logits: Callable[[Tensor], Tensor]
    temperature: float
    weight: float

    def mixed_in(self, losses: Tensor, images: Tensor, outputs: Sequence[Tensor]) -> Tensor:
        """The losses with the teacher's part, which is asked once.

        Args:
            losses: (K,), by the labels, of K nets or paths.
            images: (N, channels, H, W) that they were given.
            outputs: their logits, (N, classes) each.
        """
        theirs = self.logits(images)
        taught = [distillation(logits, theirs, self.temperature) for logits in outputs]
        return torch.lerp(losses, torch.stack(taught), self.weight)


def distillation(logits: Tensor, teachers: Tensor, temperature: float) -> Tensor:
    """Kullback-Leibler divergence of softened outputs, times the temperature squared.

    So its gradients are as large at any temperature.

    Args:
        logits, teachers: (N, classes).
    """
    ours, theirs = (F.log_softmax(x / temperature, dim=1) for x in (logits, teachers))
    return temperature**2 * F.kl_div(ours, theirs, reduction="batchmean", log_target=True)
