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
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tfnas.nets.activations import EXCITES, activate
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

Paths = Sequence[Path]
Depths = Sequence[Depth]
Widths = Sequence[Sequence[int]]
"""For each block, the current mid width of each of its candidate ops."""

MID_CHANNELS = {
    "expand.weight": 0,
    "depthwise.weight": 0,
    "se_reduce.weight": 1,
    "se_expand.weight": 0,
    "se_expand.bias": 0,
    "project.weight": 1,
}
"""Parameter of an inverted residual block -> the dimension that its mid channels stand in."""

SE_CHANNELS = {"se_reduce.weight": 0, "se_reduce.bias": 0, "se_expand.weight": 1}
"""As `MID_CHANNELS`, of what squeeze-excite reduces to."""


class SuperConv(nn.Module):
    """Convolution, batch statistics, activation."""

    def __init__(self, op: OpSpec, c_in: int, c_out: int):
        super().__init__()
        self.op = op
        self.conv = nn.Conv2d(c_in, c_out, op.kernel, op.stride, op.kernel // 2, bias=False)

    def forward(self, x: Tensor, _width: int | None = None) -> Tensor:  # (N, c_in, H, W)
        return activate(batch_norm(self.conv(x)), self.op.act)

    def branch(
        self, x: Tensor, _width: int, _known: Moments | None, scale: Tensor | None = None
    ) -> Tensor:
        """As `SuperMBConv.branch`."""
        if self.op.act == "none":
            return batch_norm(self.conv(x), scale)
        y = self(x)
        return y if scale is None else y * scale

    def weights(self, _width: int | None = None, _anew: bool = False) -> dict[str, Tensor]:
        """A copy, named as in `tfnas.nets.blocks.ConvBN`."""
        return {"conv.weight": self.conv.weight.detach().clone()}


class SuperPooledConv(nn.Module):
    """Global average pooling, 1x1 convolution, activation."""

    def __init__(self, op: OpSpec, c_in: int, c_out: int):
        super().__init__()
        self.op = op
        self.conv = nn.Conv2d(c_in, c_out, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:  # (N, c_in, H, W) -> (N, c_out, 1, 1)
        return activate(self.conv(F.adaptive_avg_pool2d(x, 1)), self.op.act)

    def weights(self) -> dict[str, Tensor]:
        """A copy, named as in `tfnas.nets.blocks.PooledConv`."""
        return {"conv.weight": self.conv.weight.detach().clone()}


class SuperPooledLinear(nn.Module):
    """Global average pooling, linear layer, activation."""

    def __init__(self, op: OpSpec, c_in: int, c_out: int):
        super().__init__()
        self.op = op
        self.dense = nn.Conv2d(c_in, c_out, 1)

    def forward(self, x: Tensor) -> Tensor:  # (N, c_in, H, W) -> (N, c_out, 1, 1)
        return activate(self.dense(F.adaptive_avg_pool2d(x, 1)), self.op.act)

    def weights(self) -> dict[str, Tensor]:
        """A copy, named as in `tfnas.nets.blocks.PooledLinear`."""
        return {name: value.detach().clone() for name, value in self.named_parameters()}


class SuperIdentity(nn.Module):
    """A block that is left out."""

    def __init__(self, op: OpSpec):
        super().__init__()
        self.op = op

    def forward(self, x: Tensor, _width: int | None = None) -> Tensor:
        return x

    def branch(
        self, x: Tensor, _width: int, _known: Moments | None, scale: Tensor | None = None
    ) -> Tensor:
        """As `SuperMBConv.branch`."""
        return x.clone() if scale is None else x * scale

    def weights(self, _width: int | None = None, _anew: bool = False) -> dict[str, Tensor]:
        return {}


class SuperMBConv(nn.Module):
    """One inverted residual block at the largest of its widths, run at any leading slice of it.

    Args:
        of: the block whose weights it shares, as their leading channels and the centre of the
            kernels; None: it has its own.
    """

    def __init__(
        self, op: OpSpec, c_in: int, mid: int, c_se: int, c_out: int, of: SuperMBConv | None = None
    ):
        super().__init__()
        self.op, self.mid, self.c_se = op, mid, c_se
        self._source = (self if of is None else of,)  # a tuple, so as not to be registered again
        if of is not None:
            return
        self.expand = nn.Conv2d(c_in, mid, 1, bias=False) if op.expands else None
        self.depthwise = nn.Conv2d(mid, mid, op.kernel, groups=mid, bias=False)
        self.se_reduce = nn.Conv2d(mid, c_se, 1) if op.c_se else None
        self.se_expand = nn.Conv2d(c_se, mid, 1) if op.c_se else None
        self.project = nn.Conv2d(mid, c_out, 1, bias=False)

    def forward(self, x: Tensor, width: int | None = None) -> Tensor:
        """(N, c_in, H, W) -> (N, c_out, H', W'), at full width if none is given."""
        width = self.mid if width is None else width
        y = self.branch(x, width, moments(x) if self.op.expands else None)
        return y.add_(x) if self.op.residual else y

    def branch(
        self, x: Tensor, width: int, known: Moments | None, scale: Tensor | None = None
    ) -> Tensor:
        """What the block adds to x, or has in its place, times `scale`.

        Args:
            known: see `tfnas.nets.layers.moments`, of x.
        """
        op, (source,) = self.op, self._source
        kernel = _centre(leading(source.depthwise.weight, width, 0), op.kernel).contiguous()
        if source.expand is None:
            y = depthwise(x, kernel, op.stride)
        else:
            y = normed_pointwise(
                x, leading(source.expand.weight, width, 0), known
            )  # (N, width, H, W)
            y = act_depthwise(y, kernel, op.act, op.stride)  # (N, width, H', W')
        project = leading(source.project.weight, width, 1)
        if self.c_se:
            reduce, expand = source.se_reduce, source.se_expand
            assert reduce is not None
            assert reduce.bias is not None
            assert expand is not None
            assert expand.bias is not None
            excite = EXCITES[op.kind]
            squeeze = Squeeze(
                leading(leading(reduce.weight, width, 1), self.c_se, 0),
                leading(reduce.bias, self.c_se, 0),
                leading(leading(expand.weight, width, 0), self.c_se, 1),
                leading(expand.bias, width, 0), excite.act or op.act, excite.gate,
            )  # fmt: skip
            y = norm_act_squeeze_pointwise(y, squeeze, project, op.act)
        else:
            y = norm_act_pointwise(y, project, op.act)
        return batch_norm(y, scale)

    def importance(self) -> Tensor:
        """L1 norm of each mid channel's depthwise weights, (mid,) (TF-NAS, width level)."""
        (source,) = self._source
        kernels = _centre(source.depthwise.weight.detach()[: self.mid], self.op.kernel)
        return kernels.abs().sum(dim=(1, 2, 3))

    def ranking(self) -> Tensor:
        """The mid channels from the most important one on, (mid,)."""
        return torch.argsort(self.importance(), descending=True, stable=True)

    def weights(self, width: int | None = None, anew: bool = False) -> dict[str, Tensor]:
        """A copy, named as in `tfnas.nets.blocks.MBConv`, at full width if none is given.

        Args:
            anew: take the most important mid channels and not the leading ones.
        """
        channels = self.ranking() if anew else torch.arange(self.mid)
        found = {}
        (source,) = self._source
        for name, parameter in source.named_parameters():
            value = parameter.detach()
            if name in MID_CHANNELS:
                chosen = channels[:width].to(value.device)
                value = value.index_select(MID_CHANNELS[name], chosen)
            layer, _, kind = name.partition(".")
            if layer.startswith("se_"):
                if not self.c_se:
                    continue
                if name in SE_CHANNELS:
                    value = value.narrow(SE_CHANNELS[name], 0, self.c_se)
            else:
                name = f"{layer}.conv.{kind}"
            if layer == "depthwise":
                value = _centre(value, self.op.kernel)
            found[name] = value.clone(memory_format=torch.contiguous_format)
        return found


class SuperClassifier(nn.Linear):
    """Global average pooling and one linear layer."""

    def __init__(self, op: OpSpec, c_in: int):
        super().__init__(c_in, op.c_out)

    def forward(self, x: Tensor) -> Tensor:  # (N, c_in, H, W) -> (N, classes)
        return super().forward(F.adaptive_avg_pool2d(x, 1).flatten(1))

    def weights(self) -> dict[str, Tensor]:
        """A copy, named as in `tfnas.nets.blocks.Classifier`."""
        named = self.named_parameters()
        return {f"linear.{name}": value.detach().clone() for name, value in named}


SuperOp = SuperMBConv | SuperConv | SuperIdentity  # what a block can be

# Of (op, c_in, c_mid, c_se, c_out): a proxy's channels are other than the op's.
SHARED_KINDS: Mapping[str, Callable[[OpSpec, int, int, int, int], nn.Module]] = {
    "conv": lambda op, c_in, _mid, _se, c_out: SuperConv(op, c_in, c_out),
    "mbconv": SuperMBConv,
    "mbconv_v3": SuperMBConv,
    "identity": lambda op, _in, _mid, _se, _out: SuperIdentity(op),
    "pooled_conv": lambda op, c_in, _mid, _se, c_out: SuperPooledConv(op, c_in, c_out),
    "pooled_linear": lambda op, c_in, _mid, _se, c_out: SuperPooledLinear(op, c_in, c_out),
    "classifier": lambda op, c_in, _mid, _se, _out: SuperClassifier(op, c_in),
}


class Supernet(nn.Module):
    """All candidate ops of a space with shared weights, (N, in_channels, R, R) -> (N, classes).

    Args:
        channel_factor: a proxy with all channels scaled by it. EcoNAS (arXiv 2001.01233) found
            fewer channels more reliable than a lower resolution; here it is the other way round,
            see benchmarks/LOG.md, 2026-11-29. Widths are always given as those of the space.
    """

    def __init__(self, space: SearchSpace, channel_factor: float = 1.0):
        super().__init__()
        if not 0 < channel_factor <= 1:
            raise ValueError(f"channel_factor={channel_factor}: expected above 0 and at most 1")
        self.space = space
        self.channel_factor = channel_factor
        self.stem = nn.Sequential(*(self._shared(op, op.c_mid) for op in space.stem))
        self.blocks = nn.ModuleList(
            nn.ModuleList(self._candidates(block)) for block in space.blocks
        )
        *convs, classifier = space.head
        self.head = nn.Sequential(*(self._shared(op, op.c_mid) for op in convs))
        self.classifier = self._shared(classifier, 0)
        for module in self.modules():  # torch's own starts otherwise, as in the published code
            if isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)

    @torch.no_grad()
    def start_alike(self) -> None:
        """Give the inverted residuals of each block the same start: of the leading channels and of
        the centre of the kernels, the widest op's weights.

        A sampled path then changes little of what the blocks behind it see, where ops with random
        starts of their own hand on other features each time, to which those blocks must first
        become indifferent. A larger kernel's rim starts small, for the same reason.
        """
        for block in self.blocks:
            assert isinstance(block, nn.ModuleList)
            ops = [op for op in block if isinstance(op, SuperMBConv)]
            if not ops:
                continue
            ops.sort(key=lambda op: -op.mid)
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

    def _candidates(self, block: Block) -> Iterator[nn.Module]:
        return (self._shared(choice.op, choice.widths[-1]) for choice in block)

    def _shared(self, op: OpSpec, mid: int) -> nn.Module:
        return lookup("op kind", op.kind, SHARED_KINDS)(op, *self._channels(op, mid))

    def _channels(self, op: OpSpec, mid: int) -> tuple[int, int, int, int]:
        """Those that a proxy's op has: c_in, c_mid, c_se, c_out."""
        c_in = op.c_in if op is self.space.stem[0] else self._scaled(op.c_in)
        return c_in, self._scaled(mid), self._scaled(op.c_se), self._scaled(op.c_out)

    def initial_widths(self) -> tuple[tuple[int, ...], ...]:
        return tuple(tuple(choice.op.c_mid for choice in block) for block in self.space.blocks)

    def forward(self, x: Tensor, paths: Paths, depths: Depths, widths: Widths) -> Tensor:
        """Logits (N, classes).

        Args:
            x: (N, in_channels, R, R).
            paths: one for each block of the space.
            depths: one for each stage. A tensor holds the weights of the stage's outputs at each
                of its admissible depths (sink-connecting, TF-NAS, depth level).
            widths: see `Widths`.
        """
        return self.body(self.stem(x), paths, depths, widths)

    def body(self, h: Tensor, paths: Paths, depths: Depths, widths: Widths) -> Tensor:
        """As `forward` from the stem's output on, which several paths may share."""
        first = 0
        for stage, depth in zip(self.space.stages, depths, strict=True):
            last = len(stage.blocks) if isinstance(depth, Tensor) else depth
            outputs = []
            for b in range(first, first + last):
                h = self.block(b, h, paths[b], widths[b])
                outputs.append(h)
            if isinstance(depth, Tensor):
                mixed = zip(depth, outputs[stage.min_depth - 1 :], strict=True)
                h = weighted_sum(mixed) if len(depth) > 1 else outputs[-1]
            first += len(stage.blocks)
        return self.top(h)

    def block(self, index: int, x: Tensor, path: Path, widths: Sequence[int]) -> Tensor:
        """One block by its path."""
        if isinstance(path, int):
            return self.candidate(index, path)(x, self._scaled(widths[path]))
        mix = path if isinstance(path, Mix) else Mix(range(len(path)), path)
        return self.mixed(index, x, mix, widths)

    def mixed(
        self, index: int, x: Tensor, mix: Mix, widths: Sequence[int], skip: Sequence[Tensor] = ()
    ) -> Tensor:
        """The weighted sum of ops, and of `x` as often as `skip` has weights."""
        # The op weights go into the last batch norms; x, which most ops pass on, is added once.
        expands = any(choice.op.expands for choice in self.space.blocks[index])
        known, total, passed_on = moments(x) if expands else None, None, []
        for pick, weight in zip(mix.picks, mix.weights, strict=True):
            op = self.candidate(index, pick)
            if isinstance(op, SuperIdentity):
                passed_on.append(weight)
                continue
            y = op.branch(x, self._scaled(widths[pick]), known, weight)
            total = y if total is None else total.add_(y)
            if op.op.residual:
                passed_on.append(weight)
        passed_on += skip
        if not passed_on:
            assert total is not None
            return total
        kept = torch.stack(passed_on).sum()
        return kept * x if total is None else torch.addcmul(total, kept, x)

    def top(self, h: Tensor) -> Tensor:
        """From the last stage's output (N, C, H, W) to the logits (N, classes)."""
        return self.classifier(self.head(h))

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
        if not isinstance(op, SuperMBConv) or op.expand is None:
            return  # nothing can change its width
        order = op.ranking()
        for name, parameter in op.named_parameters():
            if name not in MID_CHANNELS:
                continue
            tensors: list[Tensor] = [parameter]
            if optimizer is not None and parameter in optimizer.state:
                state = optimizer.state[parameter].values()
                tensors += [
                    t for t in state if isinstance(t, Tensor) and t.shape == parameter.shape
                ]
            for tensor in tensors:
                tensor.copy_(tensor.index_select(MID_CHANNELS[name], order))

    def candidate(self, block: int, pick: int) -> SuperOp:
        ops = self.blocks[block]
        assert isinstance(ops, nn.ModuleList)
        op = ops[pick]
        assert isinstance(op, SuperOp)
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

    def extract(
        self, subnet: Subnet, picks: Sequence[int] | None = None, trained: Widths | None = None
    ) -> dict[str, Tensor]:
        """The weights of one subnet, named as in `tfnas.nets.blocks.Network`.

        Batch norm has no weights here and so is left out: a network that starts from these keeps
        its own, at identity.

        Args:
            picks: see `placed`.
            trained: widths that each op was trained at last. An op at another width picks its
                channels anew. None: every width was trained, as the leading channels.

        Raises:
            ValueError: if the subnet is not of this space, or the supernet is a proxy with fewer
                channels than the space.
        """
        if self.channel_factor != 1:
            raise ValueError(
                f"a supernet with channel_factor={self.channel_factor} has no weights for a subnet "
                "of full width; search with budget.channel_factor=1 to start training from it"
            )
        layers: list[dict[str, Tensor]] = [layer.weights() for layer in self.stem]  # type: ignore[operator]
        for block, pick, op in self.placed(subnet, picks):
            anew = trained is not None and op.c_mid != trained[block][pick]
            layers.append(self.candidate(block, pick).weights(op.c_mid, anew))
        last = (*self.head, self.classifier)
        layers += [layer.weights() for layer in last]
        return {
            f"layers.{index}.{name}": value
            for index, layer in enumerate(layers)
            for name, value in layer.items()
        }


class SlicedSupernet(Supernet):
    """A supernet in which the inverted residuals of a block share weights, too.

    Each is the leading channels and the kernels' centre of one that is as wide as the widest, as in
    slimmable networks (arXiv 1812.08928) and Once-for-all (arXiv 1908.09791, without its
    transforms of kernels). A step then trains all of them, where it trained one.
    """

    def _candidates(self, block: Block) -> Iterator[nn.Module]:
        alike = [choice for choice in block if choice.op.expands]
        if not alike:
            yield from super()._candidates(block)
            return
        kernel, c_se = (max(getattr(c.op, name) for c in alike) for name in ("kernel", "c_se"))
        widest = replace(alike[0].op, kernel=kernel, c_se=c_se)
        width = max(choice.widths[-1] for choice in alike)
        source = SuperMBConv(widest, *self._channels(widest, width))
        for choice in block:
            op, mid = choice.op, choice.widths[-1]
            if op.expands:
                yield SuperMBConv(op, *self._channels(op, mid), source)
            else:
                yield self._shared(op, mid)
        yield source  # behind the candidates, and none itself: it holds the weights

    @torch.no_grad()
    def start_alike(self) -> None:
        """Let the rims of kernels start small; all else is alike anyway."""
        for block in self.blocks:
            assert isinstance(block, nn.ModuleList)
            source = block[-1]
            if isinstance(source, SuperMBConv):
                inner = min(op.op.kernel for op in block if isinstance(op, SuperMBConv))
                core = _centre(source.depthwise.weight, inner).clone()
                _centre(source.depthwise.weight.mul_(RIM), inner).copy_(core)


def _centre(kernels: Tensor, size: int) -> Tensor:
    """The middle (mid, 1, size, size) of depthwise kernels, a view."""
    rim = (kernels.shape[-1] - size) // 2
    if not rim:
        return kernels
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
