"""How depth is searched: a mode says what is learned, and which supernet runs it.

Here stand sink-connecting and the fixed depth, whose supernet runs the first blocks of each stage.
Modes that skip blocks one by one have supernets of their own: `tfnas.strategies.parts.skips`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tfnas.derive.architecture import Architecture
from tfnas.nets.supernet import Depth, Depths, Supernet, Widths
from tfnas.space.search_space import SearchSpace
from tfnas.strategies.parts.sampling import block_ms, log_uniform, net_ms

LEAST = 1e-9  # probability that stands for an impossible depth
Vectors = Sequence[Tensor]
Places = tuple[list[int], list[np.ndarray]]
"""Which block stands at each place, and log-probabilities of the depths of every stage."""


class Fixed:
    """All blocks are kept, nothing is learned; other modes change what they do otherwise."""

    supernet: type[Supernet] = Supernet

    def __init__(self, space: SearchSpace):
        self.space = space

    def ops(self) -> list[int]:
        """For each block, how many ops there are to choose from."""
        return [len(block) for block in self.space.blocks]

    def betas(self) -> tuple[Tensor, ...]:
        """New log-probabilities, which are learned beside the alphas."""
        return ()

    def depths(self, betas: Vectors) -> list[Depth]:
        """What the supernet takes as depths."""
        return [len(stage.blocks) for stage in self.space.stages]

    def expected_ms(self, fixed_ms: float, mix: Vectors, depths: Depths, op_ms: Vectors) -> Tensor:
        """Expected latency in ms, a scalar, see `tfnas.strategies.parts.sampling.net_ms`.

        Args:
            mix: for each block, the weights of its ops.
            op_ms: for each block, the latencies of its candidates.
        """
        return net_ms(self.space, fixed_ms, block_ms(mix, op_ms), depths)

    def architecture(
        self, alphas: Vectors, betas: Vectors, widths: Widths
    ) -> tuple[Architecture, list[int]]:
        """What was learned, to derive from, and which block stands at each of its places."""
        logs = [alpha.detach().double().numpy() for alpha in alphas]
        order, depth_logs = self._places(logs, betas)
        places = [logs[block][: len(self.space.blocks[block])] for block in order]
        normalized = tuple(row - np.logaddexp.reduce(row) for row in places)
        learned = Architecture(
            normalized, tuple(depth_logs), tuple(tuple(widths[block]) for block in order)
        )
        return learned, order

    def _places(self, alphas: Sequence[np.ndarray], betas: Vectors) -> Places:
        logs = [np.log(_last_of(len(stage.depths))) for stage in self.space.stages]
        return list(range(len(alphas))), logs


class Sink(Fixed):
    """A stage's output is the softmax(beta)-weighted sum of its blocks' outputs (TF-NAS)."""

    def betas(self) -> tuple[Tensor, ...]:
        return tuple(log_uniform(len(stage.depths)) for stage in self.space.stages)

    def depths(self, betas: Vectors) -> list[Depth]:
        return [beta.softmax(0) for beta in betas]

    def _places(self, alphas: Sequence[np.ndarray], betas: Vectors) -> Places:
        return list(range(len(alphas))), [beta.detach().double().numpy() for beta in betas]


def _last_of(n: int) -> np.ndarray:
    probs = np.full(n, LEAST)
    probs[-1] = 1 - LEAST * (n - 1)
    return probs


def on_device(values: Sequence[Any], device: torch.device) -> list[Any]:
    """Values with vectors (n,) of the CPU among them, with those on the device.

    On a GPU all vectors go there by one copy, which the host doesn't wait for, and their gradients
    come back by one, which it does wait for.
    """
    vectors = [v for v in values if isinstance(v, Tensor)]
    if device.type == "cpu" or not vectors:
        return list(values)
    packed = torch.cat(vectors).to(device, non_blocking=True)
    parts = iter(packed.split([len(v) for v in vectors]))
    return [next(parts) if isinstance(v, Tensor) else v for v in values]
