"""Depth by skipping blocks one by one: what sink-connecting is compared with.

- skip_op: skip is one more candidate op of every block whose shapes admit it, as in FBNet
  (arXiv 1812.03443, section 3.1);
- separated_skip: every such block has two weights of its own, run or skip, apart from its ops
  (the step between the two in TF-NAS's ablation).

A stage whose middle block is skipped is the shorter stage without it: its later blocks have one
shape. So that what was learned can be derived from, blocks are ordered kept ones first, and the
probability of a depth is that of so many blocks being kept.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from tfnas.nets.supernet import Depth, Depths, Mix, Path, Paths, Supernet, Widths, weighted_sum
from tfnas.space.search_space import SearchSpace
from tfnas.strategies.parts.depth import LEAST, Fixed, Places, Sink, Vectors
from tfnas.strategies.parts.sampling import block_ms, log_uniform, net_ms


def skippable(space: SearchSpace) -> list[int]:
    """The blocks whose shapes admit the identity in their place."""
    blocks = enumerate(space.blocks)
    return [b for b, block in blocks if all(choice.op.residual for choice in block)]


class SkipOpSupernet(Supernet):
    """A path of `len(block)` is the identity."""

    def block(self, index: int, x: Tensor, path: Path, widths: Sequence[int]) -> Tensor:
        skip = len(self.space.blocks[index])
        if isinstance(path, int) and path == skip:
            return x
        if isinstance(path, Mix) and path.picks[-1] == skip:
            ops = Mix(path.picks[:-1], path.weights[:-1])
            return self.mixed(index, x, ops, widths, skip=[path.weights[-1]])
        return super().block(index, x, path, widths)


class GatedSupernet(Supernet):
    """Depths are one for each block: 1, or the weights (2,) of running and of skipping it."""

    def body(self, h: Tensor, paths: Paths, depths: Depths, widths: Widths) -> Tensor:
        for b, (path, gate) in enumerate(zip(paths, depths, strict=True)):
            y = self.block(b, h, path, widths[b])
            h = weighted_sum([(gate[0], y), (gate[1], h)]) if isinstance(gate, Tensor) else y
        return self.top(h)


class SkipOp(Fixed):
    """Skip is the last op of every block that may be skipped."""

    supernet = SkipOpSupernet

    def ops(self) -> list[int]:
        counts = super().ops()
        for block in skippable(self.space):
            counts[block] += 1
        return counts

    def expected_ms(self, fixed_ms: float, mix: Vectors, depths: Depths, op_ms: Vectors) -> Tensor:
        run = [row[: len(ms)] for row, ms in zip(mix, op_ms, strict=True)]  # skip costs nothing
        return super().expected_ms(fixed_ms, run, depths, op_ms)

    def _places(self, alphas: Sequence[np.ndarray], betas: Vectors) -> Places:
        blocks = skippable(self.space)
        skips = {b: float(np.exp(alphas[b][-1])) for b in blocks}
        skipped = {b for b in blocks if np.argmax(alphas[b]) == len(self.space.blocks[b])}
        return _kept_first(self.space, skips, skipped)


class SeparatedSkip(Fixed):
    """Betas are of running and skipping each block that may be skipped."""

    supernet = GatedSupernet

    def betas(self) -> tuple[Tensor, ...]:
        return tuple(log_uniform(2) for _ in skippable(self.space))

    def depths(self, betas: Vectors) -> list[Depth]:
        gates: list[Depth] = [1] * len(self.space.blocks)
        for block, beta in zip(skippable(self.space), betas, strict=True):
            gates[block] = beta.softmax(0)
        return gates

    def expected_ms(self, fixed_ms: float, mix: Vectors, depths: Depths, op_ms: Vectors) -> Tensor:
        pairs = zip(depths, block_ms(mix, op_ms), strict=True)
        costs = [gate[0] * ms if isinstance(gate, Tensor) else ms for gate, ms in pairs]
        return net_ms(self.space, fixed_ms, costs, super().depths(()))

    def _places(self, alphas: Sequence[np.ndarray], betas: Vectors) -> Places:
        gates = zip(skippable(self.space), betas, strict=True)
        skips = {block: float(beta.detach().softmax(0)[1]) for block, beta in gates}
        return _kept_first(self.space, skips, {b for b, skip in skips.items() if skip > 0.5})


def _kept_first(space: SearchSpace, skips: dict[int, float], skipped: set[int]) -> Places:
    """The places of blocks of which some are skipped.

    Args:
        skips: probability that a block is skipped, for those that may be.
        skipped: those that the most probable choices skip.
    """
    order: list[int] = []
    depth_logs: list[np.ndarray] = []
    first = 0
    for stage in space.stages:
        blocks = range(first, first + len(stage.blocks))
        kept = [b for b in blocks if b not in skipped]
        order += [*kept, *(b for b in blocks if b in skipped)]
        kept_probs = np.ones(1)  # (d + 1,) probability that d of the blocks so far are kept
        for b in blocks:
            skip = skips.get(b, 0.0)
            kept_probs = np.append(0, kept_probs) * (1 - skip) + np.append(kept_probs, 0) * skip
        # The mode counts kept blocks; the most probable choice of each block does so too.
        wanted = np.maximum(kept_probs[stage.min_depth :], LEAST)
        argmax = max(len(kept), stage.min_depth) - stage.min_depth
        wanted[argmax] = max(wanted[argmax], wanted.max() * (1 + 1e-6))
        depth_logs.append(np.log(wanted / wanted.sum()))
        first += len(stage.blocks)
    return order, depth_logs


DEPTHS: dict[str, type[Fixed]] = {
    "sink": Sink,
    "skip_op": SkipOp,
    "separated_skip": SeparatedSkip,
    "fixed": Fixed,
}
"""Value of strategy.depth -> mode."""
