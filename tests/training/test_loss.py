"""Weights of classes: as many as classes, and balanced where that is asked."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.support.nets import few_images
from tfnas.app.values import load
from tfnas.training.loss import class_weights

DATA = few_images(train=100, test=20)
RECIPE = load("recipe", "test")
CPU = torch.device("cpu")


def test_balanced_classes_weigh_the_same_together() -> None:
    kept = np.flatnonzero((DATA.train.labels != 3) | (np.arange(100) % 3 == 0))
    data = replace(DATA, train=DATA.train.take(kept))
    weights = class_weights(replace(RECIPE, class_weights="balanced"), data, CPU)
    assert weights is not None
    counts = np.bincount(data.train.labels, minlength=10)
    np.testing.assert_allclose(weights.numpy() * counts, len(kept) / 10, rtol=1e-6)
    assert weights[3] == weights.max()


def test_given_weights_are_one_for_each_class() -> None:
    assert class_weights(RECIPE, DATA, CPU) is None
    weights = class_weights(replace(RECIPE, class_weights=[1, 2.5] * 5), DATA, CPU)
    assert weights is not None
    assert weights.tolist() == [1, 2.5] * 5
    with pytest.raises(ValueError, match=r"recipe\.class_weights has 3 numbers: expected 10"):
        class_weights(replace(RECIPE, class_weights=[1, 2, 3]), DATA, CPU)
