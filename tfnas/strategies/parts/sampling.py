"""Paths, soft weights and expected latency: the arithmetic of alphas and betas.

Alphas are log-probabilities (ops,), one vector a block; betas (depths,), one a stage.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from tfnas.latency.table import LatencyTable
from tfnas.nets.supernet import Depths, Mix, Widths
from tfnas.space.search_space import SearchSpace

FIRST_PATHS = ("gumbel", "uniform")
SECOND_PATHS = ("random", "none", "gumbel", "max", "min")
SOME_OPS = ("sample", "top")
LEAST = 1e-20


def log_uniform(n: int) -> Tensor:
    """Log-probabilities of the uniform distribution over n, ready to be learned."""
    return torch.zeros(n).log_softmax(0).requires_grad_()


def probabilities(vector: Tensor) -> tuple[float, ...]:
    """The probabilities of a vector of their logarithms, normalized or not."""
    return tuple(vector.detach().double().softmax(0).tolist())


def entropy(vector: Tensor) -> float:
    """The entropy of a vector of log-probabilities, in nats."""
    logs = vector.detach().double().log_softmax(0)
    return float(-(logs.exp() * logs).sum())


def gumbel(n: int, generator: torch.Generator) -> Tensor:
    """n independent samples of the standard Gumbel distribution."""
    return -torch.empty(n).exponential_(generator=generator).log()


def first_path(kind: str, alphas: Sequence[Tensor], generator: torch.Generator) -> list[int]:
    """An op for every block, from the op probabilities or uniformly.

    The argmax of log-probabilities plus Gumbel noise is a sample of the probabilities, whatever the
    temperature (TF-NAS, operation level).
    """
    if kind == "uniform":
        return [_randrange(len(alpha), generator) for alpha in alphas]
    return [int((a.detach() + gumbel(len(a), generator)).argmax()) for a in alphas]


def second_path(
    kind: str, first: Sequence[int], alphas: Sequence[Tensor], generator: torch.Generator
) -> list[int]:
    """Another op for every block, never the first path's (TF-NAS, operation level)."""
    path = []
    for taken, alpha in zip(first, alphas, strict=True):
        rest = [i for i in range(len(alpha)) if i != taken]
        if not rest:
            path.append(taken)  # a block of one candidate has no other
            continue
        left = alpha.detach()[rest]
        if kind == "random":
            pick = _randrange(len(rest), generator)
        elif kind == "gumbel":
            pick = int((left + gumbel(len(rest), generator)).argmax())
        else:
            pick = int(left.argmax() if kind == "max" else left.argmin())
        path.append(rest[pick])
    return path


def _randrange(n: int, generator: torch.Generator) -> int:
    return int(torch.randint(n, (), generator=generator))


def gumbel_softmax(alpha: Tensor, temperature: float, generator: torch.Generator) -> Tensor:
    """Soft Gumbel weights (ops,) at a temperature (arXiv 1611.01144)."""
    return ((alpha + gumbel(len(alpha), generator)) / temperature).softmax(0)


def some_ops(mix: Tensor, alpha: Tensor, count: int, kind: str) -> Mix:
    """Take the soft Gumbel weights (ops,) of `count` ops, so that the others needn't be run.

    Args:
        kind: sample: the largest weights, which is a sample of the op probabilities without
            replacement, as two ops in ProxylessNAS (arXiv 1812.00332, section 3.3.1) and one in
            GDAS (arXiv 1910.04465); top: the most probable ops.

    Several weights are made to sum to 1; a single one is 1 with the gradient of its soft weight.
    """
    picks = (mix if kind == "sample" else alpha).detach().topk(min(count, len(mix))).indices.sort()
    chosen = mix[picks.values]
    alone = len(chosen) == 1
    # The least that is added keeps a share where all of them are too small for float32.
    weights = 1 + (chosen - chosen.detach()) if alone else (chosen + LEAST) / (chosen + LEAST).sum()
    return Mix(picks.values.tolist(), weights)


def op_latencies(space: SearchSpace, table: LatencyTable, widths: Widths) -> list[Tensor]:
    """For each block, the latency in ms of every candidate at its current width, (ops,)."""
    return [
        torch.tensor([table.ms(c.at(w)) for c, w in zip(block, row, strict=True)])
        for block, row in zip(space.blocks, widths, strict=True)
    ]


def block_ms(mix: Sequence[Tensor], op_ms: Sequence[Tensor]) -> list[Tensor]:
    """For each block, the latencies (ops,) of its ops weighted by `mix` (ops,), a scalar."""
    return [weights @ ms for weights, ms in zip(mix, op_ms, strict=True)]


def net_ms(space: SearchSpace, fixed_ms: float, costs: Sequence[Tensor], depths: Depths) -> Tensor:
    """Expected latency in ms, a scalar (TF-NAS, depth level).

    A stage cut after d blocks costs the sum of its first d `costs`, and these sums are weighted by
    `depths` (depths,).
    """
    total = torch.tensor(fixed_ms)
    first = 0
    for stage, depth in zip(space.stages, depths, strict=True):
        last = first + len(stage.blocks)
        cumulative = torch.stack(list(costs[first:last])).cumsum(0)  # (blocks,)
        if isinstance(depth, Tensor):
            total = total + depth @ cumulative[stage.min_depth - 1 :]
        else:
            total = total + cumulative[depth - 1]
        first = last
    return total
