"""The supernet: paths as arguments, widths as leading slices."""

from __future__ import annotations

import random

import pytest
import torch
from torch.nn import functional as F

from tests.support.spaces import load_space
from tfnas.nets.blocks import Network
from tfnas.nets.layers import moments
from tfnas.nets.supernet import RIM, Mix, SlicedSupernet, Supernet
from tfnas.space.search_space import SearchSpace
from tfnas.space.subnet import Subnet
from tfnas.strategies.parts.training import new_supernet

CPU = torch.device("cpu")


def space_and_net(
    name: str = "tiny", factor: float = 1.0, kind: type[Supernet] = Supernet
) -> tuple[SearchSpace, Supernet]:
    space = load_space(name)
    return space, new_supernet(space, factor, seed=0, device=CPU, alike=False, kind=kind)


def path_of(space: SearchSpace, subnet: Subnet, net: Supernet):
    """Paths, depths and widths that make the supernet compute the subnet."""
    picks = [0] * len(space.blocks)
    widths = [list(row) for row in net.initial_widths()]
    first = 0
    for stage, ops, row in zip(space.stages, subnet.stages, space.choices_of(subnet), strict=True):
        for b, (op, pick) in enumerate(zip(ops, row, strict=True), first):
            picks[b], widths[b][pick] = pick, op.c_mid
        first += len(stage.blocks)
    return picks, list(subnet.depths), widths


def images(space: SearchSpace, n: int = 4, size: int = 32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(n, space.in_channels, size, size, generator=generator)


@pytest.mark.parametrize("kind", [Supernet, SlicedSupernet])
@pytest.mark.parametrize("name", ["tiny", "tfnas"])
@pytest.mark.parametrize("seed", range(3))
def test_a_path_equals_the_extracted_subnet(name: str, seed: int, kind: type[Supernet]) -> None:
    space, net = space_and_net(name, kind=kind)
    subnet = space.sample(random.Random(seed))
    picks, depths, widths = path_of(space, subnet, net)
    network = Network(subnet)
    missing, unexpected = network.load_state_dict(net.extract(subnet), strict=False)
    assert not unexpected
    assert all(".bn." in name for name in missing)
    # In float64: batch statistics over few pixels magnify the rounding of float32.
    x = images(space).double()
    got = net.double()(x, picks, depths, widths)
    torch.testing.assert_close(got, network.double().train()(x), rtol=1e-8, atol=1e-10)


def test_one_hot_depth_weights_equal_a_cut() -> None:
    space, net = space_and_net()
    picks, widths = [1, 2, 3, 0], net.initial_widths()
    for depths in ([1, 1], [2, 1], [1, 2], [2, 2]):
        one_hot = [F.one_hot(torch.tensor(d - 1), 2).float() for d in depths]
        x = images(space)
        torch.testing.assert_close(
            net(x, picks, one_hot, widths), net(x, picks, depths, widths), rtol=1e-5, atol=1e-6
        )


def test_one_hot_op_weights_equal_a_single_path() -> None:
    space, net = space_and_net()
    picks, widths = [1, 2, 3, 0], net.initial_widths()
    mixed = [F.one_hot(torch.tensor(p), 4).float() for p in picks]
    x = images(space)
    torch.testing.assert_close(
        net(x, mixed, [2, 2], widths), net(x, picks, [2, 2], widths), rtol=1e-5, atol=1e-6
    )


def test_mixed_output_is_the_weighted_sum_of_plain_loops() -> None:
    space, net = space_and_net()
    widths = net.initial_widths()
    generator = torch.Generator().manual_seed(2)
    mix = [torch.rand(4, generator=generator).softmax(0) for _ in space.blocks]
    sinks = [torch.rand(2, generator=generator).softmax(0) for _ in space.stages]
    x = images(space)
    h, b = net.stem(x), 0
    for stage, sink in zip(space.stages, sinks, strict=True):
        outputs = []
        for _ in stage.blocks:
            h = sum(mix[b][i] * net.candidate(b, i)(h, widths[b][i]) for i in range(4))
            outputs.append(h)
            b += 1
        h = sum(w * out for w, out in zip(sink, outputs, strict=True))
    expected = net.classifier(net.head(h))
    torch.testing.assert_close(net(x, mix, sinks, widths), expected, rtol=1e-5, atol=1e-6)


def test_a_mix_of_some_ops_is_the_mix_without_the_others() -> None:
    space, net = space_and_net()
    weights, picks = torch.tensor([0.3, 0.9]), [1, 3]
    whole = torch.zeros(len(space.blocks[0]))
    whole[picks] = weights
    depths = [len(stage.blocks) for stage in space.stages]
    widths = net.initial_widths()
    full, some = (
        net(images(space), [path] * len(space.blocks), depths, widths)
        for path in (whole, Mix(picks, weights))
    )
    torch.testing.assert_close(some, full)


def test_order_of_channels_changes_no_output() -> None:
    space, net = space_and_net()
    full = [[choice.widths[-1] for choice in block] for block in space.blocks]
    x, picks = images(space), [0, 1, 2, 3]
    before = net(x, picks, [2, 2], full)
    for block, pick in enumerate(picks):
        net.order_channels(block, pick)
        norms = net.candidate(block, pick).importance()
        assert torch.equal(norms, norms.sort(descending=True).values)
    torch.testing.assert_close(net(x, picks, [2, 2], full), before, rtol=1e-4, atol=1e-5)


def test_momentum_moves_with_its_channel() -> None:
    space, net = space_and_net()
    sgd = torch.optim.SGD(net.parameters(), 0.1, 0.9)
    net(images(space), [0] * 4, [2, 2], net.initial_widths()).sum().backward()
    sgd.step()
    op = net.candidate(0, 0)
    weight = op.depthwise.weight
    pairs = {
        tuple(w.flatten().tolist()): m.clone()
        for w, m in zip(weight.detach(), sgd.state[weight]["momentum_buffer"], strict=True)
    }
    net.order_channels(0, 0, sgd)
    for w, m in zip(weight.detach(), sgd.state[weight]["momentum_buffer"], strict=True):
        assert torch.equal(pairs[tuple(w.flatten().tolist())], m)


def test_narrow_path_leaves_the_other_channels_without_gradient() -> None:
    space, net = space_and_net()
    widths = [[choice.widths[0] for choice in block] for block in space.blocks]
    net(images(space), [0] * 4, [2, 2], widths).sum().backward()
    op = net.candidate(0, 0)
    gradient = op.depthwise.weight.grad
    assert gradient is not None
    assert gradient[: widths[0][0]].abs().sum() > 0
    assert gradient[widths[0][0] :].abs().sum() == 0
    assert net.candidate(0, 1).depthwise.weight.grad is None


def test_frozen_gives_no_gradient_to_weights() -> None:
    space, net = space_and_net()
    mix = [torch.full((4,), 0.25, requires_grad=True) for _ in space.blocks]
    with net.frozen():
        net(images(space), mix, [2, 2], net.initial_widths()).sum().backward()
    assert all(p.grad is None for p in net.parameters())
    assert all(p.requires_grad for p in net.parameters())
    assert all(m.grad is not None for m in mix)


def test_channel_factor_is_a_proxy_without_weights_for_the_subnet() -> None:
    space, net = space_and_net(factor=0.5)
    assert net(images(space), [0] * 4, [2, 2], net.initial_widths()).shape == (4, space.classes)
    with pytest.raises(ValueError, match="channel_factor"):
        net.extract(space.sample(random.Random(0)))
    with pytest.raises(ValueError, match="channel_factor"):
        Supernet(space, 0.0)


def test_weights_depend_on_the_seed_alone() -> None:
    space = load_space("tiny")
    torch.manual_seed(5)
    one = new_supernet(space, 1.0, 3, CPU, alike=False)
    torch.manual_seed(6)
    state = torch.get_rng_state()
    two = new_supernet(space, 1.0, 3, CPU, alike=False)
    assert torch.equal(state, torch.get_rng_state())
    other = new_supernet(space, 1.0, 4, CPU, alike=False)
    pairs = list(zip(one.parameters(), two.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b in pairs)
    assert not torch.equal(one.classifier.weight, other.classifier.weight)


def spread_of_ops(space: SearchSpace, net: Supernet) -> float:
    """How far what a block's ops give lies apart, relative to its size; mean over the blocks."""
    apart = []
    for ops, block in zip(net.blocks, space.blocks, strict=True):
        op = block[0].op
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(4, op.c_in, op.size, op.size, generator=generator)
        given = [
            m.branch(x, c.op.c_mid, moments(x)).detach()
            for m, c in zip(ops, block, strict=True)  # type: ignore[call-overload]
        ]
        y = torch.stack(given)  # (ops, N, c_out, H', W')
        apart.append(float(y.std(0).mean() / y.std()))
    return sum(apart) / len(apart)


@pytest.mark.parametrize("name", ["tiny", "small"])
def test_ops_that_start_alike(name: str) -> None:
    space, net = space_and_net(name)
    before = spread_of_ops(space, net)
    net.start_alike()
    assert spread_of_ops(space, net) < 0.7 * before
    for block in net.blocks:
        ops = list(block)  # type: ignore[call-overload]
        widest = max(ops, key=lambda op: op.mid)
        for op in ops:
            assert torch.equal(op.project.weight, widest.project.weight[:, : op.mid])
        assert len({op.project.weight.data_ptr() for op in ops}) == len(ops)  # none is shared


@pytest.mark.parametrize("name", ["small", "nas_bench_macro", "fbnet", "ofa_mbv3"])
def test_sliced_ops_are_the_leading_channels_and_the_centre_of_one(name: str) -> None:
    space, net = space_and_net(name, kind=SlicedSupernet)
    for index, block in enumerate(space.blocks):
        for pick, choice in enumerate(block):
            if not choice.op.expands:
                continue
            source, width = list(net.blocks[index])[-1], choice.widths[0]  # type: ignore[call-overload]
            found = net.candidate(index, pick).weights(width)
            rim = (source.op.kernel - choice.op.kernel) // 2
            core = source.depthwise.weight[:width, :, rim:, rim:]
            core = core[..., : choice.op.kernel, : choice.op.kernel]
            assert torch.equal(found["expand.conv.weight"], source.expand.weight[:width])
            assert torch.equal(found["depthwise.conv.weight"], core)
            assert torch.equal(found["project.conv.weight"], source.project.weight[:, :width])
            assert ("se_reduce.weight" in found) == bool(choice.op.c_se)
            if choice.op.c_se:
                reduced = source.se_reduce.weight[: choice.op.c_se, :width]
                assert torch.equal(found["se_reduce.weight"], reduced)


def test_a_step_on_one_sliced_op_trains_the_others() -> None:
    space, net = space_and_net("small", kind=SlicedSupernet)
    widths = [[choice.widths[0] for choice in block] for block in space.blocks]
    depths = [len(stage.blocks) for stage in space.stages]
    x, small, large = images(space, 8), [0] * len(space.blocks), [len(b) - 1 for b in space.blocks]
    before = net(x, large, depths, widths).detach()
    net(x, small, depths, widths).square().sum().backward()
    torch.optim.SGD(net.parameters(), 0.1).step()
    assert (net(x, large, depths, widths) - before).abs().max() > 1e-3
    own, shared = (sum(p.numel() for p in n.parameters()) for n in (Supernet(space), net))
    assert shared < own / 3
    assert len(net.state_dict()) == len(list(net.parameters()))  # each is saved once


def test_rims_of_sliced_kernels_start_small() -> None:
    _, net = space_and_net("small", kind=SlicedSupernet)
    kernel = list(net.blocks[0])[-1].depthwise.weight  # type: ignore[call-overload]
    before = kernel.detach().clone()
    net.start_alike()
    core = torch.zeros_like(before, dtype=torch.bool)
    core[..., 1:-1, 1:-1] = True
    assert torch.equal(kernel[core], before[core])
    assert torch.equal(kernel[~core], RIM * before[~core])


def test_blocks_that_can_be_left_out_are_mixed_and_taken_out() -> None:
    torch.manual_seed(0)
    space = load_space("nas_bench_macro")
    net = Supernet(space, 0.25).double()
    net.start_alike()
    widths = net.initial_widths()
    weights = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    for block in (0, 1):  # its first op is a convolution, then identity
        first = space.blocks[block][0].op
        x = torch.randn(4, round(first.c_in / 4), 8, 8, dtype=torch.float64)
        expected = sum(w * net.block(block, x, i, widths[block]) for i, w in enumerate(weights))
        torch.testing.assert_close(net.block(block, x, weights, widths[block]), expected)
    assert net.block(1, x, 0, widths[1]) is x
    net.order_channels(1, 0)  # nothing to order
    whole = Supernet(space)
    subnet = space.subnet((2, 3, 3), [0] * 8, [0] * 8)
    Network(subnet).load_state_dict(whole.extract(subnet), strict=False)
