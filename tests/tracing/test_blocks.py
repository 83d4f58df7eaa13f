"""Blocks of nets as people write them, and the reasons why others fit no space."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import tfnas
from tests.support import own_nets
from tfnas.nets.gallery import list_models
from tfnas.space.ops import OpSpec
from tfnas.tracing.blocks import Block, read_blocks
from tfnas.tracing.idioms import known
from tfnas.tracing.tracer import trace

SIZE = 16  # px of the images of nets that are written here


def blocks_of(module: nn.Module, size: int = SIZE, channels: int = 3) -> tuple[Block, ...]:
    return read_blocks(known(trace(module, channels, size)))


@pytest.mark.parametrize("name", list_models())
def test_a_net_of_ours_is_read_as_it_is(name: str) -> None:
    net = tfnas.create_model(name)
    found = blocks_of(net, 32)
    there = [(number, op) for number, op in enumerate(net.subnet.ops) if not op.free]
    size = 32
    for block, (number, op) in zip(found, there, strict=True):
        assert block.path == f"layers.{number}"
        assert block.op == replace(op, size=size)
        size = block.op.out_size


def test_a_mobilenet_v2_of_sequentials() -> None:
    found = {block.path: block.op for block in blocks_of(own_nets.mobilenet_v2(), 64)}
    assert list(found) == [*(f"features.{n}" for n in range(9)), "classifier"]
    assert found["features.0"] == OpSpec("conv", 64, 3, 0, 0, 16, 3, 2, "relu6")
    assert found["features.1"] == OpSpec("mbconv", 32, 16, 16, 0, 8, 3, 1, "relu6")
    assert found["features.2"] == OpSpec("mbconv", 32, 8, 48, 0, 12, 3, 2, "relu6")
    assert found["features.8"] == OpSpec("conv", 8, 24, 0, 0, 64, 1, 1, "relu6")
    assert found["classifier"] == OpSpec("classifier", 8, 64, 0, 0, 7, 1, 1, "none")


def test_a_mobilenet_v3_with_activations_written_out() -> None:
    found = {block.path: block.op for block in blocks_of(own_nets.mobilenet_v3(), 64)}
    assert list(found) == [
        "conv1",
        *(f"bneck.{n}" for n in range(5)),
        "conv2",
        "linear3",
        "linear4",
    ]
    assert found["conv1"] == OpSpec("conv", 64, 3, 0, 0, 16, 3, 2, "hard_swish")
    assert found["bneck.0"] == OpSpec("mbconv_v3", 32, 16, 16, 8, 16, 3, 2, "relu")
    assert found["bneck.2"] == OpSpec("mbconv", 8, 24, 88, 0, 24, 3, 1, "relu")
    assert found["bneck.4"] == OpSpec("mbconv_v3", 8, 40, 240, 64, 40, 5, 1, "hard_swish")
    assert found["linear3"] == OpSpec("pooled_linear", 8, 96, 0, 0, 128, 1, 1, "hard_swish")


def test_a_net_of_functions() -> None:
    found = {block.path: block.op for block in blocks_of(own_nets.functional())}
    assert list(found) == ["conv1", "pw1", "last"]
    assert found["pw1"] == OpSpec("mbconv", 8, 8, 32, 4, 8, 3, 1, "swish")


def test_a_resnet_is_refused_block_by_block() -> None:
    reasons = {block.path: block.reason for block in blocks_of(own_nets.resnet(), 64)}
    wanted = "; expected conv 1×1, depthwise conv, conv 1×1"
    two = f"its input is added to conv 3×3, conv 3×3{wanted}"
    assert reasons == {
        "conv1": "",
        "maxpool": "max_pool2d: no layer of a space does this",
        "layer1.0": two,
        "layer1.1": two,
        "layer2.0": f"branches of conv 3×3, conv 3×3, conv 1×1{wanted}",
        "layer2.1": two,
        "fc": "",
    }


# -- what is refused: one block of a small net is another one --------------------------------------


class Net(nn.Module):
    """A block between a stem and a head that fit."""

    def __init__(self, block: nn.Module, c_out: int = 8):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 1, 1), nn.BatchNorm2d(8), nn.ReLU())
        self.block = block
        self.after = nn.Sequential(nn.Conv2d(c_out, 8, 1), nn.BatchNorm2d(8), nn.ReLU())
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.after(self.block(self.stem(x))).mean([2, 3]))


class Block8(nn.Module):
    """An inverted residual block of 8 channels, part by part."""

    def __init__(self, **parts: nn.Module | None):
        super().__init__()
        given: dict[str, nn.Module | None] = {
            "expand": nn.Sequential(nn.Conv2d(8, 16, 1, bias=False), nn.BatchNorm2d(16)),
            "act": nn.ReLU(),
            "depthwise": nn.Conv2d(16, 16, 3, 1, 1, groups=16, bias=False),
            "norm": nn.BatchNorm2d(16),
            "act2": nn.ReLU(),
            "squeeze": None,
            "project": nn.Sequential(nn.Conv2d(16, 8, 1, bias=False), nn.BatchNorm2d(8)),
            "act3": None,
            "act4": None,
        }
        parts = {**given, **parts}
        add = parts.pop("add", nn.Identity())
        self.act4 = parts.pop("act4") or nn.Identity()
        self.add = add is not None
        self.body = nn.Sequential()
        for name, part in parts.items():
            if part is not None:
                self.body.add_module(name, part)

    def forward(self, x: Tensor) -> Tensor:
        return self.act4(x + self.body(x) if self.add else self.body(x))


class Squeeze(nn.Module):
    def __init__(
        self, act: nn.Module, gate: nn.Module, bias: bool = True, extra: nn.Module | None = None
    ):
        super().__init__()
        pool, down, up = (
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(16, 4, 1, bias=bias),
            nn.Conv2d(4, 16, 1),
        )
        self.gate = nn.Sequential(pool, down, act, up, gate)
        self.extra = extra or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.extra(x * self.gate(x))


def test_the_block_itself_fits() -> None:
    op = OpSpec("mbconv", SIZE, 8, 16, 0, 8, 3, 1, "relu")
    assert [b.op for b in blocks_of(Net(Block8()))][1] == op
    squeezed = Block8(squeeze=Squeeze(nn.ReLU(), nn.Sigmoid()))
    assert [b.op for b in blocks_of(Net(squeezed))][1] == replace(op, c_se=4)
    third = Block8(squeeze=Squeeze(nn.ReLU(), nn.Hardsigmoid()))
    assert [b.op for b in blocks_of(Net(third))][1] == replace(op, kind="mbconv_v3", c_se=4)


def grouped(**options: object) -> nn.Module:
    return nn.Conv2d(**{"in_channels": 16, "out_channels": 16, "kernel_size": 3, "padding": 1,
                        "groups": 16, **options})  # fmt: skip


@pytest.mark.parametrize(
    ("parts", "reason"),
    [
        ({"depthwise": grouped(groups=4)}, "conv 3×3 in 4 groups of 16 outputs, expected one"),
        ({"depthwise": grouped(groups=4), "add": None},
         "conv 3×3 in 4 groups of 16 outputs, expected one group or depthwise"),
        ({"depthwise": grouped(groups=1)}, "its input is added to conv 1×1, conv 3×3, conv 1×1"),
        ({"depthwise": grouped(padding=2, dilation=2)}, "dilation 2, expected none"),
        ({"depthwise": grouped(kernel_size=(1, 3), padding=(0, 1))}, "expected square ones"),
        ({"depthwise": grouped(stride=(1, 2)), "add": None}, "expected square ones"),
        ({"depthwise": grouped(kernel_size=4), "add": None}, "expected an odd kernel"),
        ({"depthwise": grouped(padding=0), "add": None}, "with padding 0, expected 1"),
        ({"norm": None}, "no batch norm behind depthwise conv 3×3 but relu"),
        ({"norm": nn.GroupNorm(4, 16)}, "no batch norm behind depthwise conv 3×3 but group_norm"),
        ({"act": nn.GELU(), "act2": nn.GELU()}, "activation gelu, expected relu, relu6, swish"),
        ({"act2": nn.SiLU()}, "relu behind its first convolution, swish behind the second"),
        ({"act3": nn.ReLU()}, "relu behind its last convolution"),
        ({"act4": nn.ReLU()}, "relu behind its addition"),
        ({"add": None}, "doesn't add its input, where blocks of stride 1 with 8 channels in"),
        ({"expand": nn.Sequential(nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8)),
          "depthwise": nn.Conv2d(8, 8, 3, 1, 1, groups=8), "norm": nn.BatchNorm2d(8),
          "project": nn.Sequential(nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8))},
         "its first convolution keeps 8 channels, expected more or none such"),
        ({"squeeze": Squeeze(nn.ReLU6(), nn.Sigmoid())},
         "squeeze-excite with relu6 and sigmoid in a block of relu; expected the block's"),
        ({"squeeze": Squeeze(nn.ReLU(), nn.Tanh())}, "squeeze-excite with relu and tanh"),
        ({"squeeze": Squeeze(nn.ReLU(), nn.Sigmoid(), bias=False)}, "conv 1×1 without bias in its"),
        ({"squeeze": Squeeze(nn.ReLU(), nn.Sigmoid(), extra=nn.ReLU())},
         "squeeze-excite before the activation, expected behind it"),
        ({"squeeze": Squeeze(nn.ReLU(), nn.Identity())}, "a squeeze-excite that isn't pooling"),
        ({"project": nn.Sequential(nn.Conv2d(16, 8, 3, 1, 1), nn.BatchNorm2d(8))},
         "conv 3×3 behind its depthwise one"),
        ({"project": nn.Sequential(nn.AvgPool2d(3, 1, 1), nn.Conv2d(16, 8, 1), nn.BatchNorm2d(8))},
         "no convolution behind its depthwise one"),
        ({"act3": Block8()}, "more than one block before its addition"),
    ],
)  # fmt: skip
def test_a_block_that_does_not_fit_is_refused_alone(
    parts: dict[str, nn.Module | None], reason: str
) -> None:
    first, block, *others = blocks_of(Net(Block8(**parts)))
    assert first.op is not None
    assert block.op is None
    assert reason in block.reason
    assert [other.path for other in others] == ["after", "head"]
    assert all(other.op is not None for other in others)


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(2).transpose(1, 2)
        y, _ = self.attention(tokens, tokens, tokens)
        return x + y.transpose(1, 2).reshape(x.shape)


class Twice(nn.Module):
    """The same block again."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Block8()

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(self.inner(x))


class Concatenated(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x[:, :4], F.relu(x[:, 4:])], 1)


@pytest.mark.parametrize(
    ("block", "reason"),
    [
        (Attention(), "no layer of a space does this"),
        (Concatenated(), "branches of slice, slice, cat"),
        (nn.MaxPool2d(3, 1, 1), "max_pool2d: no layer of a space does this"),
        (nn.LayerNorm([8, SIZE, SIZE]), "layer_norm: no layer of a space does this"),
        (nn.Sequential(nn.ReLU()), "relu: no layer of a space does this"),
    ],
)
def test_what_is_no_block_at_all_is_refused(block: nn.Module, reason: str) -> None:
    found = [b for b in blocks_of(Net(block)) if b.op is None]
    assert [b.path for b in found] == ["block"]
    assert reason in found[0].reason


def test_weights_that_are_used_twice_are_refused() -> None:
    _, first, second, *_ = blocks_of(Net(Twice()))
    assert first.op is not None
    assert second.reason == f"it uses the weights of {first.path} again"


def head(*layers: nn.Module) -> nn.Module:
    conv = [nn.Conv2d(3, 8, 3, 1, 1), nn.BatchNorm2d(8), nn.ReLU()]
    return nn.Sequential(*conv, *layers)


@pytest.mark.parametrize(
    ("layers", "reason"),
    [
        ([nn.Flatten(), nn.Linear(8 * SIZE**2, 5)], "flatten: no layer of a space does this"),
        ([nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5, bias=False)],
         "the last linear layer has no bias"),
        ([nn.AdaptiveAvgPool2d(1), nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8), nn.Flatten(),
          nn.Linear(8, 5)], "batch norm behind global pooling"),
        ([nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5), nn.Softmax(1)],
         "no linear layer behind global pooling"),
        ([nn.AdaptiveAvgPool2d(1), nn.Flatten()], "no linear layer behind global pooling"),
        ([nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5), nn.ReLU()],
         "the module ends with it, expected global pooling and a linear layer"),
        ([], "the module ends with it, expected global pooling and a linear layer"),
    ],
)  # fmt: skip
def test_a_head_that_does_not_fit_is_refused(layers: list[nn.Module], reason: str) -> None:
    found = [block.reason for block in blocks_of(head(*layers)) if block.op is None]
    assert any(reason in text for text in found)


def test_an_op_out_of_range_is_refused() -> None:
    conv = nn.Conv2d(3, 8, 33, 1, 16)
    module = nn.Sequential(conv, nn.BatchNorm2d(8), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                           nn.Linear(8, 5))  # fmt: skip
    first, last = blocks_of(module)
    assert "kernel=33 of a conv: expected an integer from 1 to 31" in first.reason
    assert last.op is not None


def test_which_activations_stand_between_is_for_the_caller() -> None:
    """A gate's own squeeze may have any activation that the kinds name."""
    make: Callable[[], nn.Module] = lambda: Block8(  # noqa: E731
        act=nn.SiLU(), act2=nn.SiLU(), squeeze=Squeeze(nn.SiLU(), nn.Sigmoid())
    )
    op = blocks_of(Net(make()))[1].op
    assert op is not None
    assert (op.kind, op.act, op.c_se) == ("mbconv", "swish", 4)
