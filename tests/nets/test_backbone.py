"""A backbone gives the maps that the whole net computes, and heads can be trained on them."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tests.support.nets import random_network, tiny_subnet
from tests.support.spaces import load_space
from tfnas.nets.backbone import Backbone, features_of
from tfnas.nets.blocks import Network


def test_maps_are_those_of_the_whole_net() -> None:
    network = random_network(tiny_subnet())
    backbone = Backbone(network)
    x = torch.randn(2, 3, 32, 32)
    seen = {}
    for name, layer in network.named_modules():
        layer.register_forward_hook(lambda _m, _i, out, name=name: seen.update({name: out}))
    with torch.no_grad():
        network(x)
        whole = dict(seen)
        maps = backbone(x)
    info = backbone.feature_info
    assert len(maps) == len(info.channels()) > 1
    for found, name, channels, reduction in zip(
        maps, info.module_name(), info.channels(), info.reduction(), strict=True
    ):
        assert torch.equal(found, whole[name])
        assert found.shape == (2, channels, 32 // reduction, 32 // reduction)
    assert len(backbone.layers) < len(network.layers)
    assert [tuple(told.values()) for told in info.get_dicts()] == list(
        zip(info.channels(), info.reduction(), info.module_name(), strict=True)
    )


def test_the_published_space_has_a_map_for_every_halving() -> None:
    subnet = load_space("tfnas").sample(random.Random(0))
    features = features_of(subnet)
    assert [feature.reduction for feature in features] == [2, 4, 8, 16, 32]
    assert [feature.channels for feature in features] == [16, 24, 40, 112, 320]


@pytest.mark.parametrize("indices", [[1, 2], [-2, -1]])
def test_indices_choose_maps_as_in_timm(indices: list[int]) -> None:
    network = Network(load_space("small").sample(random.Random(0)))
    every = features_of(network.subnet)
    backbone = Backbone(network.eval(), indices)
    assert backbone.feature_info.reduction() == [every[i].reduction for i in indices]
    x = torch.randn(1, 3, 32, 32)
    for found, wanted in zip(backbone(x), [Backbone(network)(x)[i] for i in indices], strict=True):
        assert torch.equal(found, wanted)


@pytest.mark.parametrize("indices", [[], [1, 0], [0, 0], [9], [-9], 1, "1", [1.5], [True]])
def test_maps_that_are_not_there_are_refused(indices: Any) -> None:
    with pytest.raises(ValueError, match=r"out_indices=.*expected some of 0 to \d.*reductions"):
        Backbone(Network(tiny_subnet()), indices)


def test_a_head_of_several_sizes_learns() -> None:
    """A segmenter's: maps of all sizes, each to one channel, summed at the largest one's size."""
    torch.manual_seed(0)
    backbone = Backbone(Network(tiny_subnet()))
    head = nn.ModuleList(nn.Conv2d(c, 1, 1) for c in backbone.feature_info.channels())
    x = torch.randn(8, 3, 40, 24)  # a detector's images are seldom square
    wanted = (x.mean(1, keepdim=True) > 0).float()
    step = torch.optim.Adam([*backbone.parameters(), *head.parameters()], lr=0.01)
    losses = []
    for _ in range(12):
        logits = sum(
            F.interpolate(layer(m), size=x.shape[2:])
            for layer, m in zip(head, backbone(x), strict=True)
        )
        assert isinstance(logits, torch.Tensor)
        loss = F.binary_cross_entropy_with_logits(logits, wanted)
        step.zero_grad()
        loss.backward()
        step.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]
