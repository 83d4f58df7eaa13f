"""How depth is searched: sink-connecting, and what it is compared with.

- sink: a stage's output is the softmax(beta)-weighted sum of its blocks' outputs, skip is no op
  (TF-NAS, arXiv 2008.05314);
- skip_op: skip is one more candidate op of every block whose shapes admit it, as in FBNet
  (arXiv 1812.03443, section 3.1);
- separated_skip: every such block has two weights of its own, run or skip, apart from its ops
  (the step between the two in TF-NAS's ablation);
- fixed: all blocks are kept.

A stage whose middle block is skipped is the shorter stage without it: its later blocks have one
shape. So that what was learned can be derived from, blocks are ordered kept ones first, and the
probability of a depth is that of so many blocks being kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tfnas.derive.architecture import Architecture
from tfnas.nets.supernet import Depth, can_skip
from tfnas.space.search_space import SearchSpace
from tfnas.strategies.parts.sampling import log_uniform

DEPTHS = ("sink", "skip_op", "separated_skip", "fixed")
LEAST = 1e-9  # probability that stands for an impossible depth


@dataclass(frozen=True)
class DepthSearch:
    """One of `DEPTHS` on a space. Betas are log-probabilities, learned beside the alphas."""

    space: SearchSpace
    kind: str

    def ops(self, block: int) -> int:
        """Candidates of a block, skip included where it is one."""
        candidates = self.space.blocks[block]
        return len(candidates) + (self.kind == "skip_op" and can_skip(candidates))

    def betas(self) -> list[Tensor]:
        """New vectors: (depths,) a stage for sink, (2,) run or skip a block for separated_skip."""
        if self.kind == "sink":
            return [log_uniform(len(stage.depths)) for stage in self.space.stages]
        if self.kind == "separated_skip":
            return [log_uniform(2) for _ in self._skippable()]
        return []

    def _skippable(self) -> list[int]:
        return [b for b, block in enumerate(self.space.blocks) if can_skip(block)]

    def depths(self, betas: Sequence[Tensor]) -> list[Depth]:
        """What `Supernet.forward` takes: weights of the depths, or all blocks."""
        if self.kind == "sink":
            return [beta.softmax(0) for beta in betas]
        return [len(stage.blocks) for stage in self.space.stages]

    def gates(self, betas: Sequence[Tensor]) -> list[Tensor | None] | None:
        """For each block, the weights (2,) of running and skipping it, if it has any."""
        if self.kind != "separated_skip":
            return None
        gates: list[Tensor | None] = [None] * len(self.space.blocks)
        for block, beta in zip(self._skippable(), betas, strict=True):
            gates[block] = beta.softmax(0)
        return gates

    def architecture(
        self, alphas: Sequence[Tensor], betas: Sequence[Tensor], widths: Sequence[Sequence[int]]
    ) -> tuple[Architecture, list[int]]:
        """What was learned, to derive from, and which block stands at each of its places."""
        a = [alpha.detach().double().numpy() for alpha in alphas]
        order = list(range(len(a)))
        if self.kind == "sink":
            b = [beta.detach().double().numpy() for beta in betas]
        elif self.kind == "fixed":
            b = [np.log(_one_hot(len(stage.depths))) for stage in self.space.stages]
        else:
            order, b = self._from_skips(a, betas)
        places = [a[block][: len(self.space.blocks[block])] for block in order]
        normalized = tuple(row - np.logaddexp.reduce(row) for row in places)
        return Architecture(normalized, tuple(b), tuple(tuple(widths[i]) for i in order)), order

    def _from_skips(
        self, alphas: Sequence[np.ndarray], betas: Sequence[Tensor]
    ) -> tuple[list[int], list[np.ndarray]]:
        """Order of blocks, and log-probabilities of the depths of every stage."""
        skips = self._skip_probabilities(alphas, betas)
        order: list[int] = []
        depth_logs: list[np.ndarray] = []
        first = 0
        for stage in self.space.stages:
            blocks = range(first, first + len(stage.blocks))
            kept = [b for b in blocks if not self._skipped(b, alphas, skips)]
            order += [*kept, *(b for b in blocks if b not in kept)]
            kept_probs = np.ones(1)  # (d + 1,) probability that d of the blocks so far are kept
            for b in blocks:
                run = np.append(0, kept_probs) * (1 - skips[b])
                kept_probs = run + np.append(kept_probs, 0) * skips[b]
            # The mode counts kept blocks; the most probable choice of each block does so too.
            wanted = np.maximum(kept_probs[stage.min_depth :], LEAST)
            argmax = max(len(kept), stage.min_depth) - stage.min_depth
            wanted[argmax] = max(wanted[argmax], wanted.max() * (1 + 1e-6))
            depth_logs.append(np.log(wanted / wanted.sum()))
            first += len(stage.blocks)
        return order, depth_logs

    def _skip_probabilities(
        self, alphas: Sequence[np.ndarray], betas: Sequence[Tensor]
    ) -> dict[int, float]:
        skips = dict.fromkeys(range(len(alphas)), 0.0)
        for index, block in enumerate(self._skippable()):
            if self.kind == "skip_op":
                skips[block] = float(np.exp(alphas[block][-1]))
            else:
                skips[block] = float(betas[index].detach().softmax(0)[1])
        return skips

    def _skipped(self, block: int, alphas: Sequence[np.ndarray], skips: dict[int, float]) -> bool:
        if self.kind == "skip_op":
            candidates = len(self.space.blocks[block])
            return int(np.argmax(alphas[block])) == candidates
        return skips[block] > 0.5


def _one_hot(n: int) -> np.ndarray:
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
