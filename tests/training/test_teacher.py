"""A teacher is asked as it was trained; one that doesn't fit is refused before it is needed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.support.nets import few_images
from tfnas.space.size import Size
from tfnas.training.teacher import Teacher, lesson

DATA = few_images(train=20, test=20)
CPU = torch.device("cpu")


def ten(images: Tensor) -> Tensor:
    """The mean of the first channel, in ten classes."""
    return images[:, 0].mean(dim=(1, 2))[:, None].expand(-1, 10)


TEACHER = Teacher("some", "some 123", ten)


def asked(teacher: Teacher) -> Callable[[Tensor], Tensor]:
    return lesson(teacher, DATA, 8, CPU, temperature=4.0, weight=0.9).logits


def test_a_teacher_sees_images_normalized_its_own_way() -> None:
    pixels = torch.rand(4, 3, 8, 8)
    mean, std = (torch.tensor(x).view(1, 3, 1, 1) for x in (DATA.mean, DATA.std))
    given = (pixels - mean) / std
    as_ours = asked(TEACHER)(given)
    assert torch.allclose(as_ours, ten(given))
    own = replace(TEACHER, mean=(0.5, 0.4, 0.3), std=(0.1, 0.2, 0.3), classes=DATA.classes)
    expected = ten((pixels - 0.5) / 0.1)
    assert torch.allclose(asked(own)(given), expected, atol=1e-5)


@pytest.mark.parametrize(("own", "seen"), [(None, (8, 8)), (16, (16, 16)), ((8, 12), (8, 12))])
def test_a_teacher_sees_images_at_its_own_size(own: Size | None, seen: tuple[int, int]) -> None:
    sizes = []

    def logits(images: Tensor) -> Tensor:
        sizes.append(tuple(images.shape[2:]))
        return ten(images)

    learned = asked(replace(TEACHER, logits=logits, resolution=own))
    for size in (8, 4):  # that of the net, and of a proxy with smaller images
        flat = torch.ones(2, 3, size, size)
        assert torch.allclose(learned(flat), ten(flat))
    assert set(sizes) == {seen}


def test_nothing_is_learned_by_a_teacher() -> None:
    module = nn.Sequential(nn.Flatten(), nn.Linear(3 * 64, 10))
    learned = asked(replace(TEACHER, logits=module))
    assert not learned(torch.randn(2, 3, 8, 8)).requires_grad


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"classes": ("a", "b")}, "tells the classes a, b, the data fashion_mnist has T-shirt"),
        ({"classes": DATA.classes[::-1]}, "the same classes, in order"),
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
        asked(replace(TEACHER, **change))
