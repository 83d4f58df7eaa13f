"""A torch module as a net of ours with its weights, and the space around it."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from tfnas.files.atomic import write_atomically
from tfnas.nets.blocks import Network
from tfnas.nets.layers import EPS
from tfnas.nets.weights import WEIGHTS, save_weights
from tfnas.space.around import Candidates, space_around, staged, to_yaml
from tfnas.space.size import Size, sides
from tfnas.space.spec import SpaceSpec
from tfnas.space.subnet import Subnet
from tfnas.tracing.blocks import Block, Unit, read_blocks
from tfnas.tracing.idioms import known
from tfnas.tracing.tracer import BATCH, trace

TOLERANCE = 1e-4  # of outputs, as a part of the largest one
SUBNET = "subnet.json"


class UnfitError(ValueError):
    """A module has blocks that no space has.

    Attributes:
        blocks: all of the module's.
    """

    def __init__(self, blocks: Sequence[Block]):
        self.blocks = tuple(blocks)
        unfit = [block for block in blocks if block.op is None]
        told = "; ".join(f"{block.path}: {block.reason}" for block in unfit[:3])
        more = f"; and {len(unfit) - 3} more" if len(unfit) > 3 else ""
        super().__init__(f"{len(unfit)} of {len(blocks)} blocks fit no space: {told}{more}")


@dataclass(frozen=True)
class OwnNet:
    """A module as a net of ours, and the space around it.

    Attributes:
        space: its skeleton with candidates in every block; the net is in it.
        network: in eval mode, with the module's weights.
        blocks: what each part of the module is.
        folded: biases in front of a batch norm, which is where they went.
        unused: parameters of the module that its output doesn't depend on.
        difference: the largest of the outputs from those of the module, as a part of the largest
            output.
    """

    space: SpaceSpec
    network: Network
    blocks: tuple[Block, ...]
    folded: int
    unused: int
    difference: float

    @property
    def subnet(self) -> Subnet:
        return self.network.subnet

    def files(self, folder: Path) -> tuple[Path, Path, Path]:
        """Where `save` writes space, subnet and weights."""
        space = folder / "space" / f"{self.space.name}.yaml"
        return space, folder / SUBNET, folder / WEIGHTS

    def save(self, folder: str | Path, comment: Sequence[str] = ()) -> None:
        """Write space/NAME.yaml, subnet.json and weights.safetensors into a folder.

        Args:
            comment: lines that stand above the space.
        """
        space, subnet, weights = self.files(Path(folder))
        space.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(space, to_yaml(self.space, comment))
        self.subnet.save(subnet)
        save_weights(self.network.state_dict(), self.subnet, weights)


def own_net(
    module: nn.Module,
    name: str,
    resolution: Size,
    in_channels: int,
    candidates: Candidates | None = None,
) -> OwnNet:
    """Trace a module, read its blocks, take its weights and check the net against it.

    Args:
        module: (N, in_channels, H, W) to (N, classes); it stays as it is.
        name: of the space.

    Raises:
        UnfitError: if a block is none that a space has.
        ValueError: if the module can't be traced, or net and module turn out to differ.
    """
    module = copy.deepcopy(module).cpu().float().eval()
    traced = known(trace(module, in_channels, resolution))
    blocks = read_blocks(traced)
    ops = [block.op for block in blocks if block.op is not None]
    if len(ops) < len(blocks):
        raise UnfitError(blocks)
    subnet = staged(name, ops)
    space = space_around(subnet, candidates)
    with torch.random.fork_rng(devices=[]):
        network = Network(subnet).eval()
    state = network.state_dict()
    for key, value in _state(blocks, traced.tensors):
        state[key] = value.reshape(state[key].shape).to(state[key])  # a linear layer may be a conv
    network.load_state_dict(state)
    used, folded = _parameters(blocks, traced.tensors)
    total = sum(parameter.numel() for parameter in module.parameters())
    if used - folded != subnet.params:
        raise ValueError(f"{used - folded:,} parameters were read, the net has {subnet.params:,}")
    difference = _difference(module, network, resolution)
    return OwnNet(space, network, blocks, folded, total - used, difference)


def _state(blocks: Sequence[Block], tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """The module's weights by the names that a `Network` has for them."""
    for number, block in enumerate(blocks):
        for name, unit in block.units.items():
            prefix = ".".join(["layers", str(number), *([name] if name else [])])
            for part, value in _tensors(unit, tensors):
                yield f"{prefix}.{part}", value


def _tensors(unit: Unit, tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    weight = tensors[unit.conv.weight].detach()
    bias = None if unit.conv.bias is None else tensors[unit.conv.bias].detach()
    if unit.norm is None:
        yield "weight", weight
        if bias is not None:
            yield "bias", bias
        return
    norm = unit.norm
    mean, var, scale = (tensors[n].detach().double() for n in (norm.mean, norm.var, norm.weight))
    yield "conv.weight", weight
    yield "bn.running_mean", mean if bias is None else mean - bias
    yield "bn.running_var", var
    # Where another epsilon was added to the variance, the scale makes up for it.
    yield "bn.weight", scale * ((var + EPS) / (var + norm.eps)).sqrt()
    yield "bn.bias", tensors[norm.bias].detach()


def _parameters(blocks: Sequence[Block], tensors: Mapping[str, Tensor]) -> tuple[int, int]:
    """How many the blocks have in the module, and how many of these batch norms took in."""
    used = folded = 0
    for unit in (unit for block in blocks for unit in block.units.values()):
        names = [unit.conv.weight, unit.conv.bias]
        if unit.norm is not None:
            names += [unit.norm.weight, unit.norm.bias]
            folded += 0 if unit.conv.bias is None else tensors[unit.conv.bias].numel()
        used += sum(tensors[name].numel() for name in names if name is not None)
    return used, folded


def _difference(module: nn.Module, network: Network, resolution: Size) -> float:
    """Of the outputs for the same noise, as a part of the largest one.

    Raises:
        ValueError: if it is more than rounding, or the multiply-adds that torch counts differ.
    """
    subnet = network.subnet
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(BATCH, subnet.in_channels, *sides(resolution), generator=generator)
    with torch.no_grad():
        with FlopCounterMode(display=False) as counter:
            expected = module(images)
        found = network(images)
    macs = counter.get_total_flops() // (2 * BATCH)
    if macs != subnet.macs:
        raise ValueError(f"it takes {macs:,} multiply-adds an image, the net {subnet.macs:,}")
    difference = float((found - expected).abs().max() / (expected.abs().max() or 1))
    if not difference <= TOLERANCE:
        raise ValueError(
            f"its outputs and those of the net differ by {difference:.1e} of the largest, "
            f"{TOLERANCE:g} at most is rounding"
        )
    return difference
