"""The published supernet as anyone would write it, which `against_plain` compares ours with.

TF-NAS (arXiv 2008.05314) in plain torch, from the paper: NCHW, `x * sigmoid(x)`, one op after
another, a full forward for each of the two paths, optimizers that loop over their parameters. It
shares no code with `tfnas.nets.supernet` and `tfnas.strategies`; it only reads spaces and
latencies.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tfnas.space.ops import OpSpec
from tfnas.space.search_space import SearchSpace

if TYPE_CHECKING:
    from tfnas.strategies.tfnas import Search


def activate(x: Tensor, act: str) -> Tensor:
    if act == "swish":
        return x * torch.sigmoid(x)
    if act == "hard_swish":
        return x * F.relu6(x + 3) / 6
    return {"relu": F.relu, "relu6": F.relu6, "none": lambda y: y}[act](x)


def batch_norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, affine=False, track_running_stats=False)


class PlainConv(nn.Module):
    def __init__(self, op: OpSpec):
        super().__init__()
        self.act = op.act
        self.conv = nn.Conv2d(op.c_in, op.c_out, op.kernel, op.stride, op.kernel // 2, bias=False)
        self.bn = batch_norm(op.c_out)

    def forward(self, x: Tensor) -> Tensor:
        return activate(self.bn(self.conv(x)), self.act)


class PlainMBConv(nn.Module):
    """One candidate at the largest of its widths; a narrower one is its leading channels."""

    def __init__(self, op: OpSpec, mid: int):
        super().__init__()
        self.op, self.mid = op, mid
        self.expand = nn.Conv2d(op.c_in, mid, 1, bias=False) if op.expands else None
        self.expand_bn = batch_norm(mid)
        self.depthwise = nn.Conv2d(mid, mid, op.kernel, groups=mid, bias=False)
        self.depthwise_bn = batch_norm(mid)
        self.se_reduce = nn.Conv2d(mid, op.c_se, 1) if op.c_se else None
        self.se_expand = nn.Conv2d(op.c_se, mid, 1) if op.c_se else None
        self.project = nn.Conv2d(mid, op.c_out, 1, bias=False)
        self.project_bn = batch_norm(op.c_out)

    def forward(self, x: Tensor, width: int | None = None) -> Tensor:
        op, n = self.op, width or self.mid
        y = x
        if self.expand is not None:
            y = activate(self.expand_bn(F.conv2d(y, self.expand.weight[:n])), op.act)
        kernel, padding = self.depthwise.weight[:n], op.kernel // 2
        y = F.conv2d(y, kernel, stride=op.stride, padding=padding, groups=n)
        y = activate(self.depthwise_bn(y), op.act)
        if self.se_reduce is not None and self.se_expand is not None:
            s = F.adaptive_avg_pool2d(y, 1)
            s = F.conv2d(s, self.se_reduce.weight[:, :n], self.se_reduce.bias)
            s = activate(s, op.act)
            assert self.se_expand.bias is not None
            s = F.conv2d(s, self.se_expand.weight[:n], self.se_expand.bias[:n])
            y = y * torch.sigmoid(s)
        y = self.project_bn(F.conv2d(y, self.project.weight[:, :n]))
        return x + y if op.residual else y


class PlainSupernet(nn.Module):
    """All candidates of a space. Parameters come in the order of `Supernet`'s."""

    def __init__(self, space: SearchSpace):
        super().__init__()
        self.space = space
        self.stem = nn.Sequential(*(_fixed(op) for op in space.stem))
        self.blocks = nn.ModuleList(
            nn.ModuleList(PlainMBConv(choice.op, choice.widths[-1]) for choice in block)
            for block in space.blocks
        )
        *convs, classifier = space.head
        self.head = nn.Sequential(*(_fixed(op) for op in convs))
        self.classifier = nn.Linear(classifier.c_in, classifier.c_out)

    def forward(
        self,
        x: Tensor,
        paths: Sequence[int | Tensor],
        depths: Sequence[Tensor],
        widths: Sequence[Sequence[int]],
    ) -> Tensor:
        """Logits.

        Args:
            paths: for each block, the one op to run, or the weights (ops,) of all.
            depths: for each stage, the weights (depths,) of its outputs at these depths.
        """
        h, b = self.stem(x), 0
        for stage, depth in zip(self.space.stages, depths, strict=True):
            outputs = []
            for _ in stage.blocks:
                h = self._block(b, h, paths[b], widths[b])
                outputs.append(h)
                b += 1
            h = mixed(depth, outputs[stage.min_depth - 1 :])
        return self.classifier(F.adaptive_avg_pool2d(self.head(h), 1).flatten(1))

    def _block(self, b: int, x: Tensor, path: int | Tensor, widths: Sequence[int]) -> Tensor:
        ops = self.blocks[b]
        assert isinstance(ops, nn.ModuleList)
        if isinstance(path, int):
            return ops[path](x, widths[path])
        return mixed(path, [op(x, width) for op, width in zip(ops, widths, strict=True)])


def mixed(weights: Tensor, values: Sequence[Tensor]) -> Tensor:
    total = weights[0] * values[0]
    for weight, value in zip(weights[1:], values[1:], strict=True):
        total = total + weight * value
    return total


def _fixed(op: OpSpec) -> nn.Module:
    return PlainConv(op) if op.kind == "conv" else PlainMBConv(op, op.c_mid)


class PlainSearch:
    """Weights, alphas, betas and their optimizers, from where one of our searches stands now."""

    def __init__(self, search: Search):
        knobs = search.knobs
        self.space, self.knobs = search.space, knobs
        self.net = PlainSupernet(search.space)
        with torch.no_grad():
            pairs = zip(self.net.parameters(), search.net.parameters(), strict=True)
            for mine, theirs in pairs:
                mine.copy_(theirs)
        self.widths = [list(row) for row in search.widths]
        self.alphas = [a.detach().clone().requires_grad_() for a in search.alphas]
        self.betas = [b.detach().clone().requires_grad_() for b in search.betas]
        self.generator = torch.Generator()
        self.generator.set_state(search.generator.get_state())
        self.op_ms = [ms.clone() for ms in search.op_ms]
        self.fixed_ms, self.target_ms = search.table.fixed(search.space), search.target_ms
        self.temperature = search.temperature
        self.weights_sgd = torch.optim.SGD(
            self.net.parameters(), knobs.weight_lr, knobs.weight_momentum,
            weight_decay=knobs.weight_decay, foreach=False,
        )  # fmt: skip
        self.arch_adam = torch.optim.Adam(
            [*self.alphas, *self.betas], knobs.arch_lr, (knobs.arch_beta1, knobs.arch_beta2),
            weight_decay=knobs.arch_decay, foreach=False,
        )  # fmt: skip

    def paths(self) -> list[list[int]]:
        """A path by Gumbel samples, and another one uniform among the ops that are left."""
        first = [int((a.detach() + self._gumbel(len(a))).argmax()) for a in self.alphas]
        second = []
        for taken, alpha in zip(first, self.alphas, strict=True):
            rest = [i for i in range(len(alpha)) if i != taken]
            second.append(rest[int(torch.randint(len(rest), (), generator=self.generator))])
        return [first, second]

    def weight_step(self, x: Tensor, y: Tensor, paths: Sequence[Sequence[int]]) -> None:
        depths = [beta.detach().softmax(0) for beta in self.betas]
        losses = [F.cross_entropy(self.net(x, path, depths, self.widths), y) for path in paths]
        self.weights_sgd.zero_grad()
        sum(losses[1:], losses[0]).backward()
        nn.utils.clip_grad_norm_(self.net.parameters(), self.knobs.clip, foreach=False)
        self.weights_sgd.step()

    def arch_step(self, x: Tensor, y: Tensor) -> None:
        for parameter in self.net.parameters():
            parameter.requires_grad_(False)  # as in the published code
        mix = [
            F.softmax((alpha + self._gumbel(len(alpha))) / self.temperature, 0)
            for alpha in self.alphas
        ]
        depths = [beta.softmax(0) for beta in self.betas]
        ce = F.cross_entropy(self.net(x, mix, depths, self.widths), y)
        relative = (self._expected_ms(mix, depths) / self.target_ms - 1).abs()
        self.arch_adam.zero_grad()
        (ce + self.knobs.latency_weight * relative).backward()
        vectors = [*self.alphas, *self.betas]
        nn.utils.clip_grad_norm_(vectors, self.knobs.clip, foreach=False)
        self.arch_adam.step()
        with torch.no_grad():
            for vector in vectors:
                vector.copy_(vector.log_softmax(0))
        for parameter in self.net.parameters():
            parameter.requires_grad_(True)

    def _gumbel(self, n: int) -> Tensor:
        return -torch.empty(n).exponential_(generator=self.generator).log()

    def _expected_ms(self, mix: Sequence[Tensor], depths: Sequence[Tensor]) -> Tensor:
        total, b = torch.tensor(self.fixed_ms), 0
        for stage, depth in zip(self.space.stages, depths, strict=True):
            so_far = torch.zeros(())
            for d in range(1, len(stage.blocks) + 1):
                so_far = so_far + (mix[b] * self.op_ms[b]).sum()
                if d >= stage.min_depth:
                    total = total + depth[d - stage.min_depth] * so_far
                b += 1
        return total
