"""The weight-sharing supernet over a search space.

What is computed is always an argument: paths, depths and widths. `forward` remembers nothing.
A narrower width is the leading slice of the wider one once channels stand in order of importance
(reordering mid channels changes no output), so shrinking, expanding and taking out a subnet are
slices. BatchNorm is without affine parameters and always uses batch statistics, as in TF-NAS
(arXiv 2008.05314 and its published code).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple, Protocol, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tfnas.nets.activations import activate
from tfnas.nets.layers import (
    Moments,
    Squeeze,
    act_depthwise,
    batch_norm,
    depthwise,
    leading,
    moments,
    norm_act_pointwise,
    norm_act_squeeze_pointwise,
    normed_pointwise,
)
from tfnas.process.checks import lookup
from tfnas.space.ops import OpSpec
from tfnas.space.search_space import Block, SearchSpace
from tfnas.space.subnet import Subnet

RIM = 0.25  # of a larger kernel's weights around those of the smallest one, when ops start alike


class Mix(NamedTuple):
    """A weighted sum of some of a block's ops, the others not run: `weights` is (len(picks),)."""

    picks: Sequence[int]
    weights: Tensor


Path = int | Tensor | Mix
"""The op of one block: an index runs that op alone, a tensor (ops,) weights the sum over all."""

Depth = int | Tensor
"""The depth of one stage: an integer runs so many blocks, a tensor (depths,) weights their sum."""

Gates = Sequence[Tensor | None] | None
"""For each block, the weights (2,) of running and of skipping it; None: it is run."""

Widths = Sequence[Sequence[int]]
"""For each block, the current mid width of each of its candidate ops."""


class SuperConv(nn.Module):
    """Convolution, batch statistics, activation: a fixed layer of stem or head."""

    def __init__(self, op: OpSpec, c_in: int, c_out: int):
        super().__init__()
        self.op = op
        self.conv = nn.Conv2d(c_in, c_out, op.kernel, op.stride, op.kernel // 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:  # (N, c_in, H, W)
        return activate(batch_norm(self.conv(x)), self.op.act)

    def state(self, _width: int) -> dict[str, Tensor]:
        return {"conv.weight": self.conv.weight.clone()}


class SuperMBConv(nn.Module):
    """One inverted residual block at the largest of its widths, run at any leading slice of it."""

    def __init__(self, op: OpSpec, c_in: int, mid: int, c_se: int, c_out: int):
        super().__init__()
        self.op = op
        self.mid = mid
        self.expand = nn.Conv2d(c_in, mid, 1, bias=False) if op.expands else None
        self.depthwise = nn.Conv2d(mid, mid, op.kernel, groups=mid, bias=False)
        self.se_reduce = nn.Conv2d(mid, c_se, 1) if op.c_se else None
        self.se_expand = nn.Conv2d(c_se, mid, 1) if op.c_se else None
        self.project = nn.Conv2d(mid, c_out, 1, bias=False)

    def forward(self, x: Tensor, width: int) -> Tensor:  # (N, c_in, H, W) -> (N, c_out, H', W')
        y = self.branch(x, width, moments(x) if self.expand is not None else None)
        return y.add_(x) if self.op.residual else y

    def branch(
        self, x: Tensor, width: int, known: Moments | None, scale: Tensor | None = None
    ) -> Tensor:
        """What the block adds to x, or has in its place, times `scale`.

        Args:
            known: see `tfnas.nets.layers.moments`, of x.
        """
        op = self.op
        kernel = leading(self.depthwise.weight, width, 0)
        if self.expand is None:
            y = depthwise(x, kernel, op.stride)
        else:
            y = normed_pointwise(
                x, leading(self.expand.weight, width, 0), known
            )  # (N, width, H, W)
            y = act_depthwise(y, kernel, op.act, op.stride)  # (N, width, H', W')
        project = leading(self.project.weight, width, 1)
        if self.se_reduce is not None and self.se_expand is not None:
            assert self.se_reduce.bias is not None
            assert self.se_expand.bias is not None
            squeeze = Squeeze(
                leading(self.se_reduce.weight, width, 1), self.se_reduce.bias,
                leading(self.se_expand.weight, width, 0), leading(self.se_expand.bias, width, 0),
            )  # fmt: skip
            y = norm_act_squeeze_pointwise(y, squeeze, project, op.act)
        else:
            y = norm_act_pointwise(y, project, op.act)
        return batch_norm(y, scale)

    def importance(self) -> Tensor:
        """L1 norm of each mid channel's depthwise weights, (mid,) (TF-NAS, width level)."""
        return self.depthwise.weight.detach().abs().sum(dim=(1, 2, 3))

    def channel_parameters(self) -> Iterator[tuple[Tensor, int]]:
        """Every parameter that has mid channels, with the dimension they stand in."""
        if self.expand is not None:
            yield self.expand.weight, 0
        yield self.depthwise.weight, 0
        if self.se_reduce is not None and self.se_expand is not None:
            yield self.se_reduce.weight, 1
            yield self.se_expand.weight, 0
            assert self.se_expand.bias is not None
            yield self.se_expand.bias, 0
        yield self.project.weight, 1

    def state(self, width: int) -> dict[str, Tensor]:
        cut = dict(self.channel_parameters())
        state = {}
        for name, parameter in self.named_parameters():
            layer, what = name.split(".")
            dim = cut.get(parameter)
            kept = parameter if dim is None else parameter.narrow(dim, 0, width)
            state[name if layer.startswith("se_") else f"{layer}.conv.{what}"] = kept.clone()
        return state


class _AtWidth(nn.Module):
    """A fixed inverted residual block, run at its full width."""

    def __init__(self, op: SuperMBConv):
        super().__init__()
        self.op = op

    def forward(self, x: Tensor) -> Tensor:
        return self.op(x, self.op.mid)

    def state(self, _width: int) -> dict[str, Tensor]:
        return self.op.state(self.op.mid)


class SuperClassifier(nn.Linear):
    """Global average pooling and one linear layer."""

    def __init__(self, op: OpSpec, c_in: int):
        super().__init__(c_in, op.c_out)

    def forward(self, x: Tensor) -> Tensor:  # (N, c_in, H, W) -> (N, classes)
        return super().forward(F.adaptive_avg_pool2d(x, 1).flatten(1))

    def state(self, _width: int) -> dict[str, Tensor]:
        return {"linear.weight": self.weight.clone(), "linear.bias": self.bias.clone()}


class SharedOp(Protocol):
    """What every kind's shared form can do."""

    def state(self, width: int) -> dict[str, Tensor]:
        """Its weights at a mid width (any, for a kind without), named as in `tfnas.nets.blocks`."""


# Of (op, c_in, c_mid, c_se, c_out): a proxy's channels are other than the op's.
SHARED_KINDS: Mapping[str, Callable[[OpSpec, int, int, int, int], nn.Module]] = {
    "conv": lambda op, c_in, _mid, _se, c_out: SuperConv(op, c_in, c_out),
    "mbconv": SuperMBConv,
    "classifier": lambda op, c_in, _mid, _se, _out: SuperClassifier(op, c_in),
}


class Supernet(nn.Module):
    """All candidate ops of a space with shared weights, (N, in_channels, R, R) -> (N, classes).

    Args:
        channel_factor: a proxy with all channels scaled by it (EcoNAS, arXiv 2001.01233: fewer
            channels are a more reliable proxy than a lower resolution). Widths are always given as
            those of the space.

    A path of `len(block)` picks the identity, for searches that make skip an op.
    """

    def __init__(self, space: SearchSpace, channel_factor: float = 1.0):
        super().__init__()
        if not 0 < channel_factor <= 1:
            raise ValueError(f"channel_factor={channel_factor}: expected above 0 and at most 1")
        self.space = space
        self.channel_factor = channel_factor
        self.stem = nn.Sequential(*(self._fixed(op) for op in space.stem))
        self.blocks = nn.ModuleList(
            nn.ModuleList(self._shared(choice.op, choice.widths[-1]) for choice in block)
            for block in space.blocks
        )
        *convs, classifier = space.head
        self.head = nn.Sequential(*(self._fixed(op) for op in convs))
        self.classifier = self._fixed(classifier)
        for module in self.modules():  # torch's own starts otherwise, as in the published code
            if isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)

    @torch.no_grad()
    def start_alike(self) -> None:
        """Give the ops of each block the same start: of the leading channels and of the centre of
        the kernels, the widest op's weights.

        A sampled path then changes little of what the blocks behind it see, where ops with random
        starts of their own hand on other features each time, to which those blocks must first
        become indifferent. A larger kernel's rim starts small, for the same reason.
        """
        for block in self.blocks:
            members: list[SuperMBConv] = list(block)  # type: ignore[call-overload]
            ops = sorted(members, key=lambda op: -op.mid)
            widest, inner = ops[0], min(op.op.kernel for op in ops)
            core = _centre(widest.depthwise.weight, inner).clone()  # (mid, 1, inner, inner)
            kernels: dict[int, Tensor] = {}
            for op in ops:
                kernel = kernels.setdefault(op.op.kernel, RIM * op.depthwise.weight)
                _centre(kernel, inner).copy_(core[: len(kernel)])
                op.depthwise.weight.copy_(kernel[: op.mid])
                op.project.weight.copy_(widest.project.weight[:, : op.mid])
                if op.expand is not None and widest.expand is not None:
                    op.expand.weight.copy_(widest.expand.weight[: op.mid])

    def _scaled(self, channels: int) -> int:
        return max(1, round(channels * self.channel_factor)) if channels else 0

    def _shared(self, op: OpSpec, mid: int) -> nn.Module:
        c_in = op.c_in if op is self.space.stem[0] else self._scaled(op.c_in)
        channels = (self._scaled(c) for c in (mid, op.c_se, op.c_out))
        return lookup("op kind", op.kind, SHARED_KINDS)(op, c_in, *channels)

    def _fixed(self, op: OpSpec) -> nn.Module:
        shared = self._shared(op, op.c_mid)
        return _AtWidth(shared) if isinstance(shared, SuperMBConv) else shared

    def initial_widths(self) -> tuple[tuple[int, ...], ...]:
        return tuple(tuple(choice.op.c_mid for choice in block) for block in self.space.blocks)

    def forward(
        self,
        x: Tensor,
        paths: Sequence[Path],
        depths: Sequence[Depth],
        widths: Widths,
        gates: Gates = None,
    ) -> Tensor:
        """Logits (N, classes).

        Args:
            x: (N, in_channels, R, R).
            paths: one for each block of the space.
            depths: one for each stage. A tensor holds the weights of the stage's outputs at each
                of its admissible depths (sink-connecting, TF-NAS, depth level).
            widths: see `Widths`.
            gates: see `Gates`.
        """
        return self.body(self.stem(x), paths, depths, widths, gates)

    def body(
        self,
        h: Tensor,
        paths: Sequence[Path],
        depths: Sequence[Depth],
        widths: Widths,
        gates: Gates = None,
    ) -> Tensor:
        """As `forward` from the stem's output on, which several paths may share."""
        first = 0
        for stage, depth in zip(self.space.stages, depths, strict=True):
            last = len(stage.blocks) if isinstance(depth, Tensor) else depth
            outputs = []
            for b in range(first, first + last):
                y = self._block(b, h, paths[b], widths[b])
                gate = None if gates is None else gates[b]
                h = y if gate is None else weighted_sum([(gate[0], y), (gate[1], h)])
                outputs.append(h)
            if isinstance(depth, Tensor):
                mixed = zip(depth, outputs[stage.min_depth - 1 :], strict=True)
                h = weighted_sum(mixed) if len(depth) > 1 else outputs[-1]
            first += len(stage.blocks)
        return self.classifier(self.head(h))

    def _block(self, index: int, x: Tensor, path: Path, widths: Sequence[int]) -> Tensor:
        ops: nn.ModuleList = self.blocks[index]  # type: ignore[assignment]
        if isinstance(path, int):
            if path == len(ops):
                return x  # skip as an op
            return ops[path](x, self._scaled(widths[path]))
        mix = path if isinstance(path, Mix) else Mix(range(len(path)), path)
        # The op weights go into the last batch norms; x, which most ops pass on, is added once.
        expands = any(choice.op.expands for choice in self.space.blocks[index])
        known, total, passed_on = moments(x) if expands else None, None, []
        for pick, weight in zip(mix.picks, mix.weights, strict=True):
            if pick == len(ops):  # skip as an op
                passed_on.append(weight)
                continue
            op = self.candidate(index, pick)
            y = op.branch(x, self._scaled(widths[pick]), known, weight)
            total = y if total is None else total.add_(y)
            if op.op.residual:
                passed_on.append(weight)
        if not passed_on:
            assert total is not None
            return total
        kept = torch.stack(passed_on).sum()
        return kept * x if total is None else torch.addcmul(total, kept, x)

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """No gradients of weights inside: for steps of the architecture alone."""
        parameters = list(self.parameters())
        try:
            for parameter in parameters:
                parameter.requires_grad_(False)
            yield
        finally:
            for parameter in parameters:
                parameter.requires_grad_(True)

    @torch.no_grad()
    def order_channels(
        self, block: int, pick: int, optimizer: torch.optim.Optimizer | None = None
    ) -> None:
        """Put an op's mid channels, active or not, in order of importance, with their momentum."""
        op = self.candidate(block, pick)
        order = torch.argsort(op.importance(), descending=True, stable=True)
        for parameter, dim in op.channel_parameters():
            tensors: list[Tensor] = [parameter]
            if optimizer is not None and parameter in optimizer.state:
                state = optimizer.state[parameter].values()
                tensors += [
                    t for t in state if isinstance(t, Tensor) and t.shape == parameter.shape
                ]
            for tensor in tensors:
                tensor.copy_(tensor.index_select(dim, order))

    def candidate(self, block: int, pick: int) -> SuperMBConv:
        ops = self.blocks[block]
        assert isinstance(ops, nn.ModuleList)
        op = ops[pick]
        assert isinstance(op, SuperMBConv)
        return op

    def placed(
        self, subnet: Subnet, picks: Sequence[int] | None = None
    ) -> list[tuple[int, int, OpSpec]]:
        """(block, index of its candidate, op) for every block of a subnet of this space.

        Args:
            picks: the op of every block of the space, for the blocks where two candidates admit
                the same op.

        Raises:
            ValueError: if the subnet is not of this space.
        """
        placed, first = [], 0
        found = self.space.choices_of(subnet)
        for stage, ops, row in zip(self.space.stages, subnet.stages, found, strict=True):
            for b, (op, pick) in enumerate(zip(ops, row, strict=True), first):
                wanted = None if picks is None else self.space.blocks[b][picks[b]]
                fits = wanted and wanted.op.curve == op.curve and op.c_mid in wanted.widths
                placed.append((b, picks[b] if picks is not None and fits else pick, op))
            first += len(stage.blocks)
        return placed

    @torch.no_grad()
    def extract(self, subnet: Subnet, picks: Sequence[int] | None = None) -> dict[str, Tensor]:
        """The weights of one subnet, named as in `tfnas.nets.blocks.Network`.

        Batch norm has no weights here and so is left out: a network that starts from these keeps
        its own, at identity.

        Args:
            picks: see `placed`.

        Raises:
            ValueError: if the subnet is not of this space, or the supernet is a proxy with fewer
                channels than the space.
        """
        if self.channel_factor != 1:
            raise ValueError(
                f"a supernet with channel_factor={self.channel_factor} has no weights for a subnet "
                "of full width; search with budget.channel_factor=1 to start training from it"
            )
        placed = self.placed(subnet, picks)
        layers: list[tuple[nn.Module, int]] = [(layer, 0) for layer in self.stem]
        layers += [(self.candidate(block, pick), op.c_mid) for block, pick, op in placed]
        layers += [(layer, 0) for layer in (*self.head, self.classifier)]
        return {
            f"layers.{index}.{name}": value
            for index, (layer, width) in enumerate(layers)
            for name, value in cast(SharedOp, layer).state(width).items()
        }


def _centre(kernels: Tensor, size: int) -> Tensor:
    """The middle (mid, 1, size, size) of depthwise kernels, a view."""
    rim = (kernels.shape[-1] - size) // 2
    return kernels[..., rim : rim + size, rim : rim + size]


def weighted_sum(
    terms: Iterator[tuple[Tensor, Tensor]] | Sequence[tuple[Tensor, Tensor]],
) -> Tensor:
    """Sum of weight * value over (weight, value) pairs."""
    total: Tensor | None = None
    for weight, value in terms:
        total = weight * value if total is None else torch.addcmul(total, weight, value)
    assert total is not None
    return total


def can_skip(block: Block) -> bool:
    """Whether a block's shapes admit the identity in its place."""
    return all(choice.op.residual for choice in block)
