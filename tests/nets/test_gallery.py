"""Nets of the gallery are what their names say, and what published figures say of them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from tests.support.spaces import load_space
from tfnas.costs import Macs
from tfnas.derive.architecture import Constraint
from tfnas.derive.hand_made import hand_made
from tfnas.latency import importers
from tfnas.nets.backbone import features_of
from tfnas.nets.blocks import Network
from tfnas.nets.gallery import gallery_subnet, list_models

TABLE = os.environ.get("TFNAS_REFERENCE_TABLE")


def millions(name: str) -> int:
    """Of multiply-adds, as the name has them."""
    return int(name.partition(".")[0].rpartition("_")[2].removesuffix("m"))


@pytest.mark.parametrize("name", list_models())
def test_a_net_is_of_its_space_and_can_be_run(name: str) -> None:
    net = gallery_subnet(name)
    assert net in load_space(name.partition(".")[2], net.classes, quantum=1)
    other = gallery_subnet(name, classes=7, in_channels=1)
    assert (other.classes, other.in_channels, other.blocks) == (7, 1, net.blocks)
    with torch.inference_mode():
        assert Network(other).eval()(torch.zeros(1, 1, 32, 32)).shape == (1, 7)


@pytest.mark.parametrize("name", list_models("mobilenet*"))
def test_a_hand_made_net_is_what_the_rule_gives(name: str) -> None:
    net, wanted = gallery_subnet(name), millions(name)
    assert round(net.macs / 1e6) == wanted
    space = load_space(name.partition(".")[2], net.classes, quantum=8)
    constraint = Constraint(Macs(4), 1e6 * wanted, tol=0.5 / wanted)
    assert hand_made(space, constraint, name.partition("_")[0]) == net


def test_tf_nas_a_has_its_published_multiply_adds() -> None:
    """Those of AberHu/TF-NAS, 457 M; its ops are those of JDAI-CV/FaceX-Zoo, backbone/TF_NAS.py."""
    net = gallery_subnet("tf_nas_a.tfnas")
    assert round(net.macs / 1e6) == 457
    assert [feature.reduction for feature in features_of(net)] == [2, 4, 8, 16, 32]


@pytest.mark.skipif(not TABLE, reason="TFNAS_REFERENCE_TABLE doesn't name the published table")
def test_tf_nas_a_has_its_published_latency() -> None:
    """18.03 ms were measured; it was searched for 18 ms on this table."""
    table = importers.read(Path(TABLE or ""), device="Titan RTX", batch=32).table
    assert table.total(gallery_subnet("tf_nas_a.tfnas")) == pytest.approx(18.0, rel=2e-3)


def test_models_are_listed_by_pattern() -> None:
    assert list_models("tf_nas*") == ["tf_nas_a.tfnas"]
    assert set(list_models("*.tfnas")) < set(list_models())
    assert list_models("nothing*") == []


def test_what_no_model_can_be_is_said() -> None:
    with pytest.raises(LookupError, match=r"model 'tf_nas_z': expected one of .*tf_nas_a\.tfnas"):
        gallery_subnet("tf_nas_z")
    with pytest.raises(ValueError, match="c_out=0 of a classifier: expected an integer from 1"):
        gallery_subnet("tf_nas_a.tfnas", classes=0)
