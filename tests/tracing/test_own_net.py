"""A module becomes a net of ours with the same outputs, and lies in the space around it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import tfnas
from tests.support import own_nets
from tests.support.nets import few_images, randomize
from tfnas.nets.blocks import Network
from tfnas.nets.weights import load_weights
from tfnas.tracing.own_net import OwnNet, UnfitError


def own(module: nn.Module, resolution: int = 64) -> OwnNet:
    return tfnas.space_from(module, "mine", resolution=resolution)


@pytest.mark.parametrize(
    ("factory", "folded", "unused"),
    [(own_nets.mobilenet_v2, 0, 0), (own_nets.mobilenet_v3, 0, 0), (own_nets.functional, 40, 20)],
)
def test_the_net_computes_what_the_module_does(
    factory: Callable[[], nn.Module], folded: int, unused: int
) -> None:
    module = factory()
    found = own(module)
    assert (found.folded, found.unused) == (folded, unused)
    params = sum(parameter.numel() for parameter in module.parameters())
    assert found.subnet.params == params - folded - unused
    images = torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected, logits = module(images), found.network(images)
    assert expected.std() > 1e-3
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))
    for quantum in (1, 8, 16, 32):
        assert found.subnet in found.space.build(quantum)


def test_another_epsilon_is_made_up_for_where_it_counts() -> None:
    module = own_nets.mobilenet_v3()
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            assert layer.running_var is not None
            layer.running_var.mul_(1e-3)  # near the epsilon
    assert own(module).difference < 1e-5


def test_the_module_and_the_random_numbers_stay_as_they_were() -> None:
    module = own_nets.mobilenet_v2().train().double()
    before, state = torch.get_rng_state(), {k: v.clone() for k, v in module.state_dict().items()}
    assert own(module).network.training is False
    assert torch.equal(torch.get_rng_state(), before)
    assert module.training
    assert all(torch.equal(value, state[name]) for name, value in module.state_dict().items())


def test_a_net_of_the_gallery_comes_back() -> None:
    net = tfnas.create_model("mobilenetv3_like_2m.tiny", in_channels=1)
    randomize(net)
    found = tfnas.space_from(net, "mine", resolution=32, in_channels=1)
    assert found.subnet.ops == net.subnet.ops
    assert found.network.state_dict().keys() == net.state_dict().keys()
    for name, value in net.state_dict().items():
        assert torch.equal(found.network.state_dict()[name], value), name


def test_what_is_saved_is_what_training_takes(tmp_path: Path) -> None:
    found = tfnas.space_from(own_nets.mobilenet_v2(), "mine", resolution=[32, 48])
    found.save(tmp_path, ["of a test"])
    subnet = tfnas.load_subnet(tmp_path / "subnet.json")
    assert subnet == found.subnet
    network = Network(subnet).eval()
    loaded = load_weights(network, tmp_path / "weights.safetensors", complete=True)
    assert (loaded.kept, loaded.trained) == ((), None)
    images = torch.ones(1, 3, 32, 48)
    with torch.inference_mode():
        assert torch.equal(network(images), found.network(images))
    assert (tmp_path / "space" / "mine.yaml").read_text().startswith("# of a test\nname: mine\n")


def test_a_search_takes_the_space() -> None:
    from tests.support.spaces import macs_table

    images = few_images(train=400, test=100)
    found = tfnas.space_from(
        tfnas.create_model("mobilenetv2_like_2m.tiny", classes=len(images.classes)), "mine",
        resolution=32, kernels=[3], expansions=[3],
    )  # fmt: skip
    table = macs_table(found.space.build(8), quantum=8)
    net = tfnas.find_net(
        found.space, images, table, 1e6, budget="test", at_most=True, cores=1, strategy="random"
    )
    assert net.subnet in found.space.build(8)


def test_a_module_with_blocks_that_do_not_fit_is_refused() -> None:
    with pytest.raises(UnfitError, match=r"^5 of 7 blocks fit no space: maxpool: .*; and 2 more$"):
        own(own_nets.resnet())
    with pytest.raises(ValueError, match="no block to be searched between its first layer and its"):
        own(nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.AdaptiveAvgPool2d(1),
                          nn.Flatten(), nn.Linear(8, 5)))  # fmt: skip


class More(nn.Module):
    """What runs beside the net, and is lost."""

    def __init__(self, forward: Callable[[nn.Module, Tensor], Tensor]):
        super().__init__()
        self.net, self.function = own_nets.mobilenet_v2(), forward

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self.net, x)


def test_what_differs_is_said() -> None:
    def wasteful(net: nn.Module, x: Tensor) -> Tensor:
        net(x.flip(3))
        return net(x)

    with pytest.raises(ValueError, match="multiply-adds an image, the net"):
        own(More(wasteful))

    def by_tracing(net: nn.Module, x: Tensor) -> Tensor:
        out: Tensor = net(x)
        return out if torch.compiler.is_exporting() else F.relu(out)

    with pytest.raises(ValueError, match="its outputs and those of the net differ by"):
        own(More(by_tracing))
