"""What a recipe's values mean: their bounds, and the learning rate of a step."""

from __future__ import annotations

import math
from dataclasses import MISSING, dataclass, fields
from typing import Annotated, Any

from tfnas.process.checks import between, check_fields

FRACTION = between(0, 1)


@dataclass
class Recipe:
    """How a subnet is trained (conf/recipe/)."""

    name: str
    max_train: int | None  # class-balanced upper limit on the training images; null: all
    epochs: Annotated[int, between(1, 100_000)]
    batch_size: Annotated[int, between(2, 1_000_000)]
    lr: Annotated[float, between(0, 1e6)]
    momentum: Annotated[float, FRACTION]
    weight_decay: Annotated[float, FRACTION]
    warmup_epochs: Annotated[float, between(0, math.inf)]  # linear, from 0
    clip: Annotated[float, between(0, math.inf)]  # norm of the gradient, 0 for none
    label_smoothing: Annotated[float, FRACTION]
    dropout: Annotated[float, FRACTION]
    # Grows linearly with depth, from 0 at the first block to near this.
    drop_connect: Annotated[float, FRACTION]
    ema: Annotated[float, FRACTION]  # decay of averaged weights, 0 for none
    # Pixels of the shorter side, at most those of the deployed subnet; null: just those.
    resolution: Annotated[int | None, between(1, 8_192)]
    # Smallest area of a random crop, fraction of the image; null: as the kind of data has it, see
    # `tfnas.data.sets`.
    crop_scale_min: Annotated[float | None, between(1e-3, 1)]
    color_jitter: Annotated[float, FRACTION]  # largest change of brightness, contrast, saturation
    amp: bool  # float16 autocast where a GPU trains
    # What came later: with these values nothing is changed, see `options`.
    rand_augment: Annotated[float, between(0, 10)] = 0.0  # magnitude as in timm, 0 for none
    # Both parameters of the beta distribution of lambda, 0 for none.
    mixup: Annotated[float, between(0, 100)] = 0.0
    cutmix: Annotated[float, between(0, 100)] = 0.0
    random_erasing: Annotated[float, FRACTION] = 0.0  # share of the images
    # Of a teacher, where there is one (arXiv 1503.02531): what softens its labels, and the share of
    # the loss that they have; the rest is that of the images' own labels.
    teacher_temperature: Annotated[float, between(0.01, 1000)] = 4.0
    teacher_weight: Annotated[float, FRACTION] = 0.9
    # Null, balanced (the rarer a class, the more), or a list: the weight of each class in the loss.
    class_weights: Any = None
    # Fine-tuning as the net computes in int8, see `tfnas.training.qat`; with weights of 7 bits.
    qat: bool = False
    qat_reduce_range: bool = False


def options(recipe: Recipe) -> dict[str, Any]:
    """What tells one recipe from another, by name.

    What came later is left out where it changes nothing, as trainings of before have it.
    """
    values = vars(recipe)
    return {
        f.name: values[f.name]
        for f in fields(recipe)
        if f.default is MISSING or values[f.name] != f.default
    }


def learning_rate(step: int, steps_per_epoch: int, recipe: Recipe) -> float:
    """Linear from 0 over the warm-up, then half a cosine to 0 (arXiv 1608.03983, one cycle)."""
    warmup = recipe.warmup_epochs * steps_per_epoch
    if step < warmup:
        return recipe.lr * (step + 1) / warmup
    share = (step - warmup) / (recipe.epochs * steps_per_epoch - warmup)
    return recipe.lr * 0.5 * (1 + math.cos(math.pi * share))


def check_recipe(recipe: Recipe) -> None:
    """Raises ValueError for the first value that makes no training."""
    check_fields("recipe", recipe)
    for name in ("momentum", "dropout", "drop_connect", "ema"):
        if getattr(recipe, name) == 1:
            raise ValueError(f"recipe.{name}=1: expected below 1, or nothing is learned")
    weights = recipe.class_weights
    if weights not in (None, "balanced") and not (
        isinstance(weights, list)
        and all(type(w) in (int, float) and 0 < w < math.inf for w in weights)
    ):
        raise ValueError(
            f"recipe.class_weights={weights!r}: expected null, balanced, or a list of numbers "
            "above 0"
        )
    if recipe.qat_reduce_range and not recipe.qat:
        raise ValueError("recipe.qat_reduce_range=true: expected recipe.qat=true")
    if recipe.lr == 0 or recipe.warmup_epochs >= recipe.epochs:
        raise ValueError(
            f"recipe.lr={recipe.lr} recipe.warmup_epochs={recipe.warmup_epochs}: expected lr above "
            f"0 and a warm-up shorter than the {recipe.epochs} epochs"
        )
