"""Top-1 and top-5 are those counted by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from tfnas.training.accuracy import accuracy


class Fixed(nn.Module):
    """Gives the logits that it is fed."""

    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        assert not self.training
        return x


def test_counts_over_batches_of_different_size() -> None:
    logits = torch.arange(10.0).repeat(4, 1)  # (4, 10), class 9 first, then 8, ...
    labels = torch.tensor([9, 5, 4, 9])  # right, in the top five, not in it, right
    batches = [(logits[:3], labels[:3]), (logits[3:], labels[3:])]
    model = Fixed().train()
    found = accuracy(model, batches)
    assert found.top1 == pytest.approx(2 / 4)
    assert found.top5 == pytest.approx(3 / 4)
    expected = nn.functional.cross_entropy(logits, labels)
    assert found.loss == pytest.approx(float(expected), rel=1e-6)
    assert model.training


def test_fewer_than_five_classes() -> None:
    found = accuracy(Fixed(), [(torch.zeros(2, 3), torch.tensor([0, 2]))])
    assert found.top5 == 1
    assert found.loss == pytest.approx(math.log(3))


def test_no_images() -> None:
    with pytest.raises(ValueError, match="no image"):
        accuracy(Fixed(), [])
