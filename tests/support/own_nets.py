"""Nets as people write them with torch alone, each in another style; random, as if trained."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.support.nets import randomize

CLASSES = 7


def made(net: Callable[[], nn.Module]) -> nn.Module:
    """A net with the same random weights every time, in eval mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = net()
        randomize(module)
    return module.eval()


def mobilenet_v2() -> nn.Module:
    return made(MobileNetV2)


def mobilenet_v3() -> nn.Module:
    return made(MobileNetV3)


def functional() -> nn.Module:
    return made(Functional)


def resnet() -> nn.Module:
    return made(ResNet)


# -- modules within modules, by nn.Sequential ------------------------------------------------------


def conv_bn(c_in: int, c_out: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(c_in, c_out, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(c_out), nn.ReLU6(inplace=True))


class InvertedResidual(nn.Module):
    def __init__(self, c_in: int, c_out: int, stride: int, expansion: int):
        super().__init__()
        mid = c_in * expansion
        self.use_res_connect = stride == 1 and c_in == c_out
        layers: list[nn.Module] = [] if expansion == 1 else [conv_bn(c_in, mid, 1)]
        layers += [conv_bn(mid, mid, 3, stride, mid), nn.Conv2d(mid, c_out, 1, bias=False)]
        self.conv = nn.Sequential(*layers, nn.BatchNorm2d(c_out))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self.use_res_connect else self.conv(x)


class MobileNetV2(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        blocks = [InvertedResidual(16, 8, 1, 1)]
        c_in = 8
        for expansion, c_out, count, stride in ((6, 12, 2, 2), (6, 16, 3, 2), (6, 24, 1, 1)):
            for index in range(count):
                blocks.append(InvertedResidual(c_in, c_out, stride if index == 0 else 1, expansion))
                c_in = c_out
        self.features = nn.Sequential(conv_bn(3, 16, 3, 2), *blocks, conv_bn(24, 64, 1))
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(64, CLASSES))

    def forward(self, x: Tensor) -> Tensor:
        x = self.features(x)
        x = x.mean([2, 3])
        return self.classifier(x)


# -- activations written out, squeeze-excite by linear layers, another epsilon ---------------------


class HSigmoid(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.relu6(x + 3.0) / 6.0


class HSwish(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * F.relu6(x + 3) / 6


class SEModule(nn.Module):
    def __init__(self, channels: int, squeezed: int):
        super().__init__()
        self.avg_pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Sequential(
            nn.Linear(channels, squeezed), nn.ReLU(), nn.Linear(squeezed, channels), HSigmoid()
        )

    def forward(self, x: Tensor) -> Tensor:
        b, c, _, _ = x.size()
        y = self.fc(self.avg_pool(x).view(b, c)).view(b, c, 1, 1)
        return x * y.expand_as(x)


class Bneck(nn.Module):
    def __init__(
        self, c_in: int, mid: int, c_out: int, kernel: int, stride: int, squeezed: int, act: type
    ):
        super().__init__()
        norm = {"eps": 0.001, "momentum": 0.01}
        self.expand = None
        if mid != c_in:
            conv = nn.Conv2d(c_in, mid, 1, bias=False)
            self.expand = nn.Sequential(conv, nn.BatchNorm2d(mid, **norm), act())
        self.dw = nn.Conv2d(mid, mid, kernel, stride, kernel // 2, groups=mid, bias=False)
        self.dw_bn, self.act = nn.BatchNorm2d(mid, **norm), act()
        self.se = SEModule(mid, squeezed) if squeezed else nn.Identity()
        self.pw = nn.Conv2d(mid, c_out, 1, bias=False)
        self.pw_bn = nn.BatchNorm2d(c_out, **norm)
        self.residual = stride == 1 and c_in == c_out

    def forward(self, x: Tensor) -> Tensor:
        y = x if self.expand is None else self.expand(x)
        y = self.se(self.act(self.dw_bn(self.dw(y))))
        y = self.pw_bn(self.pw(y))
        return y + x if self.residual else y


class MobileNetV3(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, stride=2, padding=1, bias=False)
        self.bn1, self.hs1 = nn.BatchNorm2d(16, eps=0.001), HSwish()
        self.bneck = nn.Sequential(
            Bneck(16, 16, 16, 3, 2, 8, nn.ReLU),
            Bneck(16, 72, 24, 3, 2, 0, nn.ReLU),
            Bneck(24, 88, 24, 3, 1, 0, nn.ReLU),
            Bneck(24, 96, 40, 5, 1, 24, HSwish),
            Bneck(40, 240, 40, 5, 1, 64, HSwish),
        )
        self.conv2, self.bn2 = nn.Conv2d(40, 96, 1, bias=False), nn.BatchNorm2d(96, eps=0.001)
        self.linear3, self.linear4 = nn.Linear(96, 128), nn.Linear(128, CLASSES)
        self.drop = nn.Dropout(0.2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.hs1(self.bn1(self.conv1(x)))
        x = F.hardswish(self.bn2(self.conv2(self.bneck(x))))
        x = F.avg_pool2d(x, x.size()[2:])
        x = x.view(x.size(0), -1)
        x = self.drop(F.hardswish(self.linear3(x)))
        return self.linear4(x)


# -- flat, by functions; a bias in front of a batch norm, a last layer that is a convolution -------


class Functional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 8, 5, 2, 2), nn.BatchNorm2d(8)
        self.pw1, self.bn2 = nn.Conv2d(8, 32, 1, bias=False), nn.BatchNorm2d(32)
        self.dw, self.bn3 = nn.Conv2d(32, 32, 3, 1, "same", groups=32), nn.BatchNorm2d(32)
        self.down, self.up = nn.Conv2d(32, 4, 1), nn.Conv2d(4, 32, 1)
        self.pw2, self.bn4 = nn.Conv2d(32, 8, 1, bias=False), nn.BatchNorm2d(8)
        self.last = nn.Conv2d(8, CLASSES, 1)
        self.forgotten = nn.Linear(3, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.silu(self.bn1(self.conv1(x)))
        y = self.bn2(self.pw1(x))
        y = y * torch.sigmoid(y)
        y = F.silu(self.bn3(self.dw(y)), inplace=True)
        s = y.mean((2, 3), keepdim=True)
        y = y * torch.sigmoid(self.up(F.silu(self.down(s))))
        x = x + F.dropout(self.bn4(self.pw2(y)), 0.1, self.training)
        return self.last(F.adaptive_avg_pool2d(x, (1, 1))).flatten(1)


# -- what no space has -----------------------------------------------------------------------------


class BasicBlock(nn.Module):
    def __init__(self, c_in: int, c_out: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(c_in, c_out, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, 1, 1, bias=False)
        self.bn1, self.bn2 = nn.BatchNorm2d(c_out), nn.BatchNorm2d(c_out)
        self.downsample = None
        if stride > 1:
            conv = nn.Conv2d(c_in, c_out, 1, stride, bias=False)
            self.downsample = nn.Sequential(conv, nn.BatchNorm2d(c_out))

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


class ResNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 7, stride=2, padding=3, bias=False)
        self.bn1, self.relu = nn.BatchNorm2d(8), nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1, ceil_mode=True)
        self.layer1 = nn.Sequential(BasicBlock(8, 8, 1), BasicBlock(8, 8, 1))
        self.layer2 = nn.Sequential(BasicBlock(8, 16, 2), BasicBlock(16, 16, 1))
        self.avgpool, self.fc = nn.AdaptiveAvgPool2d((1, 1)), nn.Linear(16, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer2(self.layer1(x))
        return self.fc(torch.flatten(self.avgpool(x), 1))
