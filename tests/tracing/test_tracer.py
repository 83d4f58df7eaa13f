"""What a module computes is told alike, whatever code computes it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tfnas.space.size import Oblong
from tfnas.tracing.idioms import known
from tfnas.tracing.steps import Traced
from tfnas.tracing.tracer import trace


class Does(nn.Module):
    """A function of a map and some layers."""

    def __init__(self, function: Callable[[Does, Tensor], Tensor]):
        super().__init__()
        self.function = function
        self.conv, self.linear = nn.Conv2d(4, 4, 3, padding=1), nn.Linear(4, 4)
        self.norm, self.fixed = nn.BatchNorm2d(4), nn.BatchNorm2d(4, affine=False)
        self.untracked = nn.BatchNorm2d(4, track_running_stats=False)
        self.scale = nn.Parameter(torch.ones(4, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


def traced(function: Callable[[Does, Tensor], Tensor]) -> Traced:
    return known(trace(Does(function), 4, 8))


def told(function: Callable[[Does, Tensor], Tensor]) -> list[str]:
    """The steps behind the input."""
    return [str(step.does) for step in traced(function).steps[1:]]


@pytest.mark.parametrize(
    ("name", "forms"),
    [
        ("relu", [nn.ReLU(), nn.ReLU(inplace=True), F.relu, lambda x: x.clamp(min=0)]),
        ("relu6", [nn.ReLU6(), F.relu6, lambda x: x.clamp(0, 6), nn.Hardtanh(0, 6)]),
        ("swish", [nn.SiLU(inplace=True), F.silu, lambda x: x * torch.sigmoid(x),
                   lambda x: x.sigmoid().mul(x)]),
        ("hard_swish", [nn.Hardswish(), F.hardswish, lambda x: x * F.hardsigmoid(x),
                        lambda x: x * F.relu6(x + 3) / 6, lambda x: x * (F.relu6(3 + x) / 6.0),
                        lambda x: F.relu6(x + 3.0) * (1 / 6) * x]),
        ("sigmoid", [nn.Sigmoid(), torch.sigmoid]),
        ("hard_sigmoid", [nn.Hardsigmoid(), lambda x: F.relu6(x + 3) / 6,
                          lambda x: F.hardtanh(x + 3, 0, 6) / 6]),
        ("gelu", [nn.GELU()]),
        ("hardtanh", [nn.Hardtanh(-1, 1)]),
        ("clamp", [lambda x: x.clamp(0, 1)]),
    ],
)  # fmt: skip
def test_an_activation_is_known_however_it_is_written(
    name: str, forms: list[Callable[[Tensor], Tensor]]
) -> None:
    for form in forms:
        assert told(lambda m, x, f=form: f(m.conv(x))) == ["conv 3×3", name]


@pytest.mark.parametrize(
    "almost",
    [
        lambda x: x * F.relu6(x + 2) / 6,
        lambda x: x * F.relu6(x + 3) / 5,
        lambda x: x * F.relu(x + 3) / 6,
        lambda x: torch.sigmoid(x) * F.relu(x),
    ],
)
def test_what_is_almost_an_activation_is_none(almost: Callable[[Tensor], Tensor]) -> None:
    assert len(told(lambda m, x: almost(m.conv(x)))) > 2


def test_pooling_is_global_or_not() -> None:
    for pool in (
        nn.AdaptiveAvgPool2d(1), nn.AdaptiveAvgPool2d((1, 1)), nn.AvgPool2d(8),
        lambda x: F.avg_pool2d(x, x.shape[2:]), lambda x: x.mean([2, 3]),
        lambda x: x.mean((-1, -2), keepdim=True).squeeze(),
    ):  # fmt: skip
        flat = told(lambda m, x, pool=pool: m.linear(pool(x).flatten(1)))
        assert flat == ["global pooling", "conv 1×1"]
    for pool in (nn.AvgPool2d(2), nn.AdaptiveAvgPool2d(2), lambda x: x.mean(1, keepdim=True)):
        (found,) = told(lambda m, x, pool=pool: pool(x))
        assert found.endswith("that isn't global")
    assert told(lambda m, x: nn.MaxPool2d(8)(x)) == ["max_pool2d"]


def test_what_changes_nothing_is_left_out() -> None:
    def forward(m: Does, x: Tensor) -> Tensor:
        x = F.dropout(nn.Dropout2d().eval()(nn.Identity()(x).contiguous()), training=m.training)
        b, c = x.shape[:2]
        scale = F.adaptive_avg_pool2d(x, 1).view(b, c)
        return x * m.linear(scale).view(b, c, 1, 1).expand_as(x)

    with_dropout = told(lambda m, x: F.dropout(x))
    assert with_dropout == ["dropout"]
    net = traced(lambda m, x: forward(m.eval(), x))
    assert [str(step.does) for step in net.steps] == ["input", "global pooling", "conv 1×1", "mul"]


def test_layers_that_are_no_layers_of_ours_are_others() -> None:
    for function, expected in (
        (lambda m, x: m.untracked(x), "batch norm without running statistics"),
        (lambda m, x: m.fixed(x), "batch norm without scale and shift"),
        (lambda m, x: F.conv2d(x, m.conv.weight * 2), "convolution by weights that are computed"),
        (lambda m, x: m.linear(x.transpose(1, 3)), "linear layer on more than one vector an image"),
        (lambda m, x: x * m.scale, "mul of what isn't two maps"),
        (lambda m, x: x - m.conv(x), "sub of what isn't two maps"),
        (lambda m, x: torch.add(x, m.conv(x), alpha=2), "add of what isn't two maps"),
        (lambda m, x: x.flatten(1), "flatten"),
    ):  # fmt: skip
        assert told(function)[-1] == expected


def test_steps_say_where_they_are_and_how_large_their_values_are() -> None:
    net = trace(nn.Sequential(nn.Conv2d(1, 4, 3, 2, 1), nn.Sequential(nn.ReLU())), 1, Oblong(6, 9))
    assert [(step.path, step.size, step.channels) for step in net.steps] == [
        ("", Oblong(6, 9), 1), ("0", Oblong(3, 5), 4), ("1.0", Oblong(3, 5), 4)
    ]  # fmt: skip
    assert net.output == 2
    assert set(net.tensors) == {"0.weight", "0.bias"}


def test_cuts_are_where_one_value_goes_on() -> None:
    net = traced(lambda m, x: m.norm(m.conv(F.relu(x)) + F.relu(x)))
    does = [str(step.does) for step in net.steps]
    assert [does[cut] for cut in net.cuts] == ["input", "add", "batch norm"]


def test_what_the_output_does_not_need_is_left_out() -> None:
    def forward(m: Does, x: Tensor) -> Tensor:
        m.linear(x.mean([2, 3]))
        return m.conv(x)

    assert told(forward) == ["conv 3×3"]


def test_what_cannot_be_traced_is_said() -> None:
    def by_value(m: Does, x: Tensor) -> Tensor:
        return m.conv(x) if float(x.sum()) > 0 else x

    with pytest.raises(ValueError, match="can't be traced on images of 4 channels and 8 px: "):
        traced(by_value)
    with pytest.raises(ValueError, match="images of 3 channels and 8 px: RuntimeError"):
        trace(Does(lambda m, x: m.conv(x)), 3, 8)
    with pytest.raises(ValueError, match=r"gives 2 tensors, expected one, \(N, classes\)"):
        traced(lambda m, x: (x, m.conv(x)))  # type: ignore[arg-type, return-value]
