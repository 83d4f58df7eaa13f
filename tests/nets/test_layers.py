"""The CPU forms of layers give what plain torch gives, outputs and all gradients."""

from __future__ import annotations

import inspect
import re
import types
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from tests.support.spaces import load_space
from tfnas.nets import activations, layers
from tfnas.nets.layers import (
    OPERATORS,
    PIXELS,
    Squeeze,
    act_depthwise,
    batch_norm,
    depthwise,
    fused,
    leading,
    moments,
    norm_act_pointwise,
    norm_act_squeeze_pointwise,
    normed_pointwise,
)
from tfnas.nets.supernet import Supernet
from tfnas.space.ops import ACTIVATIONS


@pytest.fixture
def rng() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def images(rng: torch.Generator, n: int, c: int, h: int, w: int) -> Tensor:
    x = torch.randn(n, c, h, w, generator=rng, dtype=torch.float64)
    return (2 * x + 0.5).to(memory_format=torch.channels_last)


def both_agree(
    layer: Callable[..., Tensor], tensors: list[Tensor], frozen: tuple[int, ...] = ()
) -> None:
    """With and without the CPU forms.

    Args:
        frozen: of the tensors those that want no gradient.
    """
    found = []
    for plain in (False, True):
        with pytest.MonkeyPatch.context() as patch:
            if plain:
                patch.setattr(layers, "fused", lambda _: False)
            given = [
                t.detach().clone().requires_grad_(i not in frozen) for i, t in enumerate(tensors)
            ]
            out = layer(*given)
            weight = torch.linspace(-1, 2, out.numel(), dtype=out.dtype).view(out.shape)
            # Non-linear, or no gradient would pass through a batch norm at the end.
            (out.sigmoid() * weight).sum().backward()
            found.append([out.detach(), *(t.grad for t in given)])
    for ours, theirs in zip(*found, strict=True):
        assert (ours is None) == (theirs is None)
        if ours is not None:
            torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-10)


FROZEN = [(), (0,), (1,)]


@pytest.mark.parametrize("kernel", [1, 3, 5, 7])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(
    ("height", "width"), [(1, 1), (1, 4), (2, 2), (3, 3), (4, 2), (5, 6), (9, 9), (14, 14)]
)
def test_depthwise(kernel: int, stride: int, height: int, width: int, rng: torch.Generator) -> None:
    """Also where the kernel is larger than the image."""
    x = images(rng, 3, 16, height, width)
    weight = torch.randn(16, 1, kernel, kernel, generator=rng, dtype=x.dtype)
    for frozen in FROZEN:
        both_agree(lambda x, w: depthwise(x, w, stride), [x, weight], frozen)


@pytest.mark.parametrize("act", ACTIVATIONS)
@pytest.mark.parametrize("frozen", FROZEN)
def test_activation_and_convolution(
    act: str, frozen: tuple[int, ...], rng: torch.Generator
) -> None:
    x = images(rng, 4, 24, 7, 6)
    kernel = torch.randn(24, 1, 5, 5, generator=rng, dtype=x.dtype)
    both_agree(lambda x, w: act_depthwise(x, w, act, 2), [x, kernel], frozen)
    weight = torch.randn(8, 24, 1, 1, generator=rng, dtype=x.dtype)
    both_agree(lambda x, w: norm_act_pointwise(x, w, act), [x, weight], frozen)


@pytest.mark.parametrize("act", ACTIVATIONS)
@pytest.mark.parametrize("frozen", [(), (0,), (1, 2, 3, 4, 5), (2, 4), (5,)])
def test_squeeze_excite(act: str, frozen: tuple[int, ...], rng: torch.Generator) -> None:
    x = images(rng, 4, 24, 7, 6)
    shapes = ((6, 24, 1, 1), (6,), (24, 6, 1, 1), (24,), (8, 24, 1, 1))
    weights = [torch.randn(*shape, generator=rng, dtype=x.dtype) for shape in shapes]

    def layer(x: Tensor, *w: Tensor) -> Tensor:
        return norm_act_squeeze_pointwise(x, Squeeze(*w[:4], act), w[4], act)

    both_agree(layer, [x, *weights], frozen)


@pytest.mark.parametrize("frozen", FROZEN)
def test_statistics_by_covariance(frozen: tuple[int, ...], rng: torch.Generator) -> None:
    x = images(rng, 4, 6, 7, 6)
    weight = torch.randn(24, 6, 1, 1, generator=rng, dtype=x.dtype)
    assert moments(x) is not None
    both_agree(lambda x, w: normed_pointwise(x, w, moments(x)), [x, weight], frozen)


def test_few_pixels_take_the_plain_way(rng: torch.Generator) -> None:
    x = images(rng, 1, 8, PIXELS - 1, 8)
    assert moments(x) is None
    weight = torch.randn(3, 8, 1, 1, generator=rng, dtype=x.dtype)
    out = normed_pointwise(x, weight, None)
    torch.testing.assert_close(out, batch_norm(F.conv2d(x, weight)))


def test_large_inputs_that_are_all_alike(rng: torch.Generator) -> None:
    """The variance is rounding then, and may come out below 0."""
    x = (1e4 + 1e-3 * images(rng, 4, 6, 7, 6)[:, :1].expand(-1, 6, -1, -1)).float()
    weight = torch.randn(24, 6, 1, 1, generator=rng) * 1e3
    weight = weight - weight.mean(1, keepdim=True)
    assert bool(normed_pointwise(x, weight, moments(x)).isfinite().all())


def test_a_scaled_norm(rng: torch.Generator) -> None:
    x, scale = images(rng, 2, 5, 4, 4), torch.tensor(0.3, dtype=torch.float64)
    torch.testing.assert_close(batch_norm(x, scale), 0.3 * batch_norm(x))


@pytest.mark.parametrize("dim", [0, 1])
@pytest.mark.parametrize("count", [3, 10])
def test_leading_channels_of_a_weight(dim: int, count: int, rng: torch.Generator) -> None:
    """The gradient of the others is 0, whatever the memory held before."""
    whole = torch.randn(10, 10, 1, 1, generator=rng, requires_grad=True)
    for part in (leading(whole, count, dim), whole.narrow(dim, 0, count)):
        whole.grad = None
        part.sin().sum().backward()
        assert whole.grad is not None
        expected = torch.zeros_like(whole)
        expected.narrow(dim, 0, count).copy_(whole.detach().narrow(dim, 0, count).cos())
        torch.testing.assert_close(whole.grad, expected)
    assert torch.equal(leading(whole.detach(), count, dim), whole.narrow(dim, 0, count))


def test_every_private_operator_is_in_the_list() -> None:
    found = set()
    for module in (layers, activations):
        found |= set(re.findall(r"\baten\.(\w+\.\w+)\(", inspect.getsource(module)))
    assert found == set(OPERATORS)


@pytest.mark.parametrize("operator", ["silu_backward.grad_input", "no_such_operator.default"])
def test_without_a_private_operator_the_plain_forms_run(
    operator: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A whole net trains alike, and one warning says why it is slower."""
    net = Supernet(load_space("tiny"))
    x = images(torch.Generator().manual_seed(0), 4, 3, 32, 32).float()
    paths = [index % len(block) for index, block in enumerate(net.space.blocks)]
    depths = [len(stage.blocks) for stage in net.space.stages]

    def gradients() -> list[Tensor]:
        net.zero_grad()
        net.double()(x.double(), paths, depths, net.initial_widths()).square().sum().backward()
        return [p.grad for p in net.parameters() if p.grad is not None]

    expected = gradients()
    ops = types.SimpleNamespace(
        **{
            name: types.SimpleNamespace(**{overload: getattr(getattr(layers.aten, name), overload)})
            for name, overload in (known.split(".") for known in OPERATORS if known != operator)
        }
    )
    monkeypatch.setattr(layers, "aten", ops)
    monkeypatch.setattr(layers, "OPERATORS", tuple({*OPERATORS, operator}))
    layers._has_operators.cache_clear()
    try:
        assert not fused(x)
        for ours, theirs in zip(gradients(), expected, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-9)
    finally:
        layers._has_operators.cache_clear()
    (record,) = caplog.records
    assert f"has no {operator}:" in record.getMessage()
