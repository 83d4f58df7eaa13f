"""Distillation is its formula, and a lesson mixes it into the loss of every path."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from tfnas.nets.distillation import Lesson, distillation

SEEDED = torch.Generator().manual_seed(0)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_distillation_is_its_formula(temperature: float) -> None:
    ours, theirs = torch.randn(2, 5, 7, generator=SEEDED).double()

    def soft(logits: Tensor) -> np.ndarray:
        e = np.exp(logits.numpy() / temperature)
        found: np.ndarray = e / e.sum(1, keepdims=True)
        return found

    p, q = soft(theirs), soft(ours)
    expected = temperature**2 * (p * (np.log(p) - np.log(q))).sum(1).mean()
    assert float(distillation(ours, theirs, temperature)) == pytest.approx(expected)
    assert float(distillation(ours, ours, temperature)) == pytest.approx(0, abs=1e-12)


def test_a_teacher_is_asked_once_and_has_its_share_of_every_path() -> None:
    images, outputs = torch.randn(4, 3, 8, 8, generator=SEEDED), torch.randn(2, 4, 5)
    theirs, asked = torch.randn(4, 5, generator=SEEDED), []

    def teacher(given: Tensor) -> Tensor:
        asked.append(given)
        return theirs

    losses = torch.tensor([1.0, 2.0])
    mixed = Lesson(teacher, 3.0, 0.25).mixed_in(losses, images, list(outputs))
    for found, loss, logits in zip(mixed, losses, outputs, strict=True):
        assert float(found) == pytest.approx(
            0.75 * float(loss) + 0.25 * float(distillation(logits, theirs, 3.0)), rel=1e-5
        )
    assert len(asked) == 1
    assert asked[0] is images
    assert torch.equal(Lesson(teacher, 3.0, 0.0).mixed_in(losses, images, list(outputs)), losses)
