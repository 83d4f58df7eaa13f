"""Learning rates and bounds of recipes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.support.entry import compose_config
from tfnas.app.schemas import TrainConfig
from tfnas.app.values import conf_path
from tfnas.training.recipe import Recipe, check_recipe, learning_rate, options

RECIPES = sorted(path.stem for path in (conf_path() / "recipe").glob("*.yaml"))


def recipe(name: str, *overrides: str) -> Recipe:
    config = compose_config(TrainConfig, "train", "subnet=x", f"recipe={name}", *overrides)
    return config.recipe


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_is_usable_and_named_as_its_file(name: str) -> None:
    found = recipe(name)
    check_recipe(found)
    assert found.name == name
    first = (Path(conf_path()) / "recipe" / f"{name}.yaml").read_text().partition("\n")[0]
    assert f"recipe={name}" in first


def test_tfnas_is_the_published_retraining() -> None:
    r = recipe("tfnas")
    assert (r.epochs, r.batch_size, r.warmup_epochs, r.clip) == (250, 512, 5, 5)
    assert (r.lr, r.momentum, r.weight_decay) == (0.2, 0.9, 1e-5)
    assert (r.label_smoothing, r.dropout, r.drop_connect) == (0.1, 0.2, 0.2)
    assert (r.ema, r.resolution) == (0, None)


def test_learning_rate_rises_linearly_then_falls_as_a_cosine() -> None:
    r = replace(recipe("test"), epochs=10, warmup_epochs=2, lr=0.5)
    rates = [learning_rate(step, 20, r) for step in range(200)]
    assert rates[0] == pytest.approx(0.5 / 40)
    assert rates[19] == pytest.approx(0.25)
    assert rates[39] == rates[40] == 0.5
    assert rates[120] == pytest.approx(0.25)
    assert 0 < rates[-1] < 1e-4
    assert rates[40:] == sorted(rates[40:], reverse=True)


def test_no_warmup() -> None:
    assert learning_rate(0, 7, replace(recipe("test"), warmup_epochs=0, lr=0.5)) == 0.5


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("epochs", 0), ("batch_size", 1), ("lr", 0.0), ("lr", -1.0), ("lr", float("nan")),
        ("momentum", 1.0), ("weight_decay", -1e-4), ("warmup_epochs", 2.0), ("clip", -1.0),
        ("label_smoothing", 1.5), ("dropout", 1.0), ("drop_connect", 1.0), ("ema", 1.0),
        ("resolution", 0), ("crop_scale_min", 0.0), ("color_jitter", 2.0),
        ("rand_augment", 11.0), ("mixup", -0.1), ("cutmix", -1.0), ("random_erasing", 1.1),
    ],
)  # fmt: skip
def test_a_bad_value_is_named(name: str, value: float) -> None:
    changes: dict[str, Any] = {name: value}
    with pytest.raises(ValueError, match=rf"recipe\.{name}="):
        check_recipe(replace(recipe("test"), **changes))


def test_a_recipe_of_before_is_told_as_before() -> None:
    """So that its trainings go on, and a comparison finds those that are finished."""
    for name in ("quick", "small", "test", "tfnas"):
        assert list(options(recipe(name))) == [
            "name", "max_train", "epochs", "batch_size", "lr", "momentum", "weight_decay",
            "warmup_epochs", "clip", "label_smoothing", "dropout", "drop_connect", "ema",
            "resolution", "crop_scale_min", "color_jitter", "amp",
        ]  # fmt: skip
    assert options(recipe("quick", "recipe.mixup=0.3"))["mixup"] == 0.3
    added = options(recipe("strong")).keys() - options(recipe("tfnas")).keys()
    assert added == {"rand_augment", "mixup", "cutmix", "random_erasing"}


@pytest.mark.parametrize("given", ["even", [1.0, 0.0], [1.0, "x"], 3, [True]])
def test_bad_class_weights(given: object) -> None:
    with pytest.raises(ValueError, match=r"recipe\.class_weights=.*expected null, balanced"):
        check_recipe(replace(recipe("test"), class_weights=given))


def test_class_weights_of_a_command_line() -> None:
    for given, weights in (("balanced", "balanced"), ("[1,2.5]", [1, 2.5])):
        found = recipe("test", f"recipe.class_weights={given}")
        check_recipe(found)
        assert options(found)["class_weights"] == weights
