"""mixup and CutMix are their formulas with the lambda that was drawn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from tfnas.training.mixing import mixed, mixing_rng

N, CLASSES, SIDE = 6, 4, 20


@pytest.fixture
def images() -> Tensor:
    return torch.randn(N, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def labels() -> Tensor:
    return F.one_hot(torch.arange(N) % CLASSES, CLASSES).float()


def test_mixup_is_its_formula(images: Tensor, labels: Tensor) -> None:
    before = images.clone()
    for step in range(5):
        found = mixed(images, labels, mixing_rng(0, step), mixup=0.4, cutmix=0.0)
        kept = mixing_rng(0, step).beta(0.4, 0.4)
        for whole, mix in zip((images, labels), found, strict=True):
            for i in range(N):
                expected = kept * whole[i] + (1 - kept) * whole[N - 1 - i]
                assert torch.allclose(mix[i], expected, atol=1e-6)
    assert torch.equal(images, before)


def test_the_share_of_labels_is_the_pasted_area(images: Tensor, labels: Tensor) -> None:
    before, shares = images.clone(), []
    for step in range(50):
        mixes, soft = mixed(images, labels, mixing_rng(1, step), mixup=0.0, cutmix=1.0)
        pasted = (mixes != images).all(dim=1)  # (N, H, W)
        assert torch.equal(mixes, torch.where(pasted[:, None], images.flip(0), images))
        rows, columns = pasted[0].any(1), pasted[0].any(0)
        assert torch.equal(pasted, (rows[:, None] & columns).expand_as(pasted))  # one box for all
        share = float(pasted[0].float().mean())
        assert torch.allclose(soft, share * labels.flip(0) + (1 - share) * labels, atol=1e-6)
        shares.append(share)
    assert np.std(shares) > 0.1
    assert torch.equal(images, before)


def test_a_box_has_the_share_that_lambda_leaves() -> None:
    """Where its centre is far enough from the border."""
    images, labels = torch.arange(2.0).view(2, 1, 1, 1).expand(2, 1, 100, 100), torch.eye(2)
    whole = 0
    for step in range(100):
        kept = mixing_rng(0, step).beta(1.0, 1.0)
        _, soft = mixed(images, labels, mixing_rng(0, step), mixup=0.0, cutmix=1.0)
        assert soft[0, 0] >= kept - 1e-6
        whole += bool(soft[0, 0] < kept + 0.03)
    assert whole > 8


def test_a_coin_says_which_where_both_are_given(images: Tensor, labels: Tensor) -> None:
    pasted = []
    for step in range(200):
        mixes, _ = mixed(images, labels, mixing_rng(0, step), mixup=0.2, cutmix=1.0)
        pasted.append(bool(((mixes == images) | (mixes == images.flip(0))).all()))
    assert np.mean(pasted) == pytest.approx(0.5, abs=0.1)


def test_a_step_draws_the_same_again_and_another_one_else() -> None:
    assert mixing_rng(0, 3).random() == mixing_rng(0, 3).random() != mixing_rng(0, 4).random()
