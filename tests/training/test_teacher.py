"""Distillation is its formula, and a teacher that doesn't fit is refused before it is needed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.support.nets import few_images
from tfnas.training.teacher import Teacher, distillation, lesson

DATA = few_images(train=20, test=20)
CPU = torch.device("cpu")


def ten(images: Tensor) -> Tensor:
    """The mean of the first channel, in ten classes."""
    return images[:, 0].mean(dim=(1, 2))[:, None].expand(-1, 10)


TEACHER = Teacher("some", "some 123", ten)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_distillation_is_its_formula(temperature: float) -> None:
    ours, theirs = torch.randn(2, 5, 7, generator=torch.Generator().manual_seed(0)).double()

    def soft(logits: Tensor) -> np.ndarray:
        e = np.exp(logits.numpy() / temperature)
        found: np.ndarray = e / e.sum(1, keepdims=True)
        return found

    p, q = soft(theirs), soft(ours)
    expected = temperature**2 * (p * (np.log(p) - np.log(q))).sum(1).mean()
    assert float(distillation(ours, theirs, temperature)) == pytest.approx(expected)
    assert float(distillation(ours, ours, temperature)) == pytest.approx(0, abs=1e-12)


def test_a_teacher_sees_images_normalized_its_own_way() -> None:
    pixels = torch.rand(4, 3, 8, 8)
    mean, std = (torch.tensor(x).view(1, 3, 1, 1) for x in (DATA.mean, DATA.std))
    given = (pixels - mean) / std
    as_ours = lesson(TEACHER, DATA, 8, CPU)(given)
    assert torch.allclose(as_ours, ten(given))
    own = replace(TEACHER, mean=(0.5, 0.4, 0.3), std=(0.1, 0.2, 0.3), classes=DATA.classes)
    expected = ten((pixels - 0.5) / 0.1)
    assert torch.allclose(lesson(own, DATA, 8, CPU)(given), expected, atol=1e-5)


def test_nothing_is_learned_by_a_teacher() -> None:
    module = nn.Sequential(nn.Flatten(), nn.Linear(3 * 64, 10))
    ask = lesson(replace(TEACHER, logits=module), DATA, 8, CPU)
    assert not ask(torch.randn(2, 3, 8, 8)).requires_grad


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"classes": ("a", "b")}, "tells the classes a, b, the data fashion_mnist has T-shirt"),
        ({"classes": DATA.classes[::-1]}, "the same classes, in order"),
        ({"resolution": 16}, "takes images of 16 px, this training has 8 px"),
        (
            {"logits": lambda x: x[:, 0, 0]},
            r"gives \(2, 8\) for images .*expected logits \(2, 10\)",
        ),
        ({"logits": lambda x: [x]}, "gives list for images"),
        (
            {"logits": nn.Conv2d(1, 10, 8)},
            r"can't be asked about images \(2, 3, 8, 8\): .*channels",
        ),
    ],
)
def test_a_teacher_that_does_not_fit(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"teacher=some.*{message}"):
        lesson(replace(TEACHER, **change), DATA, 8, CPU)
