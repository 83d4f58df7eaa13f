"""How often a network is right."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tfnas.process.ranks import ALONE, Ranks


class Accuracy(NamedTuple):
    top1: float  # fraction
    top5: float  # fraction; among all classes where there are fewer than five
    loss: float  # cross entropy, without smoothing


def accuracy(
    model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], ranks: Ranks = ALONE
) -> Accuracy:
    """Accuracy in eval mode, on the device of the model; its mode is restored.

    Args:
        model: (N, channels, R, R) -> (N, classes) logits.
        batches: float32 (N, channels, R, R) and int64 (N,); this rank's part of them.
        ranks: whose parts count together.

    Raises:
        ValueError: if there is no image.
    """
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    first = top = count = 0
    loss = 0.0
    try:
        with torch.inference_mode():
            for images, labels in batches:
                if len(labels) == 0:
                    continue  # of the rest of a set others have the images
                labels = labels.to(device, non_blocking=True)
                logits = model(images.to(device, non_blocking=True)).float()
                best = logits.topk(min(5, logits.shape[1]), dim=1).indices  # (N, <= 5)
                hits = best == labels[:, None]
                first += int(hits[:, 0].sum())
                top += int(hits.sum())
                loss += float(F.cross_entropy(logits, labels, reduction="sum"))
                count += len(labels)
    finally:
        model.train(was_training)
    right, right_of_5, losses, total = ranks.sum(first, top, loss, count)
    if total == 0:
        raise ValueError("no image to measure an accuracy on")
    return Accuracy(right / total, right_of_5 / total, losses / total)
