"""The loss on labels: cross entropy, of classes that may weigh differently."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from tfnas.data.images import Dataset
from tfnas.training.recipe import Recipe


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
