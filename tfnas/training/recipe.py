"""What a recipe's values mean: their bounds, and the learning rate of a step."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass
class Recipe:
    """How a subnet is trained (conf/recipe/)."""

    name: str
    max_train: int | None  # class-balanced upper limit on the training images; null: all
    epochs: int
    batch_size: int
    lr: float
    momentum: float
    weight_decay: float
    warmup_epochs: float  # linear, from 0
    clip: float  # norm of the gradient, 0 for none
    label_smoothing: float
    dropout: float
    drop_connect: float  # grows linearly with depth, from 0 at the first block to near this
    ema: float  # decay of averaged weights, 0 for none
    resolution: int | None  # pixels, at most that of the deployed subnet; null: just that
    crop_scale_min: float | None  # smallest area of a random crop, fraction of the image; null:
    # as the kind of data has it, see `tfnas.data.sets`
    color_jitter: float  # largest change of brightness, contrast and saturation, fraction
    amp: bool  # float16 autocast where a GPU trains


def learning_rate(step: int, steps_per_epoch: int, recipe: Recipe) -> float:
    """Linear from 0 over the warm-up, then half a cosine to 0 (arXiv 1608.03983, one cycle)."""
    warmup = recipe.warmup_epochs * steps_per_epoch
    if step < warmup:
        return recipe.lr * (step + 1) / warmup
    share = (step - warmup) / (recipe.epochs * steps_per_epoch - warmup)
    return recipe.lr * 0.5 * (1 + math.cos(math.pi * share))


def check_recipe(recipe: Recipe) -> None:
    """Raises ValueError for the first value that makes no training."""
    bounds: tuple[tuple[str, float, float], ...] = (
        ("epochs", 1, 100_000), ("batch_size", 2, 1_000_000), ("lr", 0, 1e6), ("momentum", 0, 1),
        ("weight_decay", 0, 1), ("warmup_epochs", 0, math.inf), ("clip", 0, math.inf),
        ("label_smoothing", 0, 1), ("dropout", 0, 1), ("drop_connect", 0, 1), ("ema", 0, 1),
        ("resolution", 1, 8_192), ("crop_scale_min", 1e-3, 1), ("color_jitter", 0, 1),
    )  # fmt: skip
    for name, low, high in bounds:
        value = getattr(recipe, name)
        if value is not None and not low <= value <= high:
            raise ValueError(f"recipe.{name}={value}: expected {low:g} to {high:g}")
    for name in ("momentum", "dropout", "drop_connect", "ema"):
        if getattr(recipe, name) == 1:
            raise ValueError(f"recipe.{name}=1: expected below 1, or nothing is learned")
    if recipe.lr == 0 or recipe.warmup_epochs >= recipe.epochs:
        raise ValueError(
            f"recipe.lr={recipe.lr} recipe.warmup_epochs={recipe.warmup_epochs}: expected lr above "
            f"0 and a warm-up shorter than the {recipe.epochs} epochs"
        )
