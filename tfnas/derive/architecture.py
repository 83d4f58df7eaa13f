"""What a search learned, what is asked of a net, and what derivation gives: plain data.

Names that others use are imported from `tfnas.derive.methods`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tfnas.costs.contract import Cost
from tfnas.latency.table import LatencyTable
from tfnas.space.search_space import SearchSpace
from tfnas.space.subnet import Subnet

ROUNDING = 1e-12  # of the target: sums of the same latencies in another order


@dataclass(frozen=True, eq=False)
class Architecture:
    """What the search learned.

    Attributes:
        alphas: for each block of `space.blocks`, (n_ops,) log-probabilities of its ops.
        betas: for each stage, (len(stage.depths),) log-probabilities of its depths.
        widths: for each block, the current mid width of every candidate op.
    """

    alphas: tuple[np.ndarray, ...]
    betas: tuple[np.ndarray, ...]
    widths: tuple[tuple[int, ...], ...]

    @classmethod
    def initial(cls, space: SearchSpace) -> Architecture:
        """Uniform probabilities and initial widths: where a search starts."""
        return cls(
            tuple(np.full(len(block), -np.log(len(block))) for block in space.blocks),
            tuple(np.full(len(s.depths), -np.log(len(s.depths))) for s in space.stages),
            tuple(tuple(choice.op.c_mid for choice in block) for block in space.blocks),
        )


@dataclass(frozen=True)
class Constraint:
    """What a net has to cost.

    Attributes:
        cost: of latencies the table, calibrated.
        target: of the whole net, in the unit of the cost.
        at_most: a lower cost is as good.
        tol: allowed distance from the target, as a fraction of it. Where `at_most` it only says
            how finely the solver tells costs apart.
        given: as a user gave it; None: as its cost says.
    """

    cost: Cost
    target: float
    at_most: bool = False
    tol: float = 5e-4
    given: str | None = None

    @property
    def is_latency(self) -> bool:
        return isinstance(self.cost, LatencyTable) and self.cost.unit == "ms"

    @property
    def table(self) -> LatencyTable:
        """The cost, if it is a latency table. Raises TypeError if it isn't."""
        if not isinstance(self.cost, LatencyTable):
            raise TypeError(f"{self} is no latency")
        return self.cost

    def __str__(self) -> str:
        return self.given or self.cost.asked(self.target)

    @property
    def window(self) -> tuple[float, float]:
        if self.at_most:
            return -np.inf, self.target
        return self.target * (1 - self.tol), self.target * (1 + self.tol)

    def met_by(self, cost: float) -> bool:
        low, high = self.window
        rounding = ROUNDING * self.target
        return low - rounding <= cost <= high + rounding

    def met_by_net(self, subnet: Subnet) -> bool:
        return self.met_by(self.cost.total(subnet))


@dataclass(frozen=True)
class Derived:
    """A derived subnet and what it cost.

    Attributes:
        depths: for each stage.
        picks, widths: index of the op and mid width of every block of the space, also of those
            that the depths cut off.
        costs: exact, of each constraint; the first one is a latency in a search.
        log_prob, argmax_log_prob: of ops and depths; a cut block counts with its most probable op.
        reached: every constraint is met.
        error_bounds: for each constraint; no choice that meets it with this much to spare has a
            higher log-probability, or the same ops and depths and nearer widths. 0 for exact.
        argmax_depths, argmax_picks: the most probable ones, before any constraint.
    """

    subnet: Subnet
    depths: tuple[int, ...]
    picks: tuple[int, ...]
    widths: tuple[int, ...]
    costs: tuple[float, ...]
    log_prob: float
    argmax_log_prob: float
    reached: bool
    error_bounds: tuple[float, ...]
    argmax_depths: tuple[int, ...]
    argmax_picks: tuple[int, ...]

    def given_up(self, space: SearchSpace) -> tuple[str, ...]:
        """A line for every block and stage that differs from the most probable choice."""
        lines, first = [], 0
        for number, stage in enumerate(space.stages, 1):
            depth, wanted = self.depths[number - 1], self.argmax_depths[number - 1]
            if depth != wanted:
                lines.append(f"stage {number}: depth {depth} instead of {wanted}")
            for index, block in enumerate(stage.blocks[:depth]):
                pick, best = self.picks[first + index], self.argmax_picks[first + index]
                if pick != best:
                    lines.append(
                        f"stage {number} block {index + 1}: "
                        f"{block[pick].name} instead of {block[best].name}"
                    )
            first += len(stage.blocks)
        if lines:
            lost = self.argmax_log_prob - self.log_prob
            lines.append(f"log-probability {self.log_prob:.3f}, {lost:.3f} below the argmax")
        return tuple(lines)


def argmax(space: SearchSpace, arch: Architecture) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The most probable depth of every stage and op of every block; the first one of equals."""
    pairs = zip(space.stages, arch.betas, strict=True)
    depths = tuple(stage.depths[int(np.argmax(beta))] for stage, beta in pairs)
    return depths, tuple(int(np.argmax(alpha)) for alpha in arch.alphas)


def expected_depths(space: SearchSpace, arch: Architecture) -> tuple[float, ...]:
    """The mean number of blocks of each stage, by the probabilities of its depths."""
    pairs = zip(space.stages, arch.betas, strict=True)
    return tuple(float(np.exp(beta) @ np.array(stage.depths)) for stage, beta in pairs)


def picked_widths(arch: Architecture, picks: Sequence[int]) -> tuple[int, ...]:
    return tuple(widths[pick] for widths, pick in zip(arch.widths, picks, strict=True))


def log_prob(
    space: SearchSpace,
    arch: Architecture,
    depths: Sequence[int],
    picks: Sequence[int],
) -> float:
    ops = sum(float(alpha[pick]) for alpha, pick in zip(arch.alphas, picks, strict=True))
    triples = zip(space.stages, arch.betas, depths, strict=True)
    return ops + sum(float(beta[depth - stage.min_depth]) for stage, beta, depth in triples)
